// What /proc says: the shape of its files, links and numbers; namespaces, mappings, descriptors, names that are no names.
#include "check.h"
#include <ctype.h>
#include <dirent.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/timerfd.h>

static char text[1 << 16];

// Reads a whole file; says what went wrong.
static int slurp(const char *path) {
    int fd = open(path, O_RDONLY), length = 0, got = 0;
    text[0] = 0;
    if (fd < 0) {
        printf("%s: %s\n", path, check_error(errno));
        return -1;
    }
    while (length < sizeof text - 1 && (got = read(fd, text + length, sizeof text - 1 - length)) > 0) length += got;
    text[length] = 0;
    if (got < 0) printf("%s: read %s\n", path, check_error(errno));
    close(fd);
    return length;
}

// Prints a file with every number as N and runs of blanks as one: its shape.
static void shape(const char *path, int lines) {
    if (slurp(path) < 0) return;
    printf("-- %s\n", path);
    for (char *at = text; *at && lines > 0; at++) {
        if (isxdigit((unsigned char)*at) && isdigit((unsigned char)*at)) {
            while (isxdigit((unsigned char)at[1]) || at[1] == '.') at++;
            putchar('N');
        } else if (*at == ' ' || *at == '\t') {
            while (at[1] == ' ' || at[1] == '\t') at++;
            putchar(' ');
        } else {
            putchar(*at);
            if (*at == '\n') lines--;
        }
    }
}

static void keys(const char *path) {
    if (slurp(path) < 0) return;
    printf("-- keys of %s\n", path);
    for (char *line = strtok(text, "\n"); line; line = strtok(0, "\n"))
        if (!strchr(line, '[')) printf("%.*s\n", (int)strcspn(line, ":-"), line);
}

static void field(const char *path, const char *key) {
    if (slurp(path) < 0) return;
    size_t length = strlen(key);
    for (char *line = strtok(text, "\n"); line; line = strtok(0, "\n"))
        if (!strncmp(line, key, length) && line[length] == ':') printf("%s\n", line);
}

static void *sleeper(void *unused) {
    prctl(PR_SET_NAME, "second");
    pause();
    return 0;
}

static void fdinfo(int fd) {
    char path[64];
    sprintf(path, "/proc/self/fdinfo/%d", fd);
    if (slurp(path) < 0) return;
    for (char *line = strtok(text, "\n"); line; line = strtok(0, "\n"))
        if (strncmp(line, "ino", 3) && strncmp(line, "mnt_id", 6) && strncmp(line, "eventfd-id", 10) && strncmp(line, "tfd", 3)) printf("%s\n", line);
        else printf("%.*s\n", (int)strcspn(line, ":"), line);
}

