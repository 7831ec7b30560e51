// wait4(2) and waitid(2): every form, stops and continues, orphans and zombies.
#include "check.h"
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/times.h>

static pid_t stopped_child(void) {
    pid_t child = fork();
    if (!child) { for (;;) pause(); }
    // A group of its own: the stop signals of terminals do nothing in this one, which is orphaned.
    setpgid(child, child);
    return child;
}

static void show(siginfo_t *info, pid_t expected) {
    printf("mine %d signo %d code %d status %d errno %d\n", info->si_pid == expected, info->si_signo, info->si_code, info->si_status, info->si_errno);
}

#define WAITID(type, id, options) \
    do { \
        siginfo_t info; \
        memset(&info, 0, sizeof info); \
        errno = 0; \
        int result = waitid(type, id, &info, options); \
        printf("waitid(%s, %s, %s) = %d %s: ", #type, #id, #options, result, result ? check_error(errno) : ""); \
        show(&info, child); \
    } while (0)

int main(void) {
    int status;
    struct rusage usage;
    pid_t child;
    SECTION("nobody");
    T(wait4(-1, &status, 0, 0));
    T(wait4(1, &status, 0, 0));
    T(wait4(-2, &status, 0, 0));
    T(wait4(0, &status, 0, 0));
    T(wait4(-1, &status, WNOHANG, 0));
    T(wait4(-1, &status, 0x40, 0));
    T(wait4(-1, &status, WNOWAIT, 0));
    T(wait4(INT_MIN, &status, 0, 0));
    T(waitid(P_ALL, 0, 0, WEXITED));
    T(waitid(P_ALL, 0, 0, 0));
    T(waitid(P_PID, 0, 0, WEXITED));
    T(waitid(P_PID, -1, 0, WEXITED));
    T(waitid(P_PGID, -1, 0, WEXITED));
    T(waitid(P_PGID, 0, 0, WEXITED));
    T(waitid(9, 0, 0, WEXITED));
    SECTION("exits");
    child = fork();
    if (!child) _exit(300);
    WAITID(P_PID, child, WEXITED | WNOWAIT);
    WAITID(P_ALL, 0, WEXITED | WNOWAIT | WNOHANG);
    WAITID(P_PGID, getpgrp(), WEXITED | WNOWAIT);
    WAITID(P_PGID, 0, WEXITED | WNOWAIT);
    WAITID(P_PID, child, WSTOPPED | WNOHANG);
    WAITID(P_PID, child, WEXITED);
    WAITID(P_PID, child, WEXITED);
    child = fork();
    if (!child) kill(getpid(), SIGKILL);
    WAITID(P_PID, child, WEXITED);
    child = fork();
    if (!child) { setresuid(1000, 1000, 1000); abort(); }
    WAITID(P_PID, child, WEXITED);
    child = fork();
    if (!child) _exit(7);
    IS(wait4(0, &status, 0, &usage) == child);
    T(status);
    IS(usage.ru_utime.tv_sec == 0);
    child = fork();
    if (!child) { setpgid(0, 0); _exit(8); }
    usleep(20000);
    T(wait4(0, &status, WNOHANG, 0));
    IS(wait4(-child, &status, 0, 0) == child);
    T(status);
    child = fork();
    if (!child) _exit(9);
    T(wait4(child, (void *)8, 0, 0));
    T(wait4(child, 0, 0, 0));
    child = fork();
    if (!child) { pause(); _exit(1); }
    T(wait4(child, &status, WNOHANG, 0));
    WAITID(P_PID, child, WEXITED | WNOHANG);
    T(kill(child, SIGTERM));
    IS(wait4(-1, &status, 0, 0) == child);
    T(WTERMSIG(status));
    SECTION("stops");
    child = stopped_child();
    T(kill(child, SIGSTOP));
    IS(wait4(child, &status, WUNTRACED, 0) == child);
    IS(WIFSTOPPED(status));
    T(WSTOPSIG(status));
    T(wait4(child, &status, WUNTRACED | WNOHANG, 0));
    T(kill(child, SIGCONT));
    IS(wait4(child, &status, WCONTINUED, 0) == child);
    IS(WIFCONTINUED(status));
    T(kill(child, SIGTSTP));
    WAITID(P_PID, child, WSTOPPED);
    T(kill(child, SIGCONT));
    WAITID(P_PID, child, WCONTINUED | WNOWAIT);
    WAITID(P_PID, child, WCONTINUED);
    T(kill(child, SIGTTIN));
    WAITID(P_PID, child, WSTOPPED | WEXITED);
    T(kill(child, SIGKILL));
    WAITID(P_PID, child, WEXITED);
    SECTION("stops in calls that wait here");
    int p[2];
    pipe(p);
    child = fork();
    if (!child) { char byte; _exit(read(p[0], &byte, 1) == 1 ? 20 : 21); }
    usleep(20000);
    T(kill(child, SIGSTOP));
    IS(wait4(child, &status, WUNTRACED, 0) == child);
    T(WSTOPSIG(status));
    T(kill(child, SIGCONT));
    IS(wait4(child, &status, WCONTINUED, 0) == child);
    usleep(20000);
    T(wait4(child, &status, WNOHANG, 0));
    T(write(p[1], "x", 1));
    IS(wait4(child, &status, 0, 0) == child);
    T(WEXITSTATUS(status));
    child = fork();
    if (!child) { struct timespec time = {0, 200000000}; int result = nanosleep(&time, 0); _exit(result ? 22 : 23); }
    usleep(20000);
    T(kill(child, SIGSTOP));
    IS(wait4(child, &status, WUNTRACED, 0) == child);
    T(kill(child, SIGCONT));
    IS(wait4(child, &status, 0, 0) == child);
    T(WEXITSTATUS(status));
    SECTION("SIGCHLD ignored");
    signal(SIGCHLD, SIG_IGN);
    child = fork();
    if (!child) _exit(1);
    T(wait4(child, &status, 0, 0));
    signal(SIGCHLD, SIG_DFL);
    struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGCHLD, &action, 0);
    child = fork();
    if (!child) _exit(1);
    T(wait4(child, &status, 0, 0));
    T(kill(child, 0));
    signal(SIGCHLD, SIG_DFL);
    SECTION("threads' children");
    child = fork();
    if (!child) _exit(1);
    T(wait4(child, &status, __WNOTHREAD, 0) == child);
    child = fork();
    if (!child) _exit(1);
    T(wait4(child, &status, __WCLONE, 0));
    T(wait4(child, &status, __WALL, 0) == child);
    SECTION("orphans");
    int q[2];
    pipe(q);
    // A child's child whose parent dies belongs to init then: to this very process.
    child = fork();
    if (!child) {
        pid_t orphan = fork();
        if (!orphan) {
            char byte;
            close(q[1]);
            read(q[0], &byte, 1);
            _exit(getppid() == 1 ? 40 : 41);
        }
        _exit(0);
    }
    IS(waitpid(child, &status, 0) == child);
    close(q[1]);
    IS(waitpid(-1, &status, 0) > 1);
    T(WEXITSTATUS(status));
    CHILD({
        pipe(q);
        T(prctl(PR_SET_CHILD_SUBREAPER, 1));
        pid_t middle = fork();
        if (!middle) {
            if (!fork()) { char byte; close(q[1]); read(q[0], &byte, 1); _exit(getppid() == 1 ? 41 : 42); }
            _exit(0);
        }
        waitpid(middle, &status, 0);
        close(q[1]);
        T(waitpid(-1, &status, 0) > 1);
        T(WEXITSTATUS(status));
        T(waitpid(-1, &status, 0));
    });
    SECTION("zombies");
    child = fork();
    if (!child) _exit(0);
    siginfo_t info;
    waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    T(kill(child, 0));
    T(kill(child, SIGTERM));
    IS(getpgid(child) == getpgrp());
    IS(getsid(child) == getsid(0));
    T(setpgid(child, 0));
    waitpid(child, 0, 0);
    T(kill(child, 0));
    SECTION("times");
    struct tms times_;
    OK(times(&times_));
    T(times((void *)8));
    T(getrusage(RUSAGE_SELF, &usage));
    T(getrusage(RUSAGE_CHILDREN, &usage));
    T(getrusage(RUSAGE_THREAD, &usage));
    T(getrusage(5, &usage));
    T(getrusage(0, (void *)8));
    return 0;
}
