// Children that show themselves at the worst moment: orphans whose parents were killed, adopted by an init that forks as root; siblings by
// CLONE_PARENT. None may come out as somebody else.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 1500 };
static struct { volatile int stolen, shown, broken, turn, done; } *shared;

// Waits without a call: nobody has heard of this process yet.
static void spin(long count) { for (volatile long i = 0; i < count; i++) {} }

static void orphan(void) {
    int seen = shared->turn;
    for (long i = 0; i < 400000 && shared->turn == seen; i++) {}
    spin(rand() % 3000);
    if (syscall(SYS_getuid) != 1000) __sync_fetch_and_add(&shared->stolen, 1);
    __sync_fetch_and_add(&shared->shown, 1);
    syscall(SYS_exit_group, 0);
}

static void attacker(void) {
    setresgid(1000, 1000, 1000);
    setresuid(1000, 1000, 1000);
    for (int round = 0; round < ROUNDS; round++) {
        srand(round);
        pid_t parent = fork();
        if (!parent) {
            // Every other one by a sibling's clone, which belongs to this process's parent at once.
            if (round & 1) {
                if (!fork()) orphan();
            } else {
                long child = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
                if (!child) orphan();
            }
            syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        }
        while (waitpid(parent, 0, 0) < 0 && errno == EINTR) {}
        while (waitpid(-1, 0, WNOHANG) > 0) {}
    }
    while (waitpid(-1, 0, 0) > 0) {}
    shared->done = 1;
    _exit(0);
}

int main(void) {
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t other = fork();
    if (!other) attacker();
    // Init forks as root all the time.
    while (!shared->done) {
        pid_t child = fork();
        if (child < 0) { printf("fork: %m\n"); continue; }
        if (!child) { spin(2000); syscall(SYS_exit_group, syscall(SYS_getuid) == 0 ? 0 : 1); }
        shared->turn++;
        int status = 1;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
        if (status) { printf("a child of init ended with %#x\n", status); shared->broken++; }
        while (waitpid(-1, 0, WNOHANG) > 0) {}
    }
    printf("stolen %d, shown %s, broken %d\n", shared->stolen, shared->shown > ROUNDS / 2 ? "most" : "few", shared->broken);
    return 0;
}
