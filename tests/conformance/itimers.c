// setitimer(2) and alarm(2).
#include "check.h"
#include <sys/syscall.h>
#include <sys/time.h>

static volatile int alarms, virtuals, profs;
static void on_alarm(int signal) {
    if (signal == SIGALRM) alarms++;
    if (signal == SIGVTALRM) virtuals++;
    if (signal == SIGPROF) profs++;
}

static int set(int which, long first, long every) {
    struct itimerval value = {{every / 1000, every % 1000 * 1000}, {first / 1000, first % 1000 * 1000}};
    return setitimer(which, &value, 0);
}

static void burn(long milliseconds) {
    struct timespec from, now;
    clock_gettime(CLOCK_MONOTONIC, &from);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000 < milliseconds);
}

int main(int argc, char **argv) {
    struct itimerval value, old;
    if (argc > 1) {
        // After an exec: timers of setitimer stay.
        getitimer(ITIMER_REAL, &value);
        IS(value.it_value.tv_sec >= 98);
        T(value.it_interval.tv_sec);
        T(alarm(0) >= 98);
        return 0;
    }
    SECTION("arguments");
    T(setitimer(3, &value, 0));
    T(setitimer(-1, &value, 0));
    T(setitimer(ITIMER_REAL, (void *)8, 0));
    T(getitimer(ITIMER_REAL, (void *)8));
    T(getitimer(3, &value));
    value = (struct itimerval){{0, 0}, {0, 1000000}};
    T(setitimer(ITIMER_REAL, &value, 0));
    value = (struct itimerval){{0, 0}, {-1, 0}};
    T(setitimer(ITIMER_REAL, &value, 0));
    value = (struct itimerval){{0, -1}, {0, 0}};
    T(setitimer(ITIMER_REAL, &value, 0));
    T(getitimer(ITIMER_REAL, &value));
    T(value.it_value.tv_sec);
    T(value.it_value.tv_usec);
    SECTION("real");
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, 0);
    sigaction(SIGVTALRM, &action, 0);
    sigaction(SIGPROF, &action, 0);
    T(set(ITIMER_REAL, 20, 0));
    getitimer(ITIMER_REAL, &value);
    IS(value.it_value.tv_usec > 0 && value.it_value.tv_usec <= 20000);
    pause();
    T(alarms);
    getitimer(ITIMER_REAL, &value);
    T(value.it_value.tv_usec);
    T(set(ITIMER_REAL, 10, 10));
    for (alarms = 0; alarms < 3;) pause();
    getitimer(ITIMER_REAL, &value);
    T(value.it_interval.tv_usec);
    IS(value.it_value.tv_usec > 0 && value.it_value.tv_usec <= 10000);
    value = (struct itimerval){{0, 0}, {0, 0}};
    T(setitimer(ITIMER_REAL, &value, &old));
    T(old.it_interval.tv_usec);
    usleep(30000);
    alarms = 0;
    usleep(30000);
    T(alarms);
    // NULL disarms.
    T(set(ITIMER_REAL, 1000000, 0));
    T(syscall(SYS_setitimer, ITIMER_REAL, 0, &old));
    IS(old.it_value.tv_sec >= 999);
    getitimer(ITIMER_REAL, &value);
    T(value.it_value.tv_sec);
    SECTION("interrupts");
    int p[2];
    char byte;
    pipe(p);
    T(set(ITIMER_REAL, 30, 0));
    T(read(p[0], &byte, 1));
    struct timespec time = {5, 0}, left;
    T(set(ITIMER_REAL, 30, 0));
    T(nanosleep(&time, &left));
    IS(left.tv_sec == 4);
    SECTION("alarm");
    T(alarm(100));
    T(alarm(50));
    getitimer(ITIMER_REAL, &value);
    T(value.it_interval.tv_sec);
    T(set(ITIMER_REAL, 200, 0));
    T(alarm(0));
    T(alarm(0));
    T(set(ITIMER_REAL, 2700, 0));
    T(alarm(1));
    alarms = 0;
    pause();
    T(alarms);
    T(alarm(0));
    // As long as possible.
    T(alarm(UINT_MAX));
    IS(alarm(0) > 1000000000);
    SECTION("children");
    T(alarm(100));
    CHILD({
        getitimer(ITIMER_REAL, &value);
        T(value.it_value.tv_sec);
        T(alarm(0));
    });
    value = (struct itimerval){{7, 0}, {100, 0}};
    setitimer(ITIMER_REAL, &value, 0);
    pid_t child = fork();
    if (child == 0) {
        setitimer(ITIMER_REAL, &value, 0);
        execl("/proc/self/exe", argv[0], "again", (char *)0);
        _exit(1);
    }
    waitpid(child, 0, 0);
    alarm(0);
    SECTION("processor time");
    T(set(ITIMER_VIRTUAL, 20, 0));
    T(set(ITIMER_PROF, 20, 20));
    burn(150);
    T(virtuals);
    IS(profs >= 2);
    getitimer(ITIMER_PROF, &value);
    IS(value.it_interval.tv_usec >= 20000);
    T(set(ITIMER_PROF, 0, 0));
    getitimer(ITIMER_PROF, &value);
    T(value.it_value.tv_usec);
    SECTION("fatal");
    CHILD({
        signal(SIGALRM, SIG_DFL);
        set(ITIMER_REAL, 20, 0);
        read(p[0], &byte, 1);
    });
    return 0;
}
