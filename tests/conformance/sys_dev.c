// /sys and /dev: what there is, what it says it is, what happens to who opens, writes and maps it.
#include "check.h"
#include <dirent.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

static void is(const char *path) {
    struct stat s;
    char link[256] = "";
    if (lstat(path, &s) < 0) {
        printf("%s: %s\n", path, check_error(errno));
        return;
    }
    if (S_ISLNK(s.st_mode)) readlink(path, link, sizeof link - 1);
    printf("%s: %o %d:%d %u:%u %s\n", path, s.st_mode, s.st_uid, s.st_gid, major(s.st_rdev), minor(s.st_rdev), link);
}

static void says(const char *path) {
    char text[4096];
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        printf("%s: %s\n", path, check_error(errno));
        return;
    }
    int got = read(fd, text, sizeof text - 1);
    text[got < 0 ? 0 : got] = 0;
    printf("%s: %s", path, got < 0 ? check_error(errno) : text);
    if (got <= 0 || text[got - 1] != '\n') printf("\n");
    close(fd);
}

int main(void) {
    char buffer[4096], zeroes[4096] = "";
    SECTION("devices");
    static const char *devices[] = {"/dev", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/fd", "/dev/stdin",
        "/dev/stdout", "/dev/stderr", "/dev/pts", "/dev/pts/ptmx", "/dev/shm", "/dev/console", "/dev/kmsg", "/dev/mem", "/dev/kvm", "/dev/core", "/dev/fuse", "/dev/loop0"};
    for (int i = 0; i < sizeof devices / sizeof *devices; i++) is(devices[i]);
    static const char *files[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/urandom"};
    for (int i = 0; i < sizeof files / sizeof *files; i++) {
        int fd = open(files[i], O_RDWR);
        printf("-- %s\n", files[i]);
        memset(buffer, 7, sizeof buffer);
        T(read(fd, buffer, sizeof buffer));
        IS(memcmp(buffer, zeroes, sizeof buffer) == 0);
        T(write(fd, "abc", 3));
        T(write(fd, "", 0));
        T(write(fd, (void *)8, 3));
        T(read(fd, (void *)8, 3));
        T(lseek(fd, 10, SEEK_SET));
        T(lseek(fd, 10, SEEK_CUR));
        T(lseek(fd, 0, SEEK_END));
        T(pread(fd, buffer, 1, 5));
        T(ftruncate(fd, 0));
        T(fsync(fd));
        T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED);
        T(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
        close(fd);
    }
    T(open("/dev/null", O_RDONLY | O_DIRECTORY));
    OK(open("/dev/null", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600));
    T(open("/dev/null", O_WRONLY | O_CREAT | O_EXCL, 0600));
    T(open("/dev/tty", O_RDWR));
    T(open("/dev/null/x", O_RDONLY));
    T(mknod("/tmp/null", S_IFCHR | 0666, makedev(1, 3)));
    OK(open("/tmp/null", O_RDWR));
    T(mknod("/tmp/nothing", S_IFCHR | 0666, makedev(250, 250)));
    T(open("/tmp/nothing", O_RDWR));
    unlink("/tmp/null");
    unlink("/tmp/nothing");
    SECTION("/sys");
    static const char *names[] = {"/sys", "/sys/block", "/sys/bus", "/sys/class", "/sys/class/net", "/sys/class/net/lo", "/sys/dev", "/sys/devices",
        "/sys/devices/system", "/sys/devices/system/cpu", "/sys/devices/system/cpu/cpu0", "/sys/devices/system/cpu/cpu0/topology", "/sys/devices/system/cpu/online",
        "/sys/devices/system/node", "/sys/devices/system/node/node0", "/sys/devices/virtual/net/lo", "/sys/devices/virtual/net/lo/mtu", "/sys/fs", "/sys/fs/cgroup",
        "/sys/kernel", "/sys/kernel/mm", "/sys/kernel/mm/transparent_hugepage", "/sys/nothing"};
    for (int i = 0; i < sizeof names / sizeof *names; i++) {
        struct stat s;
        if (lstat(names[i], &s) < 0) printf("%s: %s\n", names[i], check_error(errno));
        else printf("%s: %o\n", names[i], s.st_mode & S_IFMT);
    }
    static const char *texts[] = {"/sys/devices/system/cpu/online", "/sys/devices/system/cpu/possible", "/sys/devices/system/cpu/present",
        "/sys/devices/system/cpu/kernel_max", "/sys/devices/system/cpu/cpu0/topology/core_id", "/sys/devices/system/cpu/cpu0/topology/physical_package_id",
        "/sys/devices/system/cpu/cpu0/topology/thread_siblings", "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
        "/sys/devices/system/cpu/cpu0/topology/core_siblings", "/sys/devices/system/cpu/cpu0/topology/core_siblings_list",
        "/sys/devices/system/cpu/cpu0/topology/core_cpus_list", "/sys/devices/system/cpu/cpu0/topology/package_cpus_list", "/sys/class/net/lo/address",
        "/sys/class/net/lo/mtu", "/sys/class/net/lo/ifindex", "/sys/class/net/lo/type", "/sys/class/net/lo/operstate", "/sys/class/net/lo/flags",
        "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "/sys/class/net", "/sys/firmware/x"};
    for (int i = 0; i < sizeof texts / sizeof *texts; i++) says(texts[i]);
    T(open("/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY));
    T(open("/sys/new", O_WRONLY | O_CREAT, 0600));
    T(mkdir("/sys/new", 0700));
    T(unlink("/sys/devices/system/cpu/online"));
    T(chmod("/sys/devices/system/cpu/online", 0600));
    struct statfs fs;
    T(statfs("/sys", &fs));
    T(fs.f_type);
    IS(fs.f_flags & ST_RDONLY);
    T(fs.f_flags & (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_RELATIME));
    T(statfs("/dev", &fs));
    T(fs.f_type);
    T(fs.f_flags & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_RELATIME));
    T(fs.f_blocks * fs.f_bsize);
    SECTION("masked and read-only");
    static const char *hidden[] = {"/proc/sysrq-trigger", "/proc/sys/kernel/panic", "/proc/sys/kernel/core_pattern"};
    for (int i = 0; i < sizeof hidden / sizeof *hidden; i++) {
        int fd = open(hidden[i], O_WRONLY);
        // What there is not need not be masked.
        printf("%s: %s\n", hidden[i], fd < 0 ? "not to be written" : "open");
    }
    int fd = open("/proc/kcore", O_RDONLY);
    IS(fd < 0 || read(fd, buffer, 1) == 0);
    DIR *firmware = opendir("/sys/firmware");
    int count = 0;
    while (firmware && readdir(firmware)) count++;
    T(count);
    T(mkdir("/sys/firmware/x", 0700));
    T(rmdir("/sys/firmware"));
    return 0;
}
