// mmap(2) of files: what may be mapped, what both sides see of a change, the end of the file, processes that share.
#include "places.h"
#include <setjmp.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 3
#endif

static sigjmp_buf fault;
static void on_fault(int signal) { siglongjmp(fault, signal); }

// Reads or writes one byte; prints the signal that comes of it.
static void touch(volatile char *at, int write) {
    int signal = sigsetjmp(fault, 1);
    if (signal) {
        printf("  signal %d\n", signal);
        return;
    }
    if (write) *at = 'T';
    else (void)*at;
    printf("  fine\n");
}

static void *map(size_t length, int protection, int flags, int fd, off_t offset) {
    void *at = mmap(0, length, protection, flags, fd, offset);
    return at;
}

#define MAPS(...) \
    do { \
        errno = 0; \
        void *check_at = map(__VA_ARGS__); \
        printf("map(%s): %s\n", #__VA_ARGS__, check_at == MAP_FAILED ? check_error(errno) : "ok"); \
        if (check_at != MAP_FAILED) munmap(check_at, 4096); \
    } while (0)

static void suite(void) {
    int fd, other, p[2];
    char text[20] = "", *m, *n, *q;
    struct stat s;
    signal(SIGBUS, on_fault);
    signal(SIGSEGV, on_fault);
    SECTION("access modes");
    make_file("file", "0123456789");
    KEEP(fd, open("file", O_RDONLY));
    MAPS(4096, PROT_READ, MAP_SHARED, fd, 0);
    MAPS(4096, PROT_READ, MAP_PRIVATE, fd, 0);
    MAPS(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MAPS(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    MAPS(4096, PROT_WRITE, MAP_SHARED, fd, 0);
    MAPS(4096, PROT_NONE, MAP_SHARED, fd, 0);
    m = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    T(mprotect(m, 4096, PROT_READ | PROT_WRITE));
    T(mprotect(m, 4096, PROT_NONE));
    munmap(m, 4096);
    close(fd);
    KEEP(fd, open("file", O_WRONLY));
    MAPS(4096, PROT_READ, MAP_SHARED, fd, 0);
    MAPS(4096, PROT_WRITE, MAP_SHARED, fd, 0);
    MAPS(4096, PROT_NONE, MAP_PRIVATE, fd, 0);
    close(fd);
    KEEP(fd, open("file", O_RDWR));
    MAPS(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MAPS(4096, PROT_WRITE, MAP_SHARED, fd, 0);
    SECTION("arguments");
    MAPS(0, PROT_READ, MAP_SHARED, fd, 0);
    MAPS(4096, PROT_READ, MAP_SHARED, fd, 1);
    MAPS(4096, PROT_READ, MAP_SHARED, fd, 4096);
    MAPS(4096, PROT_READ, MAP_SHARED, fd, -4096);
    MAPS(1, PROT_READ, MAP_SHARED, fd, 0);
    MAPS(4096, PROT_READ, 0, fd, 0);
    MAPS(4096, PROT_READ, MAP_SHARED | MAP_PRIVATE, fd, 0);
    MAPS(4096, PROT_READ, MAP_SHARED_VALIDATE, fd, 0);
    MAPS(4096, PROT_READ, MAP_SHARED_VALIDATE | 0x4000000, fd, 0);
    MAPS(4096, PROT_READ, MAP_SHARED | 0x4000000, fd, 0);
    MAPS(4096, PROT_READ, MAP_SHARED, -1, 0);
    MAPS(4096, PROT_READ, MAP_SHARED, 999, 0);
    MAPS(1UL << 60, PROT_READ, MAP_SHARED, fd, 0);
    MAPS(-4096, PROT_READ, MAP_SHARED, fd, 0);
    MAPS(4096, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    MAPS(4096, PROT_READ, MAP_PRIVATE | MAP_DENYWRITE | MAP_EXECUTABLE | MAP_NORESERVE, fd, 0);
    // Where nothing may be executed, nothing is mapped to be.
    MAPS(4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    T(pipe(p));
    MAPS(4096, PROT_READ, MAP_SHARED, p[0], 0);
    close(p[0]);
    close(p[1]);
    KEEP(other, open(".", O_RDONLY));
    MAPS(4096, PROT_READ, MAP_SHARED, other, 0);
    close(other);
    KEEP(other, open("/proc/self/status", O_RDONLY));
    MAPS(4096, PROT_READ, MAP_PRIVATE, other, 0);
    close(other);
    KEEP(other, open("file", O_PATH));
    MAPS(4096, PROT_READ, MAP_PRIVATE, other, 0);
    close(other);
    KEEP(other, open("/dev/null", O_RDWR));
    MAPS(4096, PROT_READ, MAP_PRIVATE, other, 0);
    close(other);
    SECTION("fixed places");
    m = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(m, 'a', 3 * 4096);
    IS(mmap(m + 4096, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == m + 4096);
    printf("%c%c%c\n", m[4095], m[4096], m[2 * 4096]);
    T(mmap(m, 4096, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) == MAP_FAILED);
    T(mmap(m + 100, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED);
    munmap(m + 2 * 4096, 4096);
    IS(mmap(m + 2 * 4096, 4096, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) == m + 2 * 4096);
    munmap(m, 3 * 4096);
    SECTION("what both sides see");
    T(ftruncate(fd, 8192));
    m = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    n = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    T(pwrite(fd, "written", 7, 0));
    printf("%.7s %.7s\n", m, n);
    memcpy(m, "mapped!", 7);
    T(pread(fd, text, 7, 0));
    printf("%s %.7s\n", text, n);
    memcpy(n, "private", 7);
    T(pread(fd, text, 7, 0));
    printf("%s %.7s\n", text, m);
    T(pwrite(fd, "again  ", 7, 0));
    printf("%.7s %.7s\n", m, n);
    KEEP(other, open("file", O_RDONLY));
    q = mmap(0, 8192, PROT_READ, MAP_SHARED, other, 0);
    strcpy(m + 5000, "through another");
    printf("%s\n", q + 5000);
    // The descriptor may be closed: the mapping stays.
    close(other);
    strcpy(m + 5000, "still there");
    printf("%s\n", q + 5000);
    T(munmap(q, 8192));
    T(msync(m, 8192, MS_SYNC));
    T(msync(m, 8192, MS_ASYNC));
    T(msync(m, 8192, MS_INVALIDATE));
    T(msync(m, 8192, MS_SYNC | MS_ASYNC));
    T(msync(m + 1, 8192, MS_SYNC));
    SECTION("processes");
    CHILD({
        memcpy(m, "child s", 7);
        memcpy(n, "child p", 7);
    });
    printf("%.7s %.7s\n", m, n);
    T(pread(fd, text, 7, 0));
    printf("%s\n", text);
    CHILD({
        int own = open("file", O_RDWR);
        char *mine = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
        memcpy(mine, "sibling", 7);
        pwrite(own, "by write", 8, 100);
    });
    printf("%.7s %.8s\n", m, m + 100);
    SECTION("the end of the file");
    T(ftruncate(fd, 5000));
    touch(m, 0);
    touch(m + 4999, 1);
    touch(m + 5001, 1);
    touch(m + 8191, 1);
    T(ftruncate(fd, 8192));
    // What was written past the end within its page is gone, or is not: that it reads as zero after growing is promised for truncate.
    T(ftruncate(fd, 4096));
    touch(m + 4095, 0);
    touch(m + 4096, 0);
    touch(m + 4096, 1);
    touch(n + 4096, 0);
    T(ftruncate(fd, 8192));
    touch(m + 4096, 0);
    touch(n + 4096, 1);
    T(ftruncate(fd, 0));
    touch(m, 0);
    touch(n, 0);
    T(pwrite(fd, "x", 1, 4096));
    touch(m, 0);
    printf("%d %c\n", m[0], m[4096]);
    T(write(fd, m + 4096, 1));
    T(ftruncate(fd, 0));
    T(pwrite(fd, "z", 1, 0));
    T(munmap(m, 8192));
    T(munmap(n, 8192));
    // A file that grows is seen growing.
    T(ftruncate(fd, 4096));
    m = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    touch(m + 4096, 0);
    T(ftruncate(fd, 1 << 20));
    touch(m + 4096, 1);
    touch(m + (1 << 20) - 1, 1);
    T(pread(fd, text, 1, (1 << 20) - 1));
    printf("%c\n", text[0]);
    SECTION("advice");
    T(madvise(m, 4096, MADV_WILLNEED));
    T(madvise(m, 4096, MADV_DONTNEED));
    T(madvise(m, 4096, MADV_SEQUENTIAL));
    T(madvise(m + 1, 4096, MADV_WILLNEED));
    T(madvise(m, 4096, 12345));
    printf("%c\n", m[4096]);
    T(madvise(m, 1 << 20, MADV_DONTNEED));
    printf("%c\n", m[4096]);
    SECTION("moving");
    n = mremap(m, 1 << 20, 2 << 20, MREMAP_MAYMOVE);
    IS(n != MAP_FAILED);
    printf("%c\n", n[4096]);
    touch(n + (1 << 20), 0);
    T(ftruncate(fd, 2 << 20));
    touch(n + (1 << 20), 1);
    m = mremap(n, 2 << 20, 4096, 0);
    IS(m == n);
    T(munmap(m, 4096));
    SECTION("unlinked");
    m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    T(unlink("file"));
    strcpy(m, "unlinked");
    T(pread(fd, text, 8, 0));
    printf("%s\n", text);
    close(fd);
    printf("%s\n", m);
    T(munmap(m, 4096));
    SECTION("small files");
    make_file("small", "small");
    KEEP(fd, open("small", O_RDWR));
    m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    printf("%s\n", m);
    m[0] = 'S';
    show_file("small");
    T(write(fd, "grown and longer", 16));
    printf("%s\n", m);
    T(fstat(fd, &s));
    T(s.st_size);
    m[17] = 'x';
    T(fstat(fd, &s));
    T(s.st_size);
    KEEP(other, open("small", O_RDWR | O_TRUNC));
    touch(m, 0);
    T(write(other, "new", 3));
    printf("%.4s\n", m);
    close(other);
    T(rename("small", "renamed"));
    m[0] = 'N';
    show_file("renamed");
    T(munmap(m, 4096));
    close(fd);
    SECTION("copied on demand");
    // A file that many map privately: everybody has its own changes.
    make_file("private", "common");
    KEEP(fd, open("private", O_RDONLY));
    m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    m[0] = 'C';
    CHILD({
        m[1] = 'O';
        printf("%s\n", m);
    });
    printf("%s\n", m);
    show_file("private");
    close(fd);
    munmap(m, 4096);
}

int main(void) {
    on_each_place("mappings", suite);
    SECTION("devices");
    char *m;
    int fd;
    KEEP(fd, open("/dev/zero", O_RDWR));
    m = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    IS(m != MAP_FAILED && m[0] == 0 && m[8191] == 0);
    m[0] = 'x';
    CHILD(m[0] = 'y');
    printf("%c\n", m[0]);
    m = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    IS(m != MAP_FAILED && m[0] == 0);
    CHILD(m[0] = 'y');
    printf("%c\n", m[0]);
    close(fd);
    SECTION("a read-only mount");
    KEEP(fd, open("/conformance/mappings", O_RDONLY));
    m = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    IS(m != MAP_FAILED);
    printf("%.3s\n", m + 1);
    T(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    SECTION("a mount without execution");
    int shm;
    KEEP(shm, open("/dev/shm/code", O_CREAT | O_RDWR, 0755));
    T(write(shm, "\xc3", 1));
    T(mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, shm, 0) == MAP_FAILED);
    m = mmap(0, 4096, PROT_READ, MAP_PRIVATE, shm, 0);
    IS(m != MAP_FAILED);
    T(mprotect(m, 4096, PROT_READ | PROT_EXEC));
    m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shm, 0);
    T(mprotect(m, 4096, PROT_READ | PROT_WRITE | PROT_EXEC));
    return 0;
}