int main(int argc, char **argv) {
    char path[128], link[256];
    SECTION("shapes");
    shape("/proc/self/limits", 1);
    keys("/proc/self/status");
    shape("/proc/self/statm", 9);
    shape("/proc/self/schedstat", 9);
    shape("/proc/self/io", 4);
    shape("/proc/self/oom_score", 1);
    shape("/proc/self/sessionid", 1);
    shape("/proc/self/uid_map", 1);
    shape("/proc/self/setgroups", 1);
    shape("/proc/self/timerslack_ns", 1);
    shape("/proc/self/coredump_filter", 1);
    shape("/proc/uptime", 1);
    shape("/proc/loadavg", 1);
    shape("/proc/swaps", 1);
    shape("/proc/net/dev", 2);
    shape("/proc/net/tcp", 1);
    shape("/proc/net/unix", 1);
    shape("/proc/sys/kernel/ostype", 1);
    shape("/proc/sys/kernel/random/uuid", 0);
    shape("/proc/sys/kernel/ngroups_max", 1);
    shape("/proc/sys/net/ipv4/ip_local_port_range", 1);
    keys("/proc/self/smaps_rollup");
    SECTION("own status");
    static const char *fields[] = {"Name", "Umask", "State", "TracerPid", "Uid", "Gid", "Groups", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn",
        "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"};
    umask(027);
    signal(SIGUSR1, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, 0);
    raise(SIGUSR2);
    prctl(PR_SET_NAME, "a \\ name");
    gid_t groups[2] = {7, 9};
    CHILD({
        setgroups(2, groups);
        setresgid(1, 2, 3);
        setresuid(0, 5, 6);
        for (int i = 0; i < sizeof fields / sizeof *fields; i++) field("/proc/self/status", fields[i]);
    });
    for (int i = 0; i < sizeof fields / sizeof *fields; i++) field("/proc/self/status", fields[i]);
    SECTION("stat");
    slurp("/proc/self/stat");
    char *after = strrchr(text, ')'), state;
    int ppid, group, session;
    printf("%.*s\n", (int)(strchr(text, ')') + 1 - strchr(text, '(')), strchr(text, '('));
    sscanf(after + 2, "%c %d %d %d", &state, &ppid, &group, &session);
    printf("%c\n", state);
    IS(atoi(text) == getpid());
    IS(ppid == getppid());
    IS(group == getpgrp());
    IS(session == getsid(0));
    int count = 0;
    for (char *at = text; *at; at++) count += *at == ' ';
    IS(count >= 52);
    SECTION("links");
    sprintf(path, "/proc/%d", getpid());
    T(readlink("/proc/self", link, sizeof link) > 0);
    IS(atoi(link) == getpid());
    memset(link, 0, sizeof link);
    readlink("/proc/thread-self", link, sizeof link);
    IS(strstr(link, "/task/") != 0);
    static const char *names[] = {"/proc/self/cwd", "/proc/self/root", "/proc/mounts", "/proc/net", "/proc/self/exe"};
    for (int i = 0; i < sizeof names / sizeof *names; i++) {
        memset(link, 0, sizeof link);
        int got = readlink(names[i], link, sizeof link);
        printf("%s -> %s\n", names[i], got < 0 ? check_error(errno) : link);
    }
    int opened = open("/proc/self/exe", O_RDONLY);
    OK(opened);
    T(open("/proc/self/exe", O_RDONLY | O_NOFOLLOW));
    T(readlink("/proc/self/exe", link, 3));
    T(readlink("/proc/self/status", link, sizeof link));
    T(open("/proc/self/status/x", O_RDONLY));
    T(open("/proc/self/nothing", O_RDONLY));
    T(open("/proc/0", O_RDONLY));
    T(open("/proc/01", O_RDONLY));
    T(open("/proc/-1", O_RDONLY));
    T(open("/proc/4194305", O_RDONLY));
    T(open("/proc/self/fd/99", O_RDONLY));
    T(open("/proc/self/fd/00", O_RDONLY));
    T(open("/proc/self/fd/x", O_RDONLY));
    T(open("/proc/self/new", O_RDWR | O_CREAT, 0600));
    T(mkdir("/proc/new", 0700));
    T(unlink("/proc/self/status"));
    T(rmdir("/proc/self/task"));
    T(rename("/proc/self/status", "/proc/self/other"));
    T(symlink("x", "/proc/self/x"));
    T(chmod("/proc/self/status", 0777));
    T(chown("/proc/self/status", 1, 1));
    T(truncate("/proc/self/status", 0));
    T(open("/proc/self/status", O_RDONLY | O_DIRECTORY));
    T(open("/proc/self/fd", O_WRONLY));
    struct statfs fs;
    T(statfs("/proc/self/status", &fs));
    T(fs.f_type);
    T(fs.f_bsize);
    T(statfs("/sys/kernel", &fs));
    T(fs.f_type);
    T(statfs("/proc/self/ns/pid", &fs));
    T(fs.f_type);
    SECTION("reading");
    int fd = open("/proc/self/comm", O_RDONLY);
    char byte[4] = "";
    T(read(fd, byte, 1));
    T(read(fd, byte + 1, 1));
    printf("%s\n", byte);
    T(lseek(fd, 0, SEEK_SET));
    T(lseek(fd, 3, SEEK_CUR));
    T(pread(fd, byte, 2, 0));
    T(pread(fd, byte, 2, 1000));
    T(read(fd, (void *)8, 1));
    T(write(fd, "x", 1));
    T(ftruncate(fd, 0));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED);
    T(ioctl(fd, FIONREAD, &count));
    close(fd);
    SECTION("threads");
    pthread_t thread;
    pthread_create(&thread, 0, sleeper, 0);
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *entry;
    int other = 0;
    for (int tries = 0; tries < 100; tries++) {
        rewinddir(tasks);
        while ((entry = readdir(tasks)))
            if (isdigit((unsigned char)entry->d_name[0]) && atoi(entry->d_name) != getpid()) other = atoi(entry->d_name);
        sprintf(path, "/proc/self/task/%d/comm", other);
        if (other && slurp(path) > 0 && !strcmp(text, "second\n")) break;
        usleep(10000);
    }
    IS(other != 0);
    slurp(path);
    printf("%s", text);
    slurp("/proc/self/comm");
    printf("%s", text);
    sprintf(path, "/proc/self/task/%d/status", other);
    field(path, "Name");
    field(path, "Threads");
    sprintf(path, "/proc/%d/status", other);
    field(path, "Name");
    sprintf(path, "/proc/%d/comm", other);
    slurp(path);
    printf("%s", text);
    field("/proc/self/status", "Threads");
    SECTION("descriptors");
    int event = eventfd(5, EFD_SEMAPHORE | EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), set_ = epoll_create1(0), pair[2];
    pipe2(pair, O_NONBLOCK | O_CLOEXEC);
    struct epoll_event wanted = {EPOLLIN, {.u64 = 7}};
    epoll_ctl(set_, EPOLL_CTL_ADD, event, &wanted);
    int file = open("/etc/passwd", O_RDONLY | O_CLOEXEC), only = open("/etc", O_PATH);
    lseek(file, 11, SEEK_SET);
    int every[] = {event, timer, set_, pair[0], pair[1], file, only};
    for (int i = 0; i < sizeof every / sizeof *every; i++) {
        struct stat s;
        fdinfo(every[i]);
        sprintf(path, "/proc/self/fd/%d", every[i]);
        memset(link, 0, sizeof link);
        readlink(path, link, sizeof link);
        lstat(path, &s);
        printf("%.*s %o %ld\n", (int)strcspn(link, ":"), link, s.st_mode, (long)s.st_size);
    }
    sprintf(path, "/proc/self/fd/%d", pair[0]);
    OK(open(path, O_RDONLY | O_NONBLOCK));
    sprintf(path, "/proc/self/fd/%d", event);
    T(open(path, O_RDWR));
    sprintf(path, "/proc/self/fd/%d", only);
    OK(open(path, O_RDONLY));
    SECTION("closing while reading");
    for (int i = 200; i < 260; i++) dup2(event, i);
    DIR *fds = opendir("/proc/self/fd");
    char entries[256];
    long got, seen = 0;
    // Small pieces, so that descriptors are closed between two of them.
    while ((got = syscall(SYS_getdents64, dirfd(fds), entries, sizeof entries)) > 0)
        for (long at = 0; at < got; at += *(unsigned short *)(entries + at + 16)) {
            int number = atoi(entries + at + 19);
            if (number >= 200 && number < 260) seen += close(number) == 0;
        }
    T(seen);
    closedir(fds);
    SECTION("clocks");
    struct timespec time_;
    clockid_t clock_;
    T(clock_getcpuclockid(0, &clock_));
    T(clock_gettime(clock_, &time_));
    T(clock_getcpuclockid(getppid(), &clock_) == 0 || 1);
    T(pthread_getcpuclockid(thread, &clock_));
    T(clock_gettime(clock_, &time_));
    T(clock_getres(clock_, &time_));
    T(clock_gettime(~3 << 3 | 3, &time_));
    T(clock_gettime(99, &time_));
    SECTION("mappings");
    static const char *wanted_names[] = {"[heap]", "[stack]", "[vdso]", "/conformance/proc_files", "/etc/passwd", "/memfd:a name (deleted)", "/dev/zero (deleted)"};
    mmap(0, 4096, PROT_READ, MAP_PRIVATE, file, 0);
    int memory = syscall(SYS_memfd_create, "a name", 0);
    ftruncate(memory, 4096);
    mmap(0, 4096, PROT_READ, MAP_SHARED, memory, 0);
    mmap(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    malloc(1);
    slurp("/proc/self/maps");
    for (int i = 0; i < sizeof wanted_names / sizeof *wanted_names; i++) printf("%s: %s\n", wanted_names[i], strstr(text, wanted_names[i]) ? "yes" : "no");
    struct stat s;
    stat("/etc/passwd", &s);
    char *line = strstr(text, "/etc/passwd");
    unsigned major_, minor_;
    unsigned long inode;
    while (line > text && line[-1] != '\n') line--;
    sscanf(line, "%*s %*s %*s %x:%x %lu", &major_, &minor_, &inode);
    IS(inode == s.st_ino);
    IS(major_ == (s.st_dev >> 8 & 0xfff) && minor_ == (s.st_dev & 0xff));
    SECTION("namespaces");
    static const char *kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"};
    for (int i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct stat one, two;
        sprintf(path, "/proc/self/ns/%s", kinds[i]);
        memset(link, 0, sizeof link);
        readlink(path, link, sizeof link);
        printf("%.*s ", (int)strcspn(link, ":"), link);
        IS(stat(path, &one) == 0 && one.st_ino == strtoul(strchr(link, '[') + 1, 0, 10));
        printf("%o %d\n", one.st_mode, (int)one.st_nlink);
        int ns = open(path, O_RDONLY);
        T(ioctl(ns, 0xb703));
        T(read(ns, link, 1));
        OK(ioctl(ns, 0xb701));
        CHILD(IS(stat(path, &two) == 0 && two.st_ino == one.st_ino));
    }
    return 0;
}
