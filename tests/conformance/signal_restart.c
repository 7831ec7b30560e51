// Calls that wait, and a signal with a handler: which are restarted by SA_RESTART and which never (signal(7)).
#include "check.h"
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <linux/futex.h>

static volatile sig_atomic_t handled;
static void handler(int number) { (void)number; handled++; }

// What lets a restarted call end: a second process does it, later.
static int wake_pipe[2], sockets[2], listener;
static struct sockaddr_un address = {AF_UNIX, "/tmp/restart"};

// Waits until a process sleeps and goes on sleeping: however busy the machine is, it is in its call then.
static void settled(pid_t child) {
    char path[64], line[256];
    sprintf(path, "/proc/%d/stat", child);
    for (int seen = 0, i = 0; seen < 5 && i < 300; i++) {
        usleep(10000);
        int fd = open(path, O_RDONLY);
        ssize_t length = read(fd, line, 255);
        close(fd);
        line[length < 0 ? 0 : length] = 0;
        char *state = strrchr(line, ')');
        seen = state && state[2] == 'S' ? seen + 1 : 0;
    }
}

// Runs a call in a child, sends it a signal while it waits, then, where it was restarted, what it waits for.
#define WAITS(name, call, wake) \
    for (int restart = 0; restart < 2; restart++) { \
        pipe(wake_pipe); \
        socketpair(AF_UNIX, SOCK_STREAM, 0, sockets); \
        /* Before the fork, so that a child that is late is not killed. */ \
        struct sigaction action = {.sa_handler = handler, .sa_flags = restart ? SA_RESTART : 0}; \
        sigaction(SIGUSR1, &action, 0); \
        pid_t child = fork(); \
        if (!child) { \
            char buffer[16]; \
            (void)buffer; \
            alarm(20); \
            errno = 0; \
            long result = call; \
            printf("%s, SA_RESTART %d: %ld %s, handled %d\n", name, restart, result < 0 ? -1 : result, result < 0 ? check_error(errno) : "", handled); \
            _exit(0); \
        } \
        settled(child); \
        kill(child, SIGUSR1); \
        usleep(60000); \
        wake; \
        int status; \
        waitpid(child, &status, 0); \
        if (status) printf("%s, SA_RESTART %d: status %d\n", name, restart, status); \
        close(wake_pipe[0]); close(wake_pipe[1]); close(sockets[0]); close(sockets[1]); \
    }

