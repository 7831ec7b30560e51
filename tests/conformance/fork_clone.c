// fork(2), vfork(2), clone(2): which flags there are, what they share, what a child is.
#include "check.h"
#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static char stack[65536] __attribute__((aligned(16)));
static volatile int shared_value;
static int pair[2];

static long raw_clone(unsigned long flags) {
    return syscall(SYS_clone, flags, 0, 0, 0, 0);
}

// A child by clone(2) without a stack of its own; it exits with what the statement made of `code`. Prints how.
#define CLONED(flags, statement) \
    do { \
        long child = raw_clone(flags); \
        if (child == 0) { int code = 0; statement; syscall(SYS_exit_group, code); } \
        if (child < 0) { printf("clone(%s) = -1 %s\n", #flags, check_error(errno)); break; } \
        int status = 0; \
        pid_t waited = waitpid(child, &status, __WALL); \
        printf("clone(%s): mine %d, exited %d, status %d\n", #flags, waited == child, WIFEXITED(status), WEXITSTATUS(status)); \
    } while (0)

static int in_child(void *argument) {
    (void)argument;
    shared_value = 7;
    if (pair[0]) close(pair[0]);
    chdir("/tmp");
    umask(077);
    return 3;
}

static int exits_late(void *argument) {
    usleep(50000);
    shared_value = (int)(long)argument;
    syscall(SYS_exit, 4);
    return 0;
}

static int asks_parent(void *argument) {
    return getppid() == (pid_t)(long)argument ? 0 : 1;
}

int main(void) {
    char where[64];
    int status;
    SECTION("flags that do not go together");
    T(raw_clone(CLONE_THREAD | SIGCHLD));
    T(raw_clone(CLONE_THREAD | CLONE_VM));
    T(raw_clone(CLONE_SIGHAND | SIGCHLD));
    T(raw_clone(CLONE_SIGHAND | CLONE_THREAD));
    T(raw_clone(CLONE_FS | CLONE_NEWNS | SIGCHLD));
    T(raw_clone(CLONE_NEWPID | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM));
    T(raw_clone(CLONE_NEWUSER | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM));
    T(raw_clone(CLONE_NEWUSER | CLONE_FS | SIGCHLD));
    T(raw_clone(CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD));
    T(raw_clone(CLONE_PIDFD | CLONE_DETACHED | SIGCHLD));
    SECTION("namespaces need CAP_SYS_ADMIN");
    T(raw_clone(CLONE_NEWNS | SIGCHLD));
    T(raw_clone(CLONE_NEWUTS | SIGCHLD));
    T(raw_clone(CLONE_NEWIPC | SIGCHLD));
    T(raw_clone(CLONE_NEWPID | SIGCHLD));
    T(raw_clone(CLONE_NEWNET | SIGCHLD));
    T(raw_clone(CLONE_NEWCGROUP | SIGCHLD));
    T(unshare(CLONE_NEWNS));
    T(unshare(CLONE_NEWUTS));
    T(unshare(CLONE_NEWPID));
    T(unshare(CLONE_NEWNET));
    T(unshare(CLONE_NEWTIME));
    T(unshare(0));
    T(unshare(CLONE_FS | CLONE_FILES | CLONE_SYSVSEM));
    T(unshare(CLONE_THREAD));
    T(unshare(CLONE_VM));
    T(unshare(CLONE_SIGHAND));
    T(unshare(CLONE_VFORK));
    T(unshare(CLONE_PARENT));
    T(unshare(0x10));
    T(setns(-1, 0));
    T(setns(1, 0));
    SECTION("the signal at the end");
    CLONED(SIGCHLD, code = 5);
    CLONED(0, code = 5);
    CLONED(SIGUSR1, code = 5);
    signal(SIGUSR1, SIG_IGN);
    CLONED(SIGUSR1, code = 5);
    signal(SIGUSR1, SIG_DFL);
    CLONED(CLONE_UNTRACED | SIGCHLD, code = 1);
    CLONED(CLONE_DETACHED | SIGCHLD, code = 1);
    CLONED(CLONE_IO | CLONE_SYSVSEM | SIGCHLD, code = 1);
    long plain = raw_clone(0);
    if (plain == 0) syscall(SYS_exit_group, 9);
    usleep(30000);
    T(waitpid(plain, &status, 0));
    IS(waitpid(plain, &status, __WCLONE) == plain);
    T(WEXITSTATUS(status));
    SECTION("what is copied");
    T(pipe(pair));
    chdir("/");
    umask(022);
    CLONED(SIGCHLD, in_child(0); code = shared_value);
    T(shared_value);
    OK(fcntl(pair[0], F_GETFD));
    T(umask(022));
    IS(!strcmp(getcwd(where, sizeof where), "/"));
    SECTION("what is shared");
    CLONED(CLONE_FS | SIGCHLD, chdir("/etc"); umask(027));
    T(umask(022));
    puts(getcwd(where, sizeof where));
    CLONED(CLONE_FILES | SIGCHLD, close(pair[0]); code = dup2(pair[1], 200) == 200);
    T(fcntl(pair[0], F_GETFD));
    T(fcntl(200, F_GETFD));
    close(200);
    CLONED(CLONE_FILES | SIGCHLD, code = unshare(CLONE_FILES) || close(pair[1]));
    T(fcntl(pair[1], F_GETFD));
    pid_t child;
    KEEP(child, clone(in_child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0));
    IS(waitpid(child, &status, 0) == child);
    T(WEXITSTATUS(status));
    T(shared_value);
    chdir("/");
    KEEP(child, clone(in_child, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | SIGCHLD, 0));
    IS(waitpid(child, &status, 0) == child);
    puts(getcwd(where, sizeof where));
    T(umask(022));
    SECTION("vfork waits");
    shared_value = 0;
    KEEP(child, clone(exits_late, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, (void *)11));
    T(shared_value);
    IS(waitpid(child, &status, 0) == child);
    T(WEXITSTATUS(status));
    shared_value = 0;
    child = vfork();
    if (child == 0) { shared_value = 5; _exit(6); }
    T(shared_value);
    IS(waitpid(child, &status, 0) == child);
    T(WEXITSTATUS(status));
    child = vfork();
    if (child == 0) { char *arguments[] = {"sh", "-c", "exit 12", 0}; execv("/bin/sh", arguments); _exit(1); }
    IS(waitpid(child, &status, 0) == child);
    T(WEXITSTATUS(status));
    child = vfork();
    if (child == 0) { char *arguments[] = {"x", 0}; execv("/nonexistent", arguments); _exit(errno); }
    IS(waitpid(child, &status, 0) == child);
    T(WEXITSTATUS(status));
    SECTION("CLONE_PARENT makes a sibling");
    // In a process of its own: init may not do it.
    CHILD({
        pid_t parent = getppid();
        long sibling = raw_clone(CLONE_PARENT | SIGCHLD);
        if (sibling == 0) { syscall(SYS_exit_group, getppid() == parent ? 21 : 22); }
        printf("sibling %d, wait here = %d %s\n", sibling > 0, waitpid(sibling, &status, __WALL), check_error(errno));
    });
    IS(waitpid(-1, &status, __WALL) > 0);
    T(WEXITSTATUS(status));
    T(waitpid(-1, &status, __WALL));
    SECTION("numbers in memory");
    pid_t parent_number = 0, child_number = 0;
    long made = syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, &parent_number, &child_number, 0);
    if (made == 0) syscall(SYS_exit_group, child_number == getpid() ? 1 : 2);
    IS(parent_number == made);
    T(child_number);
    IS(waitpid(made, &status, 0) == made);
    T(WEXITSTATUS(status));
    made = syscall(SYS_clone, CLONE_PARENT_SETTID | SIGCHLD, 0, (void *)8, 0, 0);
    if (made == 0) syscall(SYS_exit_group, 1);
    IS(made > 0);
    waitpid(made, 0, 0);
    SECTION("inherited or not");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    alarm(100);
    CHILD({
        int signal_ = -1;
        prctl(PR_GET_PDEATHSIG, &signal_);
        printf("pdeathsig %d, alarm %u\n", signal_, alarm(0));
    });
    alarm(0);
    prctl(PR_SET_PDEATHSIG, 0);
    prctl(PR_SET_NAME, "parent-name");
    CHILD({ char name[16]; prctl(PR_GET_NAME, name); printf("name %s\n", name); });
    sigset_t set, now;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, 0);
    raise(SIGUSR2);
    CHILD({
        sigprocmask(SIG_BLOCK, 0, &now);
        printf("blocked %d", sigismember(&now, SIGUSR2));
        sigpending(&now);
        printf(", pending %d\n", sigismember(&now, SIGUSR2));
    });
    return 0;
}
