// Descriptors: the lowest free number, dup2(2), dup3(2), close_range(2), close-on-exec, fcntl(2), sharing by clone, limits.
#include "places.h"
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#define CLOSE_RANGE_CLOEXEC 4
#endif

static int range(unsigned first, unsigned last, unsigned flags) { return syscall(SYS_close_range, first, last, flags); }

static void open_numbers(void) {
    printf("open:");
    for (int i = 3; i < 300; i++) {
        int flags = fcntl(i, F_GETFD);
        if (flags >= 0) printf(" %d%s", i, flags ? "x" : "");
    }
    printf("\n");
}

static int share(void *argument) {
    close(5);
    dup2(0, 9);
    if (argument) range(3, 5, CLOSE_RANGE_UNSHARE);
    _exit(0);
}

int main(int count, char **arguments) {
    if (count > 1) {
        open_numbers();
        return 0;
    }
    int fd, p[2];
    range(3, ~0U, 0);
    SECTION("numbers");
    T(open("/etc/passwd", O_RDONLY));
    T(open("/etc/passwd", O_RDONLY));
    T(open("/etc/passwd", O_RDONLY | O_CLOEXEC));
    T(close(4));
    T(close(4));
    T(close(-1));
    T(close(1000000));
    T(dup(3));
    T(dup(3));
    T(dup(-1));
    T(dup(100));
    T(dup2(3, 10));
    T(dup2(3, 3));
    T(dup2(100, 100));
    T(dup2(100, 3));
    T(dup2(3, -1));
    T(dup2(3, 1024));
    T(dup2(3, 1000000000));
    T(syscall(SYS_dup3, 3, 3, 0));
    T(syscall(SYS_dup3, 3, 11, O_CLOEXEC));
    T(syscall(SYS_dup3, 3, 12, O_NONBLOCK));
    T(syscall(SYS_dup3, 3, 12, 0));
    T(syscall(SYS_dup3, 100, 12, 0));
    T(syscall(SYS_dup3, 100, 100, 0));
    T(syscall(SYS_dup3, 3, -1, 0));
    open_numbers();
    T(fcntl(3, F_DUPFD, 20));
    T(fcntl(3, F_DUPFD, 20));
    T(fcntl(3, F_DUPFD_CLOEXEC, 20));
    T(fcntl(3, F_DUPFD, -1));
    T(fcntl(3, F_DUPFD, 1023));
    T(fcntl(3, F_DUPFD, 1023));
    T(fcntl(3, F_DUPFD, 1024));
    T(fcntl(100, F_DUPFD, 20));
    T(fcntl(3, F_DUPFD, 0));
    open_numbers();
    T(pipe(p));
    printf("%d %d\n", p[0], p[1]);
    T(close(p[0]));
    T(close(p[1]));
    SECTION("flags");
    T(fcntl(3, F_SETFD, 1));
    T(fcntl(3, F_GETFD));
    T(fcntl(3, F_SETFD, 0));
    T(fcntl(3, F_SETFD, 2));
    T(fcntl(3, F_GETFD));
    T(fcntl(3, F_SETFD, ~0));
    T(fcntl(3, F_GETFD));
    T(ioctl(3, FIONCLEX));
    T(fcntl(3, F_GETFD));
    T(ioctl(3, FIOCLEX));
    T(fcntl(3, F_GETFD));
    int on = 1;
    T(ioctl(3, FIONBIO, &on));
    T(fcntl(3, F_GETFL));
    on = 0;
    T(ioctl(3, FIONBIO, &on));
    T(fcntl(3, F_GETFL));
    T(ioctl(3, FIONBIO, (void *)8));
    T(ioctl(3, 0x12345678, 0));
    T(ioctl(-1, FIOCLEX));
    T(ioctl(3, FIONREAD, &on));
    IS(on > 0);
    T(ioctl(3, FIONREAD, (void *)8));
    T(fcntl(3, 9999, 0));
    T(fcntl(-1, F_GETFD));
    T(fcntl(-1, 9999));
    // Status flags belong to the description, close-on-exec to the descriptor.
    T(dup2(3, 15));
    T(fcntl(15, F_GETFD));
    T(fcntl(15, F_SETFL, O_NONBLOCK));
    T(fcntl(3, F_GETFL));
    T(fcntl(15, F_SETFL, 0));
    T(fcntl(3, F_GETOWN));
    T(fcntl(3, F_SETOWN, getpid()));
    IS(fcntl(3, F_GETOWN) == getpid());
    T(fcntl(3, F_SETOWN, 0));
    T(fcntl(3, F_SETOWN, 999999));
    T(fcntl(3, F_GETOWN));
    T(fcntl(3, F_SETSIG, 10));
    T(fcntl(3, F_GETSIG));
    T(fcntl(3, F_SETSIG, 65));
    T(fcntl(3, F_SETSIG, 0));
    T(fcntl(3, F_GETPIPE_SZ));
    T(fcntl(3, F_GET_SEALS));
    T(fcntl(3, F_GETLEASE));
    SECTION("exec");
    T(dup2(3, 200));
    T(fcntl(200, F_SETFD, 1));
    T(dup2(3, 201));
    CHILD(execl("/proc/self/exe", "descriptors", "list", (char *)0));
    CHILD(execl("/none", "descriptors", "list", (char *)0); open_numbers());
    SECTION("close_range");
    T(range(20, 22, 0));
    open_numbers();
    T(range(10, 5, 0));
    T(range(5, 10, 1));
    T(range(5, 10, 8));
    T(range(10, 12, CLOSE_RANGE_CLOEXEC));
    open_numbers();
    T(range(200, 200, 0));
    T(range(5000, 6000, 0));
    T(range(14, ~0U, 0));
    open_numbers();
    CHILD(T(range(3, 4, CLOSE_RANGE_UNSHARE)); open_numbers());
    open_numbers();
    CHILD(T(range(3, ~0U, CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)); open_numbers());
    SECTION("a shared table");
    static char stack[65536];
    dup2(0, 5);
    dup2(0, 3);
    dup2(0, 4);
    pid_t child = clone(share, stack + sizeof stack, CLONE_FILES | SIGCHLD, 0);
    waitpid(child, 0, 0);
    open_numbers();
    dup2(0, 5);
    child = clone(share, stack + sizeof stack, CLONE_FILES | SIGCHLD, (void *)1);
    waitpid(child, 0, 0);
    open_numbers();
    SECTION("limits");
    struct rlimit limit;
    T(getrlimit(RLIMIT_NOFILE, &limit));
    printf("%ld %ld\n", (long)limit.rlim_cur, (long)limit.rlim_max);
    range(3, ~0U, 0);
    CHILD({
        limit.rlim_cur = 10;
        T(setrlimit(RLIMIT_NOFILE, &limit));
        T(dup2(0, 9));
        T(dup2(0, 10));
        for (int i = 3; i < 9; i++) dup(0);
        T(dup(0));
        T(open("/etc/passwd", O_RDONLY));
        T(open("/none", O_RDONLY));
        T(pipe(p));
        T(fcntl(0, F_DUPFD, 3));
        T(fcntl(0, F_DUPFD, 10));
        T(close(9));
        T(pipe(p));
        open_numbers();
        limit.rlim_cur = 5;
        T(setrlimit(RLIMIT_NOFILE, &limit));
        // What is open past the limit stays usable.
        T(fcntl(8, F_GETFD));
        T(dup2(8, 4));
        T(dup(8));
        T(close(3));
        T(dup(8));
        limit.rlim_cur = limit.rlim_max + 1;
        T(setrlimit(RLIMIT_NOFILE, &limit));
        limit.rlim_cur = 0;
        T(setrlimit(RLIMIT_NOFILE, &limit));
        T(dup(0));
        T(dup2(0, 0));
        T(dup2(0, 1));
        T(open("/etc/passwd", O_RDONLY));
    });
    CHILD({
        int opened = 0;
        while (open("/etc/passwd", O_RDONLY) >= 0) opened++;
        printf("%d: %s\n", opened, check_error(errno));
        close(500);
        T(open("/etc/passwd", O_RDONLY));
        T(range(100, 900, 0));
        T(open("/etc/passwd", O_RDONLY));
    });
    return 0;
}
