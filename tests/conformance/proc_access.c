// Who may look into a process: owners and modes in /proc/PID, links, memory maps; other users, processes that are not dumpable.
#include "check.h"
#include <dirent.h>
#include <sys/prctl.h>

static pid_t target;

static const char *in(const char *name) {
    static char path[64];
    sprintf(path, "/proc/%d/%s", target, name);
    return path;
}

static void look(const char *name) {
    char buffer[256];
    int fd = open(in(name), O_RDONLY);
    if (fd < 0) {
        printf("%s: open %s\n", name, check_error(errno));
        return;
    }
    int got = read(fd, buffer, sizeof buffer);
    if (got < 0) printf("%s: read %s\n", name, check_error(errno));
    else printf("%s: %s\n", name, got ? "bytes" : "nothing");
    close(fd);
}

static void follow(const char *name) {
    char buffer[256];
    int got = readlink(in(name), buffer, sizeof buffer);
    struct stat s;
    printf("%s: readlink %s", name, got < 0 ? check_error(errno) : "ok");
    printf(", stat %s\n", stat(in(name), &s) < 0 ? check_error(errno) : "ok");
}

static void entries(const char *name) {
    DIR *directory = opendir(in(name));
    if (!directory) {
        printf("%s: opendir %s\n", name, check_error(errno));
        return;
    }
    errno = 0;
    struct dirent *entry = readdir(directory);
    printf("%s: %s\n", name, entry ? "entries" : errno ? check_error(errno) : "empty");
    closedir(directory);
}

static void owner(const char *name) {
    struct stat s;
    if (lstat(in(name), &s) < 0) printf("%s: lstat %s\n", name, check_error(errno));
    else printf("%s: %o %d:%d size %ld\n", name, s.st_mode, s.st_uid, s.st_gid, (long)s.st_size);
}

static void all(void) {
    static const char *files[] = {"status", "stat", "statm", "cmdline", "comm", "environ", "auxv", "maps", "smaps", "smaps_rollup", "numa_maps",
        "io", "limits", "mounts", "mountinfo", "mountstats", "oom_score", "oom_score_adj", "oom_adj", "loginuid", "sessionid", "cgroup", "uid_map",
        "gid_map", "setgroups", "personality", "schedstat", "wchan", "timerslack_ns", "coredump_filter", "cpuset", "net/dev", "nothing"};
    for (int i = 0; i < sizeof files / sizeof *files; i++) look(files[i]);
    static const char *links[] = {"exe", "cwd", "root", "fd/0", "ns/pid", "ns/mnt", "task"};
    for (int i = 0; i < sizeof links / sizeof *links; i++) follow(links[i]);
    static const char *directories[] = {"", "fd", "fdinfo", "ns", "task", "net"};
    for (int i = 0; i < sizeof directories / sizeof *directories; i++) entries(directories[i]);
}

static void as(int uid, int gid) {
    if (setgroups(0, 0) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid)) perror("identity");
}

static void change(const char *name, const char *text) {
    int fd = open(in(name), O_WRONLY | O_TRUNC);
    if (fd < 0) {
        printf("%s: open for writing %s\n", name, check_error(errno));
        return;
    }
    int put = write(fd, text, strlen(text));
    printf("%s <- \"%s\": %s\n", name, text, put < 0 ? check_error(errno) : "ok");
    close(fd);
}

int main(void) {
    int hold[2], ready[2];
    char byte;
    pipe(hold);
    pipe(ready);
    fcntl(0, F_SETFD, 0);
    SECTION("own files");
    target = getpid();
    static const char *names[] = {"", "status", "stat", "cmdline", "comm", "environ", "auxv", "maps", "exe", "cwd", "root", "fdinfo", "ns", "ns/pid", "task",
        "io", "limits", "mountstats", "oom_score", "oom_score_adj", "loginuid", "sessionid", "uid_map", "setgroups", "timerslack_ns", "coredump_filter", "net",
        "personality", "smaps", "numa_maps", "wchan", "fd/0", "fd/1", "fdinfo/0"};
    for (int i = 0; i < sizeof names / sizeof *names; i++) owner(names[i]);
    SECTION("own files, not dumpable");
    prctl(PR_SET_DUMPABLE, 0);
    all();
    owner("");
    owner("status");
    owner("fd");
    prctl(PR_SET_DUMPABLE, 1);
    SECTION("own files, another user");
    CHILD({
        as(1234, 1234);
        target = getpid();
        T(prctl(PR_GET_DUMPABLE));
        owner("");
        owner("status");
        owner("fd");
        all();
        prctl(PR_SET_DUMPABLE, 1);
        owner("status");
    });
    SECTION("another's");
    pid_t other = fork();
    if (other == 0) {
        as(1234, 1234);
        prctl(PR_SET_DUMPABLE, 1);
        write(ready[1], "x", 1);
        read(hold[0], &byte, 1);
        _exit(0);
    }
    read(ready[0], &byte, 1);
    target = other;
    printf("-- by root without CAP_SYS_PTRACE\n");
    all();
    owner("");
    owner("environ");
    change("oom_score_adj", "1000");
    change("comm", "other");
    printf("-- by its own user\n");
    CHILD({
        as(1234, 1234);
        prctl(PR_SET_DUMPABLE, 1);
        all();
        change("comm", "other");
        change("oom_score_adj", "1000");
        change("timerslack_ns", "1");
    });
    printf("-- by another user\n");
    CHILD({
        as(4321, 4321);
        all();
        change("comm", "other");
        change("oom_score_adj", "1000");
        change("timerslack_ns", "1");
        change("loginuid", "0");
    });
    printf("-- a user looks at root's\n");
    target = getpid();
    CHILD({
        as(4321, 4321);
        all();
    });
    write(hold[1], "x", 1);
    SECTION("a zombie");
    target = other;
    siginfo_t info;
    waitid(P_PID, other, &info, WEXITED | WNOWAIT);
    static const char *left[] = {"status", "stat", "statm", "cmdline", "comm", "wchan"};
    for (int i = 0; i < sizeof left / sizeof *left; i++) look(left[i]);
    owner("");
    waitpid(other, 0, 0);
    look("status");
    SECTION("writing");
    target = getpid();
    static const char *read_only[] = {"status", "stat", "cmdline", "maps", "limits", "mounts", "cgroup", "io"};
    for (int i = 0; i < sizeof read_only / sizeof *read_only; i++) change(read_only[i], "x");
    change("uid_map", "0 0 1");
    change("setgroups", "deny");
    change("oom_score_adj", "1001");
    change("oom_score_adj", "x");
    change("oom_score_adj", "1000\n");
    change("oom_score_adj", "-1000");
    change("timerslack_ns", "50000");
    change("coredump_filter", "0x3");
    change("comm", "a name");
    look("comm");
    change("comm", "one that is much too long");
    char name[64] = "";
    int fd = open(in("comm"), O_RDONLY);
    read(fd, name, sizeof name);
    printf("%s", name);
    prctl(PR_GET_NAME, name);
    printf("%s\n", name);
    change("comm", "line\nfeed");
    return 0;
}
