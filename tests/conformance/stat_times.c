// stat(2), statx(2) and the times of files: what changes which, utimensat(2) and its older kin.
#include "places.h"
#include <linux/stat.h>
#include <sys/time.h>
#include <utime.h>

static struct timespec pairs[2];
static struct stat before, after;

static int later(struct timespec a, struct timespec b) {
    return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

// Prints which times of `path` the statement changes. Times are coarse, so it waits first.
#define CHANGES(path, statement) \
    do { \
        lstat(path, &before); \
        usleep(20000); \
        errno = 0; \
        long check_value = (long)(statement); \
        int check_errno = errno; \
        lstat(path, &after); \
        printf("%s = %ld %s:%s%s\n", #statement, check_value < 0 ? -1 : check_value > 2 ? 3 : check_value, check_value == -1 ? check_error(check_errno) : "", \
               later(after.st_mtim, before.st_mtim) ? " modified" : "", later(after.st_ctim, before.st_ctim) ? " changed" : ""); \
    } while (0)

static void show_times(const char *path) {
    struct stat s;
    lstat(path, &s);
    time_t now = time(0);
    struct timespec times[2] = {s.st_atim, s.st_mtim};
    for (int i = 0; i < 2; i++) {
        if (times[i].tv_sec > now - 1000 && times[i].tv_sec < now + 1000) printf(i ? " modified now" : "accessed now,");
        else printf(i ? " modified %ld.%09ld" : "accessed %ld.%09ld,", (long)times[i].tv_sec, times[i].tv_nsec);
    }
    printf("\n");
}

static long set(const char *path, long a, long an, long m, long mn, int flags) {
    pairs[0] = (struct timespec){a, an};
    pairs[1] = (struct timespec){m, mn};
    return syscall(SYS_utimensat, AT_FDCWD, path, pairs, flags);
}

static void suite(void) {
    int fd;
    struct stat s, t;
    make_file("file", "some text");
    T(symlink("file", "link"));
    T(mkdir("dir", 0755));
    SECTION("stat");
    T(stat("file", &s));
    printf("mode %o, links %ld, size %ld, block size %ld, blocks %ld\n", s.st_mode, (long)s.st_nlink, (long)s.st_size, (long)s.st_blksize, (long)s.st_blocks);
    T(lstat("link", &s));
    printf("mode %o, links %ld, size %ld, blocks %ld\n", s.st_mode, (long)s.st_nlink, (long)s.st_size, (long)s.st_blocks);
    T(stat("dir", &s));
    printf("mode %o\n", s.st_mode);
    T(stat("/dev/null", &s));
    printf("mode %o, device %lx, size %ld\n", s.st_mode, (long)s.st_rdev, (long)s.st_size);
    KEEP(fd, open("file", O_RDONLY));
    T(fstat(fd, &s));
    T(stat("file", &t));
    IS(!memcmp(&s, &t, sizeof s));
    T(fstatat(fd, "", &t, AT_EMPTY_PATH));
    IS(!memcmp(&s, &t, sizeof s));
    T(fstat(fd, (void *)8));
    T(fstat(fd, 0));
    T(fstat(-1, &s));
    T(fstat(999, &s));
    close(fd);
    SECTION("statx");
    struct statx x;
    memset(&x, 0xee, sizeof x);
    T(syscall(SYS_statx, AT_FDCWD, "file", 0, STATX_BASIC_STATS, &x));
    IS((x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
    printf("mode %o, links %d, size %ld, owner %d:%d\n", x.stx_mode, x.stx_nlink, (long)x.stx_size, x.stx_uid, x.stx_gid);
    IS(x.stx_ino == s.st_ino);
    T(x.stx_rdev_major);
    T(syscall(SYS_statx, AT_FDCWD, "file", 0, 0, &x));
    T(syscall(SYS_statx, AT_FDCWD, "file", 0, STATX_BTIME, &x));
    IS(x.stx_mask & STATX_BTIME);
    T(syscall(SYS_statx, AT_FDCWD, "file", 0, STATX_ALL, &x));
    T(syscall(SYS_statx, AT_FDCWD, "file", 0, 0x7fffffff, &x));
    T(syscall(SYS_statx, AT_FDCWD, "file", 0, 0x80000000, &x));
    T(syscall(SYS_statx, AT_FDCWD, "file", 0x1, 0, &x));
    T(syscall(SYS_statx, AT_FDCWD, "file", 0x2000, 0, &x));
    T(syscall(SYS_statx, AT_FDCWD, "file", 0x4000, 0, &x));
    T(syscall(SYS_statx, AT_FDCWD, "file", 0x6000, 0, &x));
    T(syscall(SYS_statx, AT_FDCWD, "file", AT_NO_AUTOMOUNT, 0, &x));
    T(syscall(SYS_statx, AT_FDCWD, "link", AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &x));
    printf("mode %o\n", x.stx_mode);
    T(syscall(SYS_statx, AT_FDCWD, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x));
    printf("mode %o\n", x.stx_mode);
    T(syscall(SYS_statx, AT_FDCWD, 0, AT_EMPTY_PATH, STATX_BASIC_STATS, &x));
    T(syscall(SYS_statx, AT_FDCWD, 0, 0, STATX_BASIC_STATS, &x));
    T(syscall(SYS_statx, AT_FDCWD, "", 0, STATX_BASIC_STATS, &x));
    T(syscall(SYS_statx, -1, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x));
    T(syscall(SYS_statx, AT_FDCWD, "file", 0, STATX_BASIC_STATS, 8));
    T(syscall(SYS_statx, AT_FDCWD, "none", 0, STATX_BASIC_STATS, 8));
    T(syscall(SYS_statx, AT_FDCWD, "none", 0, 0x80000000, 8));
    T(syscall(SYS_statx, AT_FDCWD, "/dev/null", 0, STATX_BASIC_STATS, &x));
    printf("device %d:%d\n", x.stx_rdev_major, x.stx_rdev_minor);
    T(syscall(SYS_statx, AT_FDCWD, "dir", 0, STATX_MNT_ID, &x));
    IS(x.stx_mask & STATX_MNT_ID);
    IS(x.stx_attributes_mask & 0x2000 /* STATX_ATTR_MOUNT_ROOT */);
    IS(x.stx_attributes & 0x2000);
    T(syscall(SYS_statx, AT_FDCWD, "/dev/shm", 0, STATX_MNT_ID, &x));
    IS(x.stx_attributes & 0x2000);
    SECTION("what changes times");
    char byte;
    KEEP(fd, open("file", O_RDWR));
    CHANGES("file", write(fd, "x", 1));
    CHANGES("file", write(fd, "x", 0));
    CHANGES("file", read(fd, &byte, 1));
    CHANGES("file", pwrite(fd, "x", 1, 100));
    CHANGES("file", ftruncate(fd, 50));
    CHANGES("file", ftruncate(fd, 50));
    CHANGES("file", truncate("file", 50));
    CHANGES("file", truncate("file", 60));
    CHANGES("file", fallocate(fd, 0, 0, 200));
    CHANGES("file", fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 300));
    CHANGES("file", fchmod(fd, 0600));
    CHANGES("file", fchmod(fd, 0600));
    CHANGES("file", fchown(fd, -1, -1));
    CHANGES("file", fchown(fd, 0, 0));
    CHANGES("file", link("file", "file-2"));
    CHANGES("file", unlink("file-2"));
    CHANGES("file", rename("file", "file-3"));
    CHANGES("file", rename("file-3", "file"));
    CHANGES("file", open("file", O_RDONLY));
    CHANGES("file", open("file", O_RDWR | O_TRUNC));
    CHANGES("file", open("file", O_RDWR | O_TRUNC));
    CHANGES("file", open("file", O_RDWR | O_CREAT, 0644));
    CHANGES("file", utimensat(AT_FDCWD, "file", 0, 0));
    CHANGES("file", set("file", 0, UTIME_OMIT, 0, UTIME_OMIT, 0));
    CHANGES("file", set("file", 0, UTIME_NOW, 0, UTIME_OMIT, 0));
    CHANGES("file", set("file", 0, UTIME_OMIT, 0, UTIME_NOW, 0));
    close(fd);
    CHANGES("dir", open("dir/new", O_CREAT | O_RDWR, 0644));
    CHANGES("dir", open("dir/new", O_CREAT | O_RDWR, 0644));
    CHANGES("dir", chmod("dir/new", 0600));
    CHANGES("dir", rename("dir/new", "dir/other"));
    CHANGES("dir", link("dir/other", "dir/more"));
    CHANGES("dir", symlink("x", "dir/link"));
    CHANGES("dir", mkdir("dir/sub", 0755));
    CHANGES("dir", mkdir("dir/sub", 0755));
    CHANGES("dir", mkdir("dir/sub/below", 0755));
    CHANGES("dir", rmdir("dir/sub/below"));
    CHANGES("dir/sub", rename("dir/sub", "dir/sub2"));
    CHANGES("dir", rmdir("dir/sub2"));
    CHANGES("dir", rename("dir/other", "moved"));
    CHANGES("dir", mkfifo("dir/fifo", 0644));
    CHANGES("dir", unlink("dir/fifo"));
    CHANGES("dir", unlink("dir/none"));
    CHANGES("link", lchown("link", 5, 5));
    CHANGES("link", chmod("link", 0640));
    T(stat("file", &s));
    usleep(20000);
    make_file("reference", "");
    T(stat("reference", &t));
    IS(later(t.st_mtim, s.st_mtim));
    SECTION("utimensat");
    T(set("file", 1000, 5, 2000, 999999999, 0));
    show_times("file");
    T(set("file", -1000, 0, -2000, 1, 0));
    show_times("file");
    T(set("file", 0, UTIME_OMIT, 3000, 0, 0));
    show_times("file");
    T(set("file", 4000, 0, 0, UTIME_OMIT, 0));
    show_times("file");
    T(set("file", 5, UTIME_NOW, 0, UTIME_OMIT, 0));
    show_times("file");
    T(set("file", 1, 1000000000, 1, 1, 0));
    T(set("file", 1, 1, 1, -1, 0));
    T(set("file", 1, -5, 1, UTIME_OMIT, 0));
    T(set("none", 0, UTIME_OMIT, 0, UTIME_OMIT, 0));
    T(set("none", 1, 1, 1, 1, 0));
    T(set("", 1, 1, 1, 1, 0));
    T(set("file", 1, 1, 1, 1, 0x1));
    T(set("link", 7000, 0, 8000, 0, AT_SYMLINK_NOFOLLOW));
    show_times("link");
    show_times("file");
    T(set("link", 7001, 0, 8001, 0, 0));
    show_times("file");
    T(set("dir", 7002, 0, 8002, 0, 0));
    show_times("dir");
    KEEP(fd, open("file", O_RDONLY));
    pairs[0] = pairs[1] = (struct timespec){123, 456};
    T(syscall(SYS_utimensat, fd, 0, pairs, 0));
    show_times("file");
    T(syscall(SYS_utimensat, fd, 0, pairs, AT_SYMLINK_NOFOLLOW));
    T(syscall(SYS_utimensat, fd, 0, pairs, AT_EMPTY_PATH));
    T(syscall(SYS_utimensat, fd, "", pairs, AT_EMPTY_PATH));
    T(syscall(SYS_utimensat, fd, "", pairs, 0));
    T(syscall(SYS_utimensat, fd, "x", pairs, 0));
    T(syscall(SYS_utimensat, AT_FDCWD, 0, pairs, 0));
    T(syscall(SYS_utimensat, -1, 0, pairs, 0));
    T(syscall(SYS_utimensat, AT_FDCWD, "file", 8, 0));
    T(syscall(SYS_utimensat, AT_FDCWD, "none", 8, 0));
    close(fd);
    SECTION("older kin");
    struct timeval old[2] = {{100, 5}, {200, 999999}};
    T(syscall(SYS_utimes, "file", old));
    show_times("file");
    old[1].tv_usec = 1000000;
    T(syscall(SYS_utimes, "file", old));
    old[1].tv_usec = -1;
    T(syscall(SYS_utimes, "file", old));
    T(syscall(SYS_utimes, "file", 0));
    T(syscall(SYS_utimes, "file", 8));
    T(syscall(SYS_utimes, "none", 0));
    T(syscall(SYS_utime, "file", &(struct utimbuf){300, 400}));
    show_times("file");
    T(syscall(SYS_utime, "file", 0));
    old[1].tv_usec = 0;
    T(syscall(SYS_futimesat, AT_FDCWD, "file", old));
    KEEP(fd, open("file", O_RDONLY));
    old[0].tv_sec = 555;
    T(syscall(SYS_futimesat, fd, 0, old));
    show_times("file");
    T(syscall(SYS_futimesat, fd, "x", old));
    close(fd);
    SECTION("a user's rights");
    make_file("root", "x");
    make_file("writable", "x");
    chmod("writable", 0666);
    make_file("own", "x");
    chown("own", 1000, 1000);
    chmod("own", 0);
    AS_USER({
        T(set("root", 1, 1, 1, 1, 0));
        T(set("root", 0, UTIME_NOW, 0, UTIME_NOW, 0));
        T(set("root", 0, UTIME_OMIT, 0, UTIME_OMIT, 0));
        T(utimensat(AT_FDCWD, "root", 0, 0));
        T(set("writable", 1, 1, 1, 1, 0));
        T(set("writable", 0, UTIME_NOW, 0, UTIME_NOW, 0));
        T(set("writable", 0, UTIME_NOW, 0, UTIME_OMIT, 0));
        T(utimensat(AT_FDCWD, "writable", 0, 0));
        T(utimes("writable", 0));
        T(utimes("root", 0));
        T(set("own", 1, 1, 1, 1, 0));
        T(set("own", 0, UTIME_NOW, 0, UTIME_OMIT, 0));
        T(utimensat(AT_FDCWD, "own", 0, 0));
    });
    show_times("own");
}

int main(void) {
    on_each_place("stat_times", suite);
    return 0;
}
