// The memory devices: null, zero, full, random.
#include "places.h"
#include <sys/ioctl.h>
#include <sys/uio.h>

static void each(const char *path) {
    printf("== %s\n", path);
    int fd;
    char bytes[64];
    struct stat s;
    KEEP(fd, open(path, O_RDWR));
    T(fcntl(fd, F_GETFL));
    T(fstat(fd, &s));
    printf("mode %o, device %lx, size %ld\n", s.st_mode, (long)s.st_rdev, (long)s.st_size);
    memset(bytes, 'x', sizeof bytes);
    T(read(fd, bytes, 64));
    T(read(fd, bytes, 0));
    T(read(fd, (void *)8, 64));
    T(pread(fd, bytes, 10, 100));
    T(pread(fd, bytes, 10, -1));
    T(write(fd, bytes, 10));
    T(write(fd, bytes, 0));
    T(write(fd, (void *)8, 10));
    T(pwrite(fd, bytes, 10, 1000));
    struct iovec parts[2] = {{bytes, 5}, {bytes + 5, 6}};
    T(writev(fd, parts, 2));
    T(readv(fd, parts, 2));
    T(lseek(fd, 10, SEEK_SET));
    T(lseek(fd, 0, SEEK_CUR));
    T(lseek(fd, 0, SEEK_END));
    T(lseek(fd, -5, SEEK_SET));
    T(lseek(fd, 0, 77));
    T(lseek(fd, 0, SEEK_DATA));
    T(ftruncate(fd, 0));
    T(fsync(fd));
    T(fdatasync(fd));
    T(fallocate(fd, 0, 0, 10));
    T(ioctl(fd, 0x5401, bytes));
    T(ioctl(fd, FIONREAD, bytes));
    T(syscall(SYS_getdents64, fd, bytes, 64));
    T(fcntl(fd, F_SETFL, O_NONBLOCK | O_APPEND));
    T(fcntl(fd, F_GETFL));
    T(fchdir(fd));
    struct flock lock = {.l_type = F_WRLCK};
    T(fcntl(fd, F_SETLK, &lock));
    close(fd);
    T(open(path, O_RDONLY | O_DIRECTORY));
    T(open(path, O_RDWR | O_CREAT | O_EXCL, 0644));
    T(open(path, O_RDWR | O_CREAT | O_TRUNC, 0644) > 0);
    KEEP(fd, open(path, O_WRONLY));
    T(read(fd, bytes, 1));
    close(fd);
    KEEP(fd, open(path, O_RDONLY));
    T(write(fd, bytes, 1));
    close(fd);
    KEEP(fd, open(path, O_WRONLY | O_APPEND));
    T(write(fd, bytes, 1));
    close(fd);
    T(truncate(path, 5));
    T(access(path, R_OK | W_OK));
    T(access(path, X_OK));
    AS_USER({
        T(open(path, O_RDWR) > 0);
        T(chmod(path, 0600));
        T(unlink(path));
    });
}

int main(void) {
    each("/dev/null");
    each("/dev/zero");
    each("/dev/full");
    SECTION("random");
    int fd;
    char a[64], b[64];
    struct stat s;
    KEEP(fd, open("/dev/urandom", O_RDONLY));
    T(read(fd, a, 64));
    T(read(fd, b, 64));
    IS(memcmp(a, b, 64));
    T(read(fd, (void *)8, 64));
    T(read(fd, a, 0));
    T(lseek(fd, 5, SEEK_SET));
    T(lseek(fd, 0, SEEK_CUR));
    T(pread(fd, a, 10, 5));
    char *much = malloc(1 << 20);
    T(read(fd, much, 1 << 20));
    close(fd);
    KEEP(fd, open("/dev/random", O_RDWR));
    T(read(fd, a, 64));
    T(write(fd, a, 64));
    int entropy;
    T(ioctl(fd, 0x80045200 /* RNDGETENTCNT */, &entropy));
    close(fd);
    SECTION("others");
    T(stat("/dev/tty", &s));
    T(S_ISCHR(s.st_mode));
    T(open("/dev/tty", O_RDWR));
    T(stat("/dev/console", &s));
    T(stat("/dev/mem", &s));
    T(stat("/dev/kmsg", &s));
    char text[50];
    for (int i = 0; i < 4; i++) {
        const char *const links[] = {"/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr"};
        memset(text, 0, sizeof text);
        T(readlink(links[i], text, sizeof text));
        printf("%s\n", text);
    }
    T(stat("/dev/ptmx", &s));
    SECTION("nodes without a driver");
    T(mknod("/dev/null2", S_IFCHR | 0666, 0x103));
    T(mkdir("/var/tmp/devices", 0755));
    T(chdir("/var/tmp/devices"));
    T(mknod("null", S_IFCHR | 0666, 0x103));
    KEEP(fd, open("null", O_RDWR));
    T(write(fd, "x", 1));
    T(read(fd, text, 1));
    T(chmod("null", 0600));
    AS_USER(T(open("null", O_RDONLY)));
    // A mount without devices has none.
    T(mknod("/dev/shm/null", S_IFCHR | 0666, 0x103));
    T(open("/dev/shm/null", O_RDWR));
    T(open("/dev/shm/null", O_PATH) > 0);
    T(access("/dev/shm/null", R_OK | W_OK));
    return 0;
}
