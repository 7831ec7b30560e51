// Resource limits: getrlimit(2), setrlimit(2), prlimit(2), and what each one does.
#include "check.h"
#include <sys/resource.h>
#include <pthread.h>

static void show(int resource) {
    struct rlimit limit;
    if (getrlimit(resource, &limit)) { printf("%d: %s\n", resource, check_error(errno)); return; }
    printf("%d: %lld %lld\n", resource, (long long)limit.rlim_cur, (long long)limit.rlim_max);
}
static int set(int resource, rlim_t soft, rlim_t hard) { struct rlimit limit = {soft, hard}; return setrlimit(resource, &limit); }
static void *nothing(void *unused) { return unused; }
static int depth(int n) { volatile char page[4096]; page[0] = n; return n ? depth(n - 1) + page[0] : 0; }

int main(void) {
    struct rlimit limit, old;
    SECTION("values");
    show(RLIMIT_CPU); show(RLIMIT_FSIZE); show(RLIMIT_DATA); show(RLIMIT_STACK); show(RLIMIT_RSS); show(RLIMIT_NOFILE); show(RLIMIT_AS); show(RLIMIT_LOCKS); show(RLIMIT_NICE); show(RLIMIT_RTPRIO); show(RLIMIT_RTTIME);
    show(16); show(-1); show(99);
    SECTION("errors");
    T(set(99, 1, 1));
    T(set(RLIMIT_NOFILE, 10, 5));
    T(set(RLIMIT_NOFILE, 1024, 1025));
    T(set(RLIMIT_NOFILE, 1024, RLIM_INFINITY));
    T(setrlimit(RLIMIT_NOFILE, (void *)8));
    T(getrlimit(RLIMIT_NOFILE, (void *)8));
    T(prlimit(0, 99, 0, &old));
    T(prlimit(99999, RLIMIT_CPU, 0, &old));
    T(prlimit(-1, RLIMIT_CPU, 0, &old));
    T(prlimit(0, RLIMIT_CPU, 0, 0));
    T(prlimit(getpid(), RLIMIT_NOFILE, 0, &old));
    T(old.rlim_cur);
    SECTION("others");
    pid_t child = fork();
    if (!child) { for (;;) pause(); }
    T(prlimit(child, RLIMIT_NOFILE, 0, &old));
    limit = (struct rlimit){50, 60};
    T(prlimit(child, RLIMIT_NOFILE, &limit, &old));
    T(old.rlim_cur);
    T(prlimit(child, RLIMIT_NOFILE, 0, &old));
    T(old.rlim_cur);
    T(old.rlim_max);
    CHILD({ setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); T(prlimit(child, RLIMIT_NOFILE, 0, &old)); T(prlimit(getpid(), RLIMIT_NOFILE, 0, &old)); });
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    SECTION("inherited");
    CHILD({ T(set(RLIMIT_NOFILE, 100, 200)); CHILD(show(RLIMIT_NOFILE)); T(set(RLIMIT_NOFILE, 100, 300)); T(set(RLIMIT_NOFILE, 150, 150)); CHILD(execl("/bin/sh", "sh", "-c", "ulimit -n; ulimit -Hn", (char *)0)); });
    CHILD({ set(RLIMIT_STACK, 1 << 20, 2 << 20); set(RLIMIT_CORE, 0, 0); set(RLIMIT_NPROC, 500, 600); set(RLIMIT_RSS, 5, 6); set(RLIMIT_LOCKS, 5, 6); set(RLIMIT_MSGQUEUE, 5, 6); set(RLIMIT_RTTIME, 5, 6); execl("/bin/sh", "sh", "-c", "grep -E 'stack|processes|resident|locks|msgqueue|realtime t|core' /proc/self/limits; ulimit -s; ulimit -c", (char *)0); });
    SECTION("NOFILE");
    CHILD({ set(RLIMIT_NOFILE, 5, 10); T(dup(0)); T(dup(0)); T(dup(0)); T(dup2(0, 5)); T(dup2(0, 100)); T(fcntl(0, F_DUPFD, 5)); set(RLIMIT_NOFILE, 0, 10); T(open("/dev/null", O_RDONLY)); T(close(4)); T(dup(0)); int p[2]; T(pipe(p)); });
    CHILD({ set(RLIMIT_NOFILE, 3, 1024); int p[2]; T(pipe(p)); T(set(RLIMIT_NOFILE, 70, 1024)); for (int i = 3; i < 63; i++) dup(0); int fd = dup(0); printf("%d\n", fd); CHILD(execl("/bin/echo", "echo", "many files", (char *)0)); });
    CHILD({ set(RLIMIT_NOFILE, 20, 20); CHILD(execl("/bin/echo", "echo", "few files", (char *)0)); CHILD({ execl("/usr/bin/python3", "python3", "-c", "print(open('/etc/hostname').fileno())", (char *)0); }); });
    SECTION("FSIZE");
    CHILD({ signal(SIGXFSZ, SIG_IGN); set(RLIMIT_FSIZE, 10, 20); int fd = open("/tmp/fsize", O_CREAT | O_RDWR | O_TRUNC, 0600); T(write(fd, "1234567890", 10)); T(write(fd, "1", 1)); T(ftruncate(fd, 11)); T(ftruncate(fd, 10)); T(pwrite(fd, "12", 2, 10)); });
    CHILD({ set(RLIMIT_FSIZE, 10, 20); int fd = open("/tmp/fsize", O_CREAT | O_RDWR | O_TRUNC, 0600); write(fd, "1234567890", 10); write(fd, "1", 1); });
    SECTION("CPU");
    CHILD({ T(set(RLIMIT_CPU, 1, 5)); for (volatile long i = 0;; i++) {} });
    SECTION("AS and DATA");
    CHILD({ T(set(RLIMIT_AS, 100 << 20, 100 << 20)); T(mmap(0, 200 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); OK(mmap(0, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); });
    CHILD({ T(set(RLIMIT_DATA, 10 << 20, 10 << 20)); T(mmap(0, 20 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); });
    CHILD({ T(set(RLIMIT_AS, 100 << 20, 200 << 20)); T(set(RLIMIT_AS, 200 << 20, 200 << 20)); OK(mmap(0, 150 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); T(set(RLIMIT_AS, 300 << 20, 300 << 20)); });
    SECTION("STACK");
    CHILD({ T(set(RLIMIT_STACK, 200 << 10, 8 << 20)); depth(200); });
    CHILD({ T(set(RLIMIT_STACK, 16 << 20, 16 << 20)); printf("%d\n", depth(3000) != 12345); });
    SECTION("NPROC");
    CHILD({ set(RLIMIT_NPROC, 1, 1); T(fork() >= 0); });
    CHILD({
        setresgid(1777, 1777, 1777);
        setresuid(1777, 1777, 1777);
        T(set(RLIMIT_NPROC, 3, 3));
        pid_t one = fork();
        if (!one) { for (;;) pause(); }
        pid_t two = fork();
        if (!two) { for (;;) pause(); }
        IS(one > 0 && two > 0);
        pid_t three = fork();
        if (!three) _exit(0);
        IS(three == -1 && errno == EAGAIN);
        pthread_t thread;
        printf("pthread_create: %s\n", check_error(pthread_create(&thread, 0, nothing, 0)));
        kill(one, SIGKILL);
        waitpid(one, 0, 0);
        three = fork();
        if (!three) _exit(0);
        IS(three > 0);
        waitpid(three, 0, 0);
        kill(two, SIGKILL);
        waitpid(two, 0, 0);
    });
    SECTION("NICE");
    T(getpriority(PRIO_PROCESS, 0));
    T(getpriority(PRIO_PROCESS, 99999));
    T(getpriority(9, 0));
    T(getpriority(PRIO_PGRP, 0));
    T(getpriority(PRIO_PGRP, 99999));
    T(getpriority(PRIO_USER, 0));
    T(getpriority(PRIO_USER, 4321));
    T(setpriority(PRIO_PROCESS, 0, -5));
    CHILD({ T(setpriority(PRIO_PROCESS, 0, 5)); T(getpriority(PRIO_PROCESS, 0)); T(syscall(SYS_getpriority, PRIO_PROCESS, 0)); T(setpriority(PRIO_PROCESS, 0, 4)); T(setpriority(PRIO_PROCESS, 0, 100)); T(getpriority(PRIO_PROCESS, 0)); T(setpriority(PRIO_PROCESS, 0, 0)); T(nice(-1)); });
    CHILD({ T(nice(3)); T(nice(0)); CHILD(T(nice(0))); });
    CHILD({ setresuid(1888, 1888, 1888); T(setpriority(PRIO_PROCESS, 1, 5)); T(setpriority(PRIO_PROCESS, 99999, 5)); T(setpriority(PRIO_USER, 1888, 6)); T(getpriority(PRIO_USER, 1888)); T(getpriority(PRIO_PROCESS, 0)); T(setpriority(PRIO_USER, 0, 6)); T(setpriority(PRIO_PGRP, 0, 7)); T(setpriority(9, 0, 7)); });
    return 0;
}
