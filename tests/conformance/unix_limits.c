// What limits Unix sockets: send buffers, the sizes of messages, backlogs, waiting and not waiting.
#include "sockets.h"
#include <pthread.h>

static int number(int fd, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    if (getsockopt(fd, SOL_SOCKET, name, &value, &length) < 0) return -errno;
    return value;
}

static int set(int fd, int name, int value) { return setsockopt(fd, SOL_SOCKET, name, &value, sizeof value); }

static void on_alarm(int signal) { (void)signal; }

static void *read_later(void *fd) {
    usleep(50000);
    char *buffer = malloc(1 << 20);
    long total = 0, n;
    while (total < 700000 && (n = read(*(int *)fd, buffer, 1 << 20)) > 0) total += n;
    free(buffer);
    return (void *)total;
}

int main(void) {
    int p[2], d[2];
    static char buffer[1 << 20];
    SECTION("sizes of buffers");
    T(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p));
    T(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, d));
    T(number(p[0], SO_SNDBUF));
    T(number(p[0], SO_RCVBUF));
    static const int sizes[] = {0, 1, 1000, 2304, 5000, 100000, 212992};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        printf("%d: ", sizes[i]);
        T(set(p[0], SO_SNDBUF, sizes[i]));
        T(number(p[0], SO_SNDBUF));
        T(set(p[0], SO_RCVBUF, sizes[i]));
        T(number(p[0], SO_RCVBUF));
    }
    T(set(p[0], SO_SNDBUFFORCE, 1000000));
    T(set(p[0], SO_RCVBUFFORCE, 1000000));
    T(set(p[0], SO_SNDBUF, 212992));
    SECTION("a stream fills");
    long total = 0, n;
    while ((n = write(p[0], buffer, 1000)) > 0) total += n;
    T(errno);
    IS(total > 50000);
    ready("full", p[0]);
    T(send(p[0], buffer, 1, 0));
    T(send(p[0], buffer, 1, MSG_DONTWAIT));
    long got = 0;
    while ((n = read(p[1], buffer, sizeof buffer)) > 0) got += n;
    IS(got == total);
    ready("emptied", p[0]);
    int out = -1;
    T(ioctl(p[0], TIOCOUTQ, &out));
    T(out);
    T(write(p[0], "x", 1));
    T(ioctl(p[0], TIOCOUTQ, &out));
    IS(out > 0);
    T(ioctl(p[0], FIONREAD, &out));
    T(out);
    T(ioctl(p[1], FIONREAD, &out));
    T(out);
    T(read(p[1], buffer, 1));
    T(ioctl(p[0], TIOCOUTQ, &out));
    T(out);
    // A large write is cut short where it may not wait.
    n = write(p[0], buffer, sizeof buffer);
    IS(n > 100000 && n < (long)sizeof buffer);
    while (read(p[1], buffer, sizeof buffer) > 0) {}
    SECTION("messages");
    T(set(d[0], SO_SNDBUF, 5000));
    T(number(d[0], SO_SNDBUF));
    T(send(d[0], buffer, 10000, 0));
    T(send(d[0], buffer, 9969, 0));
    T(send(d[0], buffer, 9968, 0));
    T(send(d[0], buffer, 1, 0));
    ready("full", d[0]);
    T(recv(d[1], buffer, sizeof buffer, 0));
    ready("emptied", d[0]);
    T(set(d[0], SO_SNDBUF, 0));
    T(send(d[0], buffer, 4608 - 32, 0));
    T(send(d[0], buffer, 4608 - 31, 0));
    T(recv(d[1], buffer, sizeof buffer, 0));
    // What more than this sets depends on the machine (net.core.wmem_max).
    T(set(d[0], SO_SNDBUF, 212992));
    T(send(d[0], buffer, 425984 - 32, 0));
    T(send(d[0], buffer, 425984 - 31, 0));
    T(recv(d[1], buffer, sizeof buffer, 0));
    int packets[2];
    T(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, packets));
    T(send(packets[0], buffer, 212992 - 32, 0));
    T(send(packets[0], buffer, 212992 - 31, 0));
    T(send(packets[0], buffer, 1, 0));
    SECTION("waiting for room");
    int w[2];
    pthread_t thread;
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, w));
    pthread_create(&thread, 0, read_later, &w[1]);
    T(write(w[0], buffer, 700000));
    void *result;
    pthread_join(thread, &result);
    T((long)result);
    // A signal ends it with what was written so far.
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, 0);
    ualarm(100000, 0);
    n = write(w[0], buffer, 1 << 20);
    IS(n > 0 && n < 1 << 20);
    ualarm(100000, 0);
    T(write(w[0], buffer, 1));
    struct timeval little = {0, 100000};
    T(setsockopt(w[0], SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little));
    T(write(w[0], buffer, 1));
    T(send(w[0], buffer, 1, 0));
    ualarm(50000, 0);
    T(send(w[0], buffer, 1, 0));
    // A peer that goes wakes it.
    little.tv_usec = 0;
    T(setsockopt(w[0], SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little));
    signal(SIGPIPE, SIG_IGN);
    if (fork() == 0) { close(w[0]); usleep(100000); _exit(0); }
    close(w[1]);
    T(write(w[0], buffer, 1));
    wait(0);
    SECTION("backlogs");
    for (int backlog = -1; backlog < 3; backlog++) {
        char name[32];
        snprintf(name, sizeof name, "@backlog%d", backlog);
        int listener = socket(AF_UNIX, SOCK_STREAM, 0), count = 0, last = 0;
        bind_name(listener, name);
        listen(listener, backlog);
        while (count < 8 && (last = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)) >= 0 && connect_name(last, name) == 0) count++;
        printf("backlog %d: %d connect, then %s\n", backlog, count, count < 8 ? check_error(errno) : "more");
        ready("refused", last);
        ready("listener", listener);
        T(accept(listener, 0, 0) >= 0);
        T(connect_name(last, name));
        close(listener);
    }
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), first = socket(AF_UNIX, SOCK_STREAM, 0), second = socket(AF_UNIX, SOCK_STREAM, 0);
    T(bind_name(listener, "@waits"));
    T(listen(listener, 0));
    T(connect_name(first, "@waits"));
    little.tv_usec = 100000;
    T(setsockopt(second, SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little));
    T(connect_name(second, "@waits"));
    little.tv_usec = 0;
    T(setsockopt(second, SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little));
    if (fork() == 0) { usleep(100000); accept(listener, 0, 0); _exit(0); }
    T(connect_name(second, "@waits"));
    wait(0);
    // One that waits learns that the listener goes.
    int third = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fork() == 0) {
        close(listener);
        T(connect_name(third, "@waits"));
        _exit(0);
    }
    usleep(100000);
    close(listener);
    wait(0);
    SECTION("a queue of datagrams");
    int server = socket(AF_UNIX, SOCK_DGRAM, 0), client = socket(AF_UNIX, SOCK_DGRAM, 0), other = socket(AF_UNIX, SOCK_DGRAM, 0);
    T(bind_name(server, "@queue"));
    T(connect_name(client, "@queue"));
    for (n = 0; send(client, "x", 1, MSG_DONTWAIT) == 1; n++) {}
    T(n);
    little.tv_usec = 100000;
    T(setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little));
    T(send(client, "x", 1, 0));
    if (fork() == 0) { usleep(50000); recv(server, buffer, 9, 0); _exit(0); }
    little.tv_usec = 0;
    T(setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little));
    T(send(client, "x", 1, 0));
    wait(0);
    if (fork() == 0) { usleep(50000); recv(server, buffer, 9, 0); _exit(0); }
    T(sendto_name(other, "x", "@queue"));
    wait(0);
    if (fork() == 0) { close(server); T(send(client, "x", 1, 0)); _exit(0); }
    usleep(100000);
    close(server);
    wait(0);
    return 0;
}
