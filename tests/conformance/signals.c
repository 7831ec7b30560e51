// Sending and taking signals: who may, what siginfo tells, masks, stacks, queues.
#include "check.h"
#include <pthread.h>
#include <sys/prctl.h>
#include <ucontext.h>

static volatile sig_atomic_t count, last_code, last_pid, last_uid, last_value, on_stack, order[8], position;
static char space[65536];

static void plain(int number) { count++; if (position < 8) order[position++] = number; }
static void informed(int number, siginfo_t *info, void *context) {
    count++;
    last_code = info->si_code;
    last_pid = info->si_pid;
    last_uid = info->si_uid;
    last_value = info->si_value.sival_int;
    char here;
    on_stack = &here >= space && &here < space + sizeof space;
}

static void reset(void) { count = 0; last_code = last_pid = last_uid = last_value = -77; position = 0; }
static void told(const char *what, pid_t sender) {
    printf("%s: count %d code %d sender %s", what, count, last_code, last_pid == sender ? "right" : last_pid == 0 ? "0" : last_pid == -77 ? "none" : "wrong");
    // Only who queues a signal says its user himself.
    if (last_code == SI_QUEUE) printf(" uid %d value %d", last_uid, last_value);
    printf("\n");
    reset();
}

static void as(uid_t uid) { setresgid(uid, uid, uid); setresuid(uid, uid, uid); }

static pid_t sleeper(uid_t uid) {
    int p[2];
    pipe(p);
    pid_t child = fork();
    if (!child) { close(p[0]); if (uid) as(uid); write(p[1], "r", 1); for (;;) pause(); }
    char byte;
    close(p[1]);
    read(p[0], &byte, 1);
    close(p[0]);
    return child;
}

static void end(pid_t child) {
    int status;
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    printf("ended by %d\n", WTERMSIG(status));
}

