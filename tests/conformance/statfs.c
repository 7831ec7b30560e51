// statfs(2), and the flags of mounts.
#include "places.h"
#include <sys/statfs.h>
#include <sys/statvfs.h>

static void show(const char *path) {
    struct statfs s;
    if (statfs(path, &s)) {
        printf("%s: %s\n", path, check_error(errno));
        return;
    }
    // The root file system is not the same one behind every wall.
    printf("%s: type %lx, name %ld, flags %lx\n", path, (long)s.f_type, (long)s.f_namelen, (long)s.f_flags & ~(long)ST_RELATIME);
}

int main(void) {
    struct statfs s, t;
    struct statvfs v;
    show("/");
    show("/etc/passwd");
    show("/dev");
    show("/dev/null");
    show("/dev/shm");
    show("/proc");
    show("/proc/self");
    show("/sys");
    show("/none");
    T(statfs("", &s));
    T(statfs("/", (void *)8));
    T(statfs((void *)8, &s));
    T(fstatfs(-1, &s));
    T(statfs("/conformance", &s));
    T(s.f_flags & ST_RDONLY);
    SECTION("sizes");
    T(statfs("/dev/shm", &s));
    T(s.f_bsize);
    T(s.f_blocks);
    IS(s.f_bfree <= s.f_blocks && s.f_bavail == s.f_bfree);
    IS(s.f_files > 0 && s.f_ffree > 0);
    T(s.f_frsize);
    int fd;
    KEEP(fd, open("/dev/shm/statfs", O_CREAT | O_RDWR, 0644));
    static char text[100000];
    T(write(fd, text, sizeof text));
    T(fstatfs(fd, &t));
    T(s.f_bfree - t.f_bfree);
    T(s.f_ffree - t.f_ffree);
    T(ftruncate(fd, 10));
    T(statfs("/dev/shm", &t));
    T(s.f_bfree - t.f_bfree);
    T(ftruncate(fd, 1 << 30));
    T(statfs("/dev/shm", &t));
    T(s.f_bfree - t.f_bfree);
    T(pwrite(fd, "x", 1, 1 << 29));
    T(statfs("/dev/shm", &t));
    T(s.f_bfree - t.f_bfree);
    close(fd);
    T(unlink("/dev/shm/statfs"));
    T(statfs("/dev/shm", &t));
    T(s.f_bfree - t.f_bfree);
    T(s.f_ffree - t.f_ffree);
    T(statfs("/", &s));
    IS(s.f_blocks > 0 && s.f_bfree > 0 && s.f_bavail > 0);
    IS(s.f_bsize > 0 && s.f_frsize > 0);
    T(statfs("/proc", &s));
    T(s.f_blocks);
    T(s.f_files);
    SECTION("descriptors");
    int p[2];
    T(pipe(p));
    T(fstatfs(p[0], &s));
    printf("%lx\n", (long)s.f_type);
    KEEP(fd, syscall(SYS_memfd_create, "x", 0));
    T(fstatfs(fd, &s));
    printf("%lx\n", (long)s.f_type);
    KEEP(fd, open("/dev/shm", O_PATH));
    T(fstatfs(fd, &s));
    printf("%lx\n", (long)s.f_type);
    T(fstatvfs(fd, &v));
    printf("flags %lx, name %ld\n", v.f_flag & ~ST_RELATIME, v.f_namemax);
    SECTION("a full file system");
    KEEP(fd, open("/dev/shm/filled", O_CREAT | O_RDWR, 0644));
    long total = 0, got;
    while ((got = write(fd, text, sizeof text)) > 0) total += got;
    printf("%s after %ld\n", check_error(errno), total);
    T(write(fd, "x", 1));
    T(pwrite(fd, "x", 1, 0));
    T(pwrite(fd, text, 8192, total - 4096));
    T(pwrite(fd, "x", 1, 1 << 30));
    T(fallocate(fd, 0, total, 4096));
    T(open("/dev/shm/empty", O_CREAT | O_RDWR, 0644) > 0);
    T(mkdir("/dev/shm/dir", 0755));
    T(symlink("x", "/dev/shm/link"));
    T(statfs("/dev/shm", &s));
    T(s.f_bfree);
    T(ftruncate(fd, total - 4096));
    T(pwrite(fd, text, 5000, total - 4096));
    T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192));
    T(statfs("/dev/shm", &s));
    T(s.f_bfree);
    T(fallocate(fd, 0, 1 << 28, 4096 * 3));
    T(statfs("/dev/shm", &s));
    T(s.f_bfree);
    T(unlink("/dev/shm/filled"));
    T(statfs("/dev/shm", &s));
    T(s.f_bfree);
    close(fd);
    T(statfs("/dev/shm", &s));
    IS(s.f_bfree > 16000);
    return 0;
}
