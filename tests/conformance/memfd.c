// memfd_create(2): names, flags, seals, mappings, reopening.
#include "places.h"
#include <linux/memfd.h>
#include <sys/prctl.h>
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8
#define MFD_EXEC 16
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
#define MEMFD(name, flags) syscall(SYS_memfd_create, name, flags)

int main(void) {
    int fd, other;
    char text[300], *m;
    struct stat s;
    SECTION("creation");
    OK(MEMFD("name", 0));
    OK(MEMFD("", 0));
    OK(MEMFD("a/b\n", MFD_CLOEXEC));
    OK(MEMFD(0, 0));
    OK(MEMFD("x", 0x20));
    OK(MEMFD("x", MFD_EXEC | MFD_NOEXEC_SEAL));
    memset(text, 'n', sizeof text);
    text[249] = 0;
    OK(MEMFD(text, 0));
    text[249] = 'n';
    text[250] = 0;
    OK(MEMFD(text, 0));
    KEEP(fd, MEMFD("plain", 0));
    T(fcntl(fd, F_GETFD));
    T(fcntl(fd, F_GETFL));
    T(fstat(fd, &s));
    printf("mode %o, links %ld, size %ld, owner %d:%d\n", s.st_mode, (long)s.st_nlink, (long)s.st_size, s.st_uid, s.st_gid);
    char path[50];
    sprintf(path, "/proc/self/fd/%d", fd);
    memset(text, 0, sizeof text);
    OK(readlink(path, text, sizeof text));
    printf("%s\n", text);
    T(fcntl(fd, F_GET_SEALS));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    SECTION("a file like others");
    T(write(fd, "0123456789", 10));
    T(pread(fd, text, 10, 0));
    T(lseek(fd, 0, SEEK_END));
    T(lseek(fd, 0, SEEK_DATA));
    T(lseek(fd, 0, SEEK_HOLE));
    T(ftruncate(fd, 100000));
    T(lseek(fd, 4096, SEEK_DATA));
    T(fallocate(fd, 0, 0, 200000));
    T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    T(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096));
    T(pread(fd, text, 1, 0));
    printf("%d\n", text[0]);
    T(fstat(fd, &s));
    T(s.st_size);
    T(fchmod(fd, 0640));
    T(fchown(fd, 1000, 1000));
    T(futimens(fd, (struct timespec[2]){{1, 2}, {3, 4}}));
    T(fstat(fd, &s));
    printf("mode %o, owner %d:%d, modified %ld\n", s.st_mode, s.st_uid, s.st_gid, (long)s.st_mtim.tv_sec);
    T(fsync(fd));
    T(fcntl(fd, F_SETFL, O_APPEND));
    T(write(fd, "end", 3));
    T(lseek(fd, 0, SEEK_CUR));
    T(linkat(AT_FDCWD, path, AT_FDCWD, "/var/tmp/linked", AT_SYMLINK_FOLLOW));
    T(linkat(fd, "", AT_FDCWD, "/var/tmp/linked", AT_EMPTY_PATH));
    struct flock lock = {.l_type = F_WRLCK};
    T(fcntl(fd, F_SETLK, &lock));
    T(ioctl(fd, 0x5401, text));
    char buffer[100];
    T(syscall(SYS_getdents64, fd, buffer, 100));
    T(fchdir(fd));
    SECTION("reopening");
    T(ftruncate(fd, 10));
    KEEP(other, open(path, O_RDWR));
    T(lseek(other, 0, SEEK_CUR));
    T(write(other, "other", 5));
    T(pread(fd, text, 5, 0));
    printf("%.5s\n", text);
    close(other);
    KEEP(other, open(path, O_RDONLY));
    T(write(other, "x", 1));
    T(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0) == MAP_FAILED);
    T(ftruncate(other, 0));
    close(other);
    KEEP(other, open(path, O_RDWR | O_TRUNC));
    T(fstat(fd, &s));
    T(s.st_size);
    close(other);
    KEEP(other, open(path, O_WRONLY | O_APPEND));
    T(write(other, "ab", 2));
    T(write(other, "cd", 2));
    T(fstat(fd, &s));
    T(s.st_size);
    close(other);
    T(open(path, O_DIRECTORY));
    T(open(path, O_CREAT | O_EXCL | O_RDWR, 0644));
    T(truncate(path, 3));
    T(stat(path, &s));
    T(s.st_size);
    T(access(path, R_OK | W_OK));
    T(chmod(path, 0600));
    fchown(fd, 0, 0);
    AS_USER({
        prctl(PR_SET_DUMPABLE, 1);
        T(open(path, O_RDWR));
        T(open(path, O_RDONLY));
    });
    fchmod(fd, 0444);
    AS_USER({
        prctl(PR_SET_DUMPABLE, 1);
        T(open(path, O_RDWR));
        T(open(path, O_RDONLY) > 0);
    });
    close(fd);
    SECTION("seals");
    KEEP(fd, MEMFD("sealed", MFD_ALLOW_SEALING));
    T(fcntl(fd, F_GET_SEALS));
    T(write(fd, "0123456789", 10));
    T(fcntl(fd, F_ADD_SEALS, 0x1000));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    T(ftruncate(fd, 5));
    T(ftruncate(fd, 10));
    T(ftruncate(fd, 20));
    T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 5));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    T(fcntl(fd, F_GET_SEALS));
    T(ftruncate(fd, 30));
    T(pwrite(fd, "abcdef", 6, 15));
    T(pwrite(fd, "abcdef", 6, 20));
    T(pwrite(fd, "abcdef", 6, 14));
    T(fallocate(fd, 0, 0, 100));
    T(fcntl(fd, F_SETFL, O_APPEND));
    T(write(fd, "x", 1));
    T(fcntl(fd, F_SETFL, 0));
    m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    munmap(m, 4096);
    m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    T(fcntl(fd, F_GET_SEALS));
    m[0] = 'p';
    munmap(m, 4096);
    T(pwrite(fd, "x", 1, 0));
    T(pwrite(fd, "x", 0, 0));
    T(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    m = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    T(m != MAP_FAILED);
    T(mprotect(m, 4096, PROT_READ | PROT_WRITE));
    munmap(m, 4096);
    T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 5));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    T(fcntl(fd, F_ADD_SEALS, 0));
    sprintf(path, "/proc/self/fd/%d", fd);
    KEEP(other, open(path, O_RDONLY));
    T(fcntl(other, F_GET_SEALS));
    T(fcntl(other, F_ADD_SEALS, F_SEAL_GROW));
    close(other);
    KEEP(other, open(path, O_RDWR));
    T(write(other, "x", 1));
    T(open(path, O_RDWR | O_TRUNC));
    close(other);
    close(fd);
    KEEP(fd, MEMFD("future", MFD_ALLOW_SEALING));
    T(ftruncate(fd, 4096));
    m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    m[0] = 'x';
    T(pwrite(fd, "x", 1, 0));
    T(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    T(mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED);
    close(fd);
    KEEP(fd, MEMFD("noexec", MFD_NOEXEC_SEAL));
    T(fcntl(fd, F_GET_SEALS));
    T(fstat(fd, &s));
    printf("mode %o\n", s.st_mode);
    T(fchmod(fd, 0755));
    T(fchmod(fd, 0600));
    close(fd);
    KEEP(fd, MEMFD("exec", MFD_EXEC));
    T(fcntl(fd, F_GET_SEALS));
    T(fstat(fd, &s));
    printf("mode %o\n", s.st_mode);
    close(fd);
    KEEP(fd, MEMFD("exec seal", MFD_ALLOW_SEALING));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_EXEC));
    T(fcntl(fd, F_GET_SEALS));
    T(fchmod(fd, 0600));
    close(fd);
    SECTION("shared");
    KEEP(fd, MEMFD("shared", MFD_CLOEXEC));
    T(ftruncate(fd, 8192));
    m = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHILD({
        strcpy(m, "from a child");
        T(pwrite(fd, "by write", 8, 4096));
    });
    printf("%s %s\n", m, m + 4096);
    T(fcntl(fd, F_GETFD));
    SECTION("execution");
    int self = open("/proc/self/exe", O_RDONLY);
    (void)self;
    KEEP(fd, MEMFD("program", 0));
    T(write(fd, "#!/bin/echo script\n", 19));
    sprintf(path, "/proc/self/fd/%d", fd);
    CHILD({
        execl(path, "program", (char *)0);
        printf("%s\n", check_error(errno));
    });
    return 0;
}