int main(void) {
    int status;
    struct sigaction action;
    reset();
    SECTION("kill: whom there is not");
    T(kill(99999, 0));
    T(kill(99999, SIGTERM));
    T(kill(-99999, 0));
    T(kill(INT_MIN, 0));
    T(kill(getpid(), 65));
    T(kill(getpid(), -1));
    T(kill(99999, 65));
    T(kill(getpid(), 0));
    T(kill(0, 0));
    T(kill(-getpgrp(), 0));
    // Nobody else lives here: of -1, init and the caller are excepted.
    T(kill(-1, 0));
    SECTION("init is protected");
    T(kill(1, SIGTERM));
    T(kill(1, SIGKILL));
    T(kill(1, SIGSTOP));
    T(kill(0, SIGUSR1));
    CHILD({ T(kill(1, SIGKILL)); T(kill(1, SIGTERM)); T(kill(-1, 0)); });
    SECTION("who may");
    pid_t a = sleeper(1000), b = sleeper(2000);
    T(kill(a, 0));
    CHILD({ as(1000); T(kill(a, 0)); T(kill(b, 0)); T(kill(1, 0)); T(kill(getppid(), SIGCONT)); T(kill(b, SIGTERM)); T(kill(-1, 0)); T(kill(0, 0)); });
    CHILD({ setresuid(2000, 1000, 3000); T(kill(a, 0)); T(kill(b, 0)); });
    CHILD({ setresuid(3000, 3000, 2000); T(kill(a, 0)); T(kill(b, 0)); });
    CHILD({ as(1000); T(syscall(SYS_tkill, b, 0)); T(syscall(SYS_tgkill, b, b, SIGTERM)); T(syscall(SYS_tgkill, a, a, 0)); T(syscall(SYS_tgkill, a, b, 0)); });
    CHILD({ as(1000); siginfo_t info = {.si_code = SI_QUEUE}; T(syscall(SYS_rt_sigqueueinfo, b, SIGUSR1, &info)); T(syscall(SYS_rt_sigqueueinfo, a, 0, &info)); T(syscall(SYS_rt_tgsigqueueinfo, b, b, SIGUSR1, &info)); });
    CHILD({ as(1000); prctl(PR_SET_NAME, "x"); setsid(); T(kill(b, SIGCONT)); });
    // A group in which the caller may signal one and not another.
    setpgid(a, a);
    setpgid(b, a);
    CHILD({ as(1000); T(kill(-a, 0)); T(kill(-a, SIGTERM)); });
    IS(waitpid(a, &status, 0) == a);
    T(WTERMSIG(status));
    T(kill(b, 0));
    CHILD({ as(1000); T(kill(-a, 0)); T(kill(-a, SIGTERM)); });
    T(kill(-a, 0));
    end(b);
    T(kill(-a, 0));
    a = sleeper(0);
    b = sleeper(0);
    T(kill(-1, SIGTERM));
    IS(waitpid(a, &status, 0) == a);
    T(WTERMSIG(status));
    IS(waitpid(b, &status, 0) == b);
    T(WTERMSIG(status));
    SECTION("siginfo");
    action = (struct sigaction){.sa_sigaction = informed, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, 0);
    sigaction(SIGALRM, &action, 0);
    sigaction(SIGCHLD, &action, 0);
    sigaction(SIGPIPE, &action, 0);
    sigaction(SIGTERM, &action, 0);
    kill(getpid(), SIGUSR1);
    told("kill", getpid());
    raise(SIGUSR1);
    told("raise", getpid());
    sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 5});
    told("sigqueue", getpid());
    alarm(1);
    pause();
    T(count);
    reset();
    sigset_t block, before;
    sigemptyset(&block);
    sigaddset(&block, SIGCHLD);
    pid_t child = fork();
    if (!child) { as(1234); _exit(3); }
    while (!count) usleep(1000);
    told("child", child);
    waitpid(child, 0, 0);
    child = fork();
    if (!child) { as(1234); setresuid(1234, 1234, 1234); kill(getppid(), SIGUSR1); _exit(0); }
    waitpid(child, 0, 0);
    reset();
    child = fork();
    if (!child) { sigqueue(getppid(), SIGTERM, (union sigval){.sival_int = 9}); kill(getpid(), SIGKILL); }
    while (last_value != 9 && count < 2) usleep(1000);
    waitpid(child, 0, 0);
    reset();
    signal(SIGCHLD, SIG_DFL);
    child = fork();
    if (!child) { setresuid(0, 0, 1234); usleep(1000); sigqueue(getppid(), SIGTERM, (union sigval){.sival_int = 11}); _exit(0); }
    waitpid(child, 0, 0);
    told("sigqueue of a child", child);
    child = fork();
    if (!child) { setresuid(1234, 0, 0); kill(getppid(), SIGTERM); _exit(0); }
    waitpid(child, 0, 0);
    told("kill of a child with another real user", child);
    int p[2];
    pipe(p);
    close(p[0]);
    T(write(p[1], "x", 1));
    T(count);
    reset();
    SECTION("queueing what is not true");
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_code = SI_USER;
    child = sleeper(0);
    T(syscall(SYS_rt_sigqueueinfo, child, SIGUSR2, &info));
    info.si_code = SI_TKILL;
    T(syscall(SYS_rt_sigqueueinfo, child, SIGUSR2, &info));
    info.si_code = 5;
    T(syscall(SYS_rt_sigqueueinfo, child, SIGUSR2, &info));
    info.si_code = SI_KERNEL;
    T(syscall(SYS_rt_sigqueueinfo, child, 0, &info));
    info.si_code = SI_USER;
    info.si_pid = 77;
    info.si_uid = 88;
    T(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &info));
    told("own lie", 77);
    info.si_code = -60;
    T(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &info));
    told("own code", 77);
    T(syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGUSR1, &info));
    told("own thread", 77);
    T(syscall(SYS_rt_sigqueueinfo, 0, SIGUSR1, &info));
    T(syscall(SYS_rt_sigqueueinfo, -1, SIGUSR1, &info));
    T(syscall(SYS_rt_sigqueueinfo, 99999, SIGUSR1, &info));
    T(syscall(SYS_rt_sigqueueinfo, getpid(), 65, &info));
    T(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, 8));
    T(syscall(SYS_rt_tgsigqueueinfo, getpid(), 0, SIGUSR1, &info));
    T(syscall(SYS_rt_tgsigqueueinfo, getpid(), 99999, SIGUSR1, &info));
    end(child);
    SECTION("actions");
    T(sigaction(SIGKILL, &action, 0));
    T(sigaction(SIGSTOP, &action, 0));
    T(sigaction(0, &action, 0));
    T(syscall(SYS_rt_sigaction, 65, 0, 0, 8));
    T(syscall(SYS_rt_sigaction, SIGUSR1, 0, 0, 4));
    T(syscall(SYS_rt_sigprocmask, 9, &block, 0, 8));
    T(syscall(SYS_rt_sigprocmask, 0, &block, 0, 16));
    T(syscall(SYS_rt_sigprocmask, 0, 8, 0, 8));
    action = (struct sigaction){.sa_handler = plain, .sa_flags = SA_RESETHAND};
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);
    T(count);
    sigaction(SIGUSR1, 0, &action);
    IS(action.sa_handler == SIG_DFL);
    sigfillset(&block);
    T(sigprocmask(SIG_SETMASK, &block, &before));
    sigprocmask(SIG_SETMASK, 0, &block);
    T(sigismember(&block, SIGKILL));
    T(sigismember(&block, SIGSTOP));
    T(sigismember(&block, SIGUSR1));
    SECTION("queues");
    reset();
    for (int number = 30; number < 45; number++) signal(number, plain);
    signal(SIGUSR1, plain);
    raise(SIGUSR1);
    raise(SIGUSR1);
    raise(40);
    raise(38);
    raise(40);
    sigset_t pending;
    sigpending(&pending);
    printf("pending %d %d %d %d\n", sigismember(&pending, SIGUSR1), sigismember(&pending, 40), sigismember(&pending, 38), sigismember(&pending, 39));
    sigprocmask(SIG_SETMASK, &before, 0);
    printf("count %d, order %d %d %d %d\n", count, order[0], order[1], order[2], order[3]);
    reset();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, 41);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    struct timespec brief = {0, 5000000};
    T(sigtimedwait(&set, &info, &brief));
    sigqueue(getpid(), 41, (union sigval){.sival_int = 6});
    T(sigtimedwait(&set, &info, &brief));
    printf("code %d value %d mine %d\n", info.si_code, info.si_value.sival_int, info.si_pid == getpid());
    brief.tv_nsec = -1;
    T(sigtimedwait(&set, &info, &brief));
    child = fork();
    if (!child) { usleep(20000); kill(getppid(), SIGUSR1); _exit(0); }
    T(sigwaitinfo(&set, &info));
    IS(info.si_pid == child);
    waitpid(child, 0, 0);
    child = fork();
    if (!child) { usleep(20000); kill(getppid(), SIGUSR1); _exit(0); }
    sigfillset(&block);
    sigdelset(&block, SIGUSR1);
    T(sigsuspend(&block));
    T(count);
    waitpid(child, 0, 0);
    sigprocmask(SIG_SETMASK, &before, 0);
    SECTION("another stack");
    stack_t stack = {space, 0, sizeof space}, old;
    T(sigaltstack(&stack, &old));
    T(old.ss_flags);
    action = (struct sigaction){.sa_sigaction = informed, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);
    T(on_stack);
    stack.ss_size = 100;
    T(sigaltstack(&stack, 0));
    stack.ss_flags = 99;
    T(sigaltstack(&stack, 0));
    stack.ss_flags = SS_DISABLE;
    T(sigaltstack(&stack, 0));
    raise(SIGUSR1);
    T(on_stack);
    SECTION("defaults");
    static const int numbers[] = {SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV, SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGCHLD, SIGCONT, SIGURG, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGWINCH, SIGIO, SIGPWR, SIGSYS, 34, 64};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        printf("%d ", numbers[i]);
        CHILD({ signal(numbers[i], SIG_DFL); kill(getpid(), numbers[i]); _exit(50); });
    }
    CHILD({ *(volatile int *)8 = 1; });
    CHILD({ signal(SIGSEGV, SIG_IGN); *(volatile int *)8 = 1; });
    CHILD({ __asm__ volatile("ud2"); });
    CHILD({ volatile int zero = 0; zero = 1 / zero; });
    return 0;
}
