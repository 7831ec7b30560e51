// Calls that are cheap to make and would be dear to serve: each must be answered or refused at once, and the kernel go on.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

// A file of more pages than there are, many times at once.
static void allocate(void) {
    for (int i = 0; i < 100; i++) {
        if (fork() == 0) {
            int f = open("/dev/shm/huge", O_RDWR | O_CREAT, 0600);
            fallocate(f, 0, 0, 1L << 62);
            _exit(0);
        }
    }
    while (wait(0) > 0) {}
}

// Sets that are members of sets, joined from the top, so that each joint looks harmless; then one wake-up at the bottom.
static void chain(void) {
    struct epoll_event event = {EPOLLIN};
    int bottom = epoll_create1(0), refused = 0;
    for (int i = 0; i < 3000; i++) {
        int next = epoll_create1(0);
        if (next < 0 || epoll_ctl(bottom, EPOLL_CTL_ADD, next, &event) != 0) { refused++; break; }
        bottom = next;
    }
    int e = eventfd(0, EFD_NONBLOCK);
    epoll_ctl(bottom, EPOLL_CTL_ADD, e, &event);
    unsigned long one = 1;
    write(e, &one, 8);
    printf("chain refused: %d\n", refused);
}

// Sets that hold the next one many times: a wake-up would go every way.
static void fan(void) {
    struct epoll_event event = {EPOLLIN};
    int set = epoll_create1(0), e = eventfd(0, EFD_NONBLOCK), refused = 0;
    for (int level = 0; level < 5; level++) {
        int next = epoll_create1(0);
        for (int i = 0; i < 40; i++)
            if (epoll_ctl(set, EPOLL_CTL_ADD, dup(next), &event) != 0) refused = 1;
        set = next;
    }
    epoll_ctl(set, EPOLL_CTL_ADD, e, &event);
    unsigned long one = 1;
    write(e, &one, 8);
    printf("fan refused: %d\n", refused);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    struct rlimit files = {8000, 8000};
    setrlimit(RLIMIT_NOFILE, &files);
    alarm(240);
    allocate();
    chain();
    fan();
    printf("survived\n");
    return 0;
}
