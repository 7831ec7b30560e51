// What a conformance program is made of. It makes system calls and prints what came of each; the same program runs under runc, on the host's own
// kernel, and behind each wall, and the outputs must be equal. So it prints nothing that may differ between two runs on Linux: no addresses, no
// times, no numbers of processes or inodes, no order that the kernel does not promise.
#ifndef CHECK_H
#define CHECK_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static inline const char *check_error(int error) {
    const char *name = strerrorname_np(error);
    return name ? name : "?";
}

// Prints the expression and its value, or the error it failed with.
#define T(expression) \
    do { \
        errno = 0; \
        long check_value = (long)(expression); \
        if (check_value == -1) printf("%s = -1 %s\n", #expression, check_error(errno)); \
        else printf("%s = %ld\n", #expression, check_value); \
    } while (0)

// The same for a call whose value may differ (a descriptor, an address, a process): whether it succeeded.
#define OK(expression) \
    do { \
        errno = 0; \
        long check_value = (long)(expression); \
        if (check_value == -1) printf("%s = -1 %s\n", #expression, check_error(errno)); \
        else printf("%s: ok\n", #expression); \
    } while (0)

// The same, keeping the value.
#define KEEP(variable, expression) \
    do { \
        errno = 0; \
        variable = (expression); \
        if ((long)variable == -1) printf("%s = -1 %s\n", #expression, check_error(errno)); \
        else printf("%s: ok\n", #expression); \
    } while (0)

// Prints whether a condition holds.
#define IS(condition) printf("%s: %s\n", #condition, (condition) ? "yes" : "no")

// A section's heading, so that a difference is found again.
#define SECTION(name) printf("== %s\n", name)

__attribute__((constructor)) static void check_setup(void) {
    // A program that crashes has said all it had to say.
    setvbuf(stdout, 0, _IONBF, 0);
}

// Runs statements in a child and prints how that ended.
#define CHILD(...) \
    do { \
        pid_t check_child = fork(); \
        if (check_child == 0) { __VA_ARGS__; _exit(0); } \
        int check_status = 0; \
        while (waitpid(check_child, &check_status, 0) < 0 && errno == EINTR) {} \
        if (WIFSIGNALED(check_status)) printf("child: signal %d\n", WTERMSIG(check_status)); \
        else printf("child: exit %d\n", WEXITSTATUS(check_status)); \
    } while (0)

#endif