static int do_poll(int timeout) { struct pollfd poll_ = {wake_pipe[0], POLLIN, 0}; return poll(&poll_, 1, timeout); }
static int do_select(void) { fd_set set; FD_ZERO(&set); FD_SET(wake_pipe[0], &set); return select(wake_pipe[0] + 1, &set, 0, 0, 0); }
static int do_epoll(void) {
    int epoll = epoll_create1(0);
    struct epoll_event event = {EPOLLIN};
    epoll_ctl(epoll, EPOLL_CTL_ADD, wake_pipe[0], &event);
    return epoll_wait(epoll, &event, 1, -1);
}
static long do_futex(void) { static uint32_t word; struct timespec time = {0, 600000000}; return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, 0, 0); }
static long do_sleep(void) { struct timespec time = {0, 600000000}, left = {9, 9}; long result = nanosleep(&time, &left); if (result < 0) printf("left %d ", left.tv_sec == 0 && left.tv_nsec > 0); return result; }
static long do_wait(void) { if (!fork()) { usleep(600000); _exit(1); } return wait(0) > 0 ? 1 : -1; }
static long fill_and_write(void) { static char bytes[70000]; fcntl(wake_pipe[1], F_SETFL, O_NONBLOCK); write(wake_pipe[1], bytes, sizeof bytes); fcntl(wake_pipe[1], F_SETFL, 0); return write(wake_pipe[1], bytes, 10); }
static long partial_write(void) { static char bytes[100000]; return write(wake_pipe[1], bytes, sizeof bytes); }
static long do_accept(void) { return accept(listener, 0, 0) >= 0 ? 1 : -1; }
static long connect_later(void) { int s = socket(AF_UNIX, SOCK_STREAM, 0); long r = connect(s, (void *)&address, sizeof address); close(s); return r; }
static long timed_receive(void) { struct timeval time = {1, 0}; setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time); char b[4]; return recv(sockets[0], b, 4, 0); }
static long lock(void) { int fd = open("/tmp/locked", O_RDWR); struct flock l = {F_WRLCK, SEEK_SET, 0, 1}; return fcntl(fd, F_SETLKW, &l); }
static long do_flock(void) { int fd = open("/tmp/flocked", O_RDWR); return flock(fd, LOCK_EX); }
static long open_fifo(void) { return open("/tmp/fifo", O_RDONLY) >= 0 ? 1 : -1; }
static long do_suspend(void) { sigset_t none; sigemptyset(&none); return sigsuspend(&none); }
static long do_timedwait(void) { sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR2); struct timespec time = {0, 600000000}; return sigtimedwait(&set, 0, &time); }
static long do_eventfd(void) { int fd = eventfd(0, 0); uint64_t value; return read(fd, &value, 8); }

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    unlink(address.sun_path);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(listener, (void *)&address, sizeof address);
    listen(listener, 5);
    int locked = open("/tmp/locked", O_CREAT | O_RDWR, 0600), flocked = open("/tmp/flocked", O_CREAT | O_RDWR, 0600);
    struct flock hold = {F_WRLCK, SEEK_SET, 0, 1}, release = {F_UNLCK, SEEK_SET, 0, 1};
    mkfifo("/tmp/fifo", 0600);
    SECTION("restarted where asked for");
    WAITS("read of a pipe", read(wake_pipe[0], buffer, 16), write(wake_pipe[1], "abc", 3));
    WAITS("write to a full pipe", fill_and_write(), { static char sink[70000]; read(wake_pipe[0], sink, 65536); });
    WAITS("half a write", partial_write(), { static char sink[200000]; int left = 100000; fcntl(wake_pipe[0], F_SETFL, O_NONBLOCK); for (int i = 0; i < 100 && left > 0; i++) { int n = read(wake_pipe[0], sink, left); if (n > 0) left -= n; else usleep(2000); } });
    WAITS("recv", recv(sockets[0], buffer, 16, 0), write(sockets[1], "ab", 2));
    WAITS("recvmsg", ({ struct iovec v = {buffer, 16}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1}; recvmsg(sockets[0], &m, 0); }), write(sockets[1], "ab", 2));
    WAITS("accept", do_accept(), if (restart) connect_later());
    WAITS("wait", do_wait(), );
    fcntl(locked, F_SETLK, &hold);
    WAITS("record lock", lock(), if (restart) fcntl(locked, F_SETLK, &release));
    flock(flocked, LOCK_EX);
    WAITS("flock", do_flock(), if (restart) flock(flocked, LOCK_UN));
    WAITS("open of a fifo", open_fifo(), if (restart) close(open("/tmp/fifo", O_WRONLY)));
    WAITS("futex", do_futex(), );
    SECTION("never restarted");
    WAITS("poll", do_poll(-1), write(wake_pipe[1], "abc", 3));
    WAITS("select", do_select(), write(wake_pipe[1], "abc", 3));
    WAITS("epoll", do_epoll(), write(wake_pipe[1], "abc", 3));
    WAITS("nanosleep", do_sleep(), );
    WAITS("usleep of a clock", ({ struct timespec t = {0, 600000000}; long r = clock_nanosleep(CLOCK_MONOTONIC, 0, &t, 0); errno = r; r ? -1 : 0; }), );
    WAITS("recv with a time-out", timed_receive(), write(sockets[1], "ab", 2));
    WAITS("pause", pause(), );
    WAITS("sigsuspend", do_suspend(), );
    WAITS("sigtimedwait", do_timedwait(), );
    SECTION("ignored and stopped: nobody notices");
    for (int round = 0; round < 2; round++) {
        pipe(wake_pipe);
        pid_t child = fork();
        if (!child) { char b[4]; signal(SIGUSR1, SIG_IGN); errno = 0; long result = round ? do_poll(3000) : read(wake_pipe[0], b, 4); printf("%ld %s\n", result, result < 0 ? check_error(errno) : ""); _exit(0); }
        usleep(50000);
        kill(child, SIGUSR1);
        kill(child, SIGWINCH);
        kill(child, SIGCHLD);
        kill(child, SIGSTOP);
        int status;
        T(waitpid(child, &status, WUNTRACED) == child);
        T(WIFSTOPPED(status));
        kill(child, SIGCONT);
        usleep(50000);
        write(wake_pipe[1], "ab", 2);
        waitpid(child, &status, 0);
        close(wake_pipe[0]);
        close(wake_pipe[1]);
    }
    return 0;
}
