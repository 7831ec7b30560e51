// A file that was mapped is a native descriptor of this process. Nothing but that mapping may come of it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void) {
    int fd = open("/etc/passwd", O_RDONLY);
    char *p = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return 1;
    int bad = 0;
    if (write(fd, "x", 1) != -1 || errno != EBADF) bad |= 1;
    if (ftruncate(fd, 0) != -1 || errno != EINVAL) bad |= 2;
    if (mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED || errno != EACCES) bad |= 4;
    close(fd);
    // Closed for this process: the native copy must not answer for it.
    char c;
    if (read(fd, &c, 1) != -1 || errno != EBADF) bad |= 8;
    if (mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED || errno != EBADF) bad |= 16;
    if (fcntl(fd, F_GETFL) != -1) bad |= 32;
    struct stat s;
    if (fstat(fd, &s) != -1) bad |= 64;
    // A new file at the same number is the new file.
    int other = open("/etc/hostname", O_RDONLY);
    if (other != fd) dup2(other, fd);
    printf("%c%d\n", p[0], bad);
    return 0;
}
