// Signals to whom they are not for: threads that no kernel has heard of, processes of others, every number there is.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int *beats;
// A thread that makes no call, ever.
static void *silent(void *unused) { for (;;) ++*beats; return unused; }
static void *nothing(void *unused) { return unused; }

int main(void) {
    beats = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int p[2], status;
    char byte;
    pipe(p);
    pid_t root = fork();
    if (!root) { pthread_t thread; pthread_create(&thread, 0, silent, 0); write(p[1], "r", 1); for (;;) pause(); }
    read(p[0], &byte, 1);
    pid_t attacker = fork();
    if (!attacker) {
        setresgid(1000, 1000, 1000);
        setresuid(1000, 1000, 1000);
        int reached = 0;
        for (int number = 1; number < 3000; number++) {
            if (number == getpid()) continue;
            reached += kill(number, SIGKILL) == 0;
            reached += syscall(SYS_tkill, number, SIGKILL) == 0;
            reached += syscall(SYS_tgkill, root, number, SIGKILL) == 0;
            siginfo_t info = {.si_code = SI_QUEUE};
            reached += syscall(SYS_rt_tgsigqueueinfo, root, number, SIGKILL, &info) == 0;
        }
        printf("reached %d, ", reached);
        printf("ptrace %ld %ld %ld\n", ptrace(PTRACE_TRACEME, 0, 0, 0), ptrace(PTRACE_ATTACH, root, 0, 0), ptrace(PTRACE_SEIZE, root, 0, 0));
        fflush(stdout);
        _exit(0);
    }
    waitpid(attacker, &status, 0);
    int before = *beats;
    // On a busy machine its turn comes late.
    for (int i = 0; i < 600 && *beats == before; i++) usleep(100000);
    printf("alive %d %d\n", waitpid(root, &status, WNOHANG) == 0, *beats != before);
    // As root: every number. What is not of this container is not there.
    fflush(stdout);
    pid_t everyone = fork();
    if (!everyone) { for (int number = 2; number < 40000; number++) if (number != getpid()) kill(number, SIGKILL); kill(-1, SIGKILL); _exit(3); }
    waitpid(everyone, &status, 0);
    printf("everyone %d, ", WEXITSTATUS(status));
    waitpid(root, &status, 0);
    printf("root ended by %d\n", WTERMSIG(status));
    // Threads that a filter of their own kills say nothing when they go.
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        struct sock_fprog program = {4, code};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
        int made = 0;
        for (int i = 0; i < 300; i++) { pthread_t thread; made += pthread_create(&thread, 0, nothing, 0) == 0; usleep(200); }
        // More forks than are made between two looks for such threads.
        int fine = 0;
        for (int i = 0; i < 1500; i++) { pid_t one = fork(); if (!one) syscall(SYS_exit_group, 0); int s = 1; waitpid(one, &s, 0); fine += s == 0; }
        printf("threads %d, children %d\n", made, fine);
        fflush(stdout);
        syscall(SYS_exit_group, 0);
    }
    waitpid(child, &status, 0);
    printf("end %d\n", status);
    return 0;
}
