// Time-outs of sockets, and connections under way.
#include "sockets.h"

static void on_alarm(int signal) { (void)signal; }

static long milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void show(int fd, int name) {
    struct timeval value = {-1, -1};
    socklen_t length = sizeof value;
    if (getsockopt(fd, SOL_SOCKET, name, &value, &length) < 0) printf("get: %s\n", check_error(errno));
    else printf("%ld.%06ld, %d bytes\n", value.tv_sec, value.tv_usec, (int)length);
}

static void set(int fd, int name, long seconds, long microseconds) {
    struct timeval value = {seconds, microseconds};
    printf("%ld %ld: ", seconds, microseconds);
    T(setsockopt(fd, SOL_SOCKET, name, &value, sizeof value));
    show(fd, name);
}

static void values(int fd) {
    show(fd, SO_RCVTIMEO);
    show(fd, SO_SNDTIMEO);
    set(fd, SO_RCVTIMEO, 1, 500000);
    // Linux counts in ticks: a number of microseconds that is none is rounded up.
    set(fd, SO_SNDTIMEO, 2, 4000);
    set(fd, SO_RCVTIMEO, 0, 1000000);
    set(fd, SO_RCVTIMEO, 0, -1);
    set(fd, SO_RCVTIMEO, -1, 0);
    set(fd, SO_RCVTIMEO, 1L << 62, 0);
    set(fd, SO_RCVTIMEO, 0, 0);
    set(fd, SO_SNDTIMEO, 0, 0);
    struct timeval value = {1, 0};
    T(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &value, 15));
    T(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &value, 4));
    T(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &value, 0));
    T(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, (void *)8, 16));
    socklen_t length = 8;
    T(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &value, &length));
    T(length);
    length = 100;
    T(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &value, &length));
    T(length);
    set(fd, 66, 3, 0);
    show(fd, SO_RCVTIMEO);
    set(fd, SO_RCVTIMEO, 0, 0);
}

// How long a call took: about 100 milliseconds, or no time.
#define TIMED(expression) \
    do { \
        long start = milliseconds(); \
        T(expression); \
        long took = milliseconds() - start; \
        printf("took %s\n", took < 60 ? "no time" : took < 1000 ? "its time" : "too long"); \
    } while (0)

static void waits(int reader, int other) {
    char buffer[16];
    struct timeval little = {0, 100000};
    T(setsockopt(reader, SOL_SOCKET, SO_RCVTIMEO, &little, sizeof little));
    TIMED(read(reader, buffer, 9));
    TIMED(recv(reader, buffer, 9, 0));
    TIMED(recv(reader, buffer, 9, MSG_DONTWAIT));
    struct iovec v = {buffer, 9};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    TIMED(recvmsg(reader, &m, 0));
    struct mmsghdr many = {m};
    TIMED(recvmmsg(reader, &many, 1, 0, 0));
    // A signal: no restart where there is a time-out.
    ualarm(100000, 0);
    little.tv_sec = 2;
    T(setsockopt(reader, SOL_SOCKET, SO_RCVTIMEO, &little, sizeof little));
    TIMED(recv(reader, buffer, 9, 0));
    little = (struct timeval){-1, 0};
    T(setsockopt(reader, SOL_SOCKET, SO_RCVTIMEO, &little, sizeof little));
    TIMED(recv(reader, buffer, 9, 0));
    little = (struct timeval){0, 0};
    T(setsockopt(reader, SOL_SOCKET, SO_RCVTIMEO, &little, sizeof little));
    if (fork() == 0) { usleep(200000); write(other, "x", 1); _exit(0); }
    ualarm(100000, 0);
    // Without one it is restarted.
    TIMED(recv(reader, buffer, 9, 0));
    wait(0);
}

static void fills(int writer) {
    static char much[1 << 20];
    struct timeval little = {0, 100000};
    T(setsockopt(writer, SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little));
    long total = 0, n;
    while ((n = send(writer, much, sizeof much, 0)) > 0) total += n;
    IS(total > 0);
    TIMED(send(writer, much, 1, 0));
    TIMED(write(writer, much, 1));
    struct pollfd poll_ = {writer, POLLOUT};
    TIMED(poll(&poll_, 1, 100));
}

int main(void) {
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    int pair[2];
    SECTION("values: tcp");
    values(socket(AF_INET, SOCK_STREAM, 0));
    SECTION("values: unix");
    values(socket(AF_UNIX, SOCK_STREAM, 0));
    SECTION("values: udp");
    values(socket(AF_INET6, SOCK_DGRAM, 0));
    SECTION("values: netlink");
    values(socket(AF_NETLINK, SOCK_RAW, 0));
    SECTION("waiting: tcp");
    connection4(pair);
    waits(pair[0], pair[1]);
    fills(pair[0]);
    SECTION("waiting: unix stream");
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    waits(pair[0], pair[1]);
    fills(pair[0]);
    SECTION("waiting: unix datagram");
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    waits(pair[0], pair[1]);
    SECTION("waiting: udp");
    pair[0] = socket(AF_INET, SOCK_DGRAM, 0);
    pair[1] = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in address = inet4("127.0.0.1", 0);
    bind(pair[0], ADDRESS(address));
    address = inet4("127.0.0.1", port_of(pair[0]));
    connect(pair[1], ADDRESS(address));
    waits(pair[0], pair[1]);
    SECTION("connecting");
    // A listener whose backlog is full lets a connection wait.
    int port, listener = listener4(&port, 0);
    address = inet4("127.0.0.1", port);
    int fill[8], filled = 0;
    for (; filled < 8; filled++) {
        fill[filled] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(fill[filled], ADDRESS(address));
    }
    struct pollfd last = {fill[7], POLLOUT};
    T(poll(&last, 1, 100));
    T(error_of(fill[7]));
    T(connect(fill[7], ADDRESS(address)));
    ready("under way", fill[7]);
    T(send(fill[7], "x", 1, MSG_NOSIGNAL));
    char buffer[8];
    T(recv(fill[7], buffer, 1, 0));
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    T(getpeername(fill[7], (struct sockaddr *)&peer, &length));
    int slow = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval little = {0, 100000};
    T(setsockopt(slow, SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little));
    TIMED(connect(slow, ADDRESS(address)));
    TIMED(connect(slow, ADDRESS(address)));
    slow = socket(AF_INET, SOCK_STREAM, 0);
    action.sa_flags = 0;
    sigaction(SIGALRM, &action, 0);
    ualarm(100000, 0);
    TIMED(connect(slow, ADDRESS(address)));
    T(fcntl(slow, F_SETFL, O_NONBLOCK));
    T(connect(slow, ADDRESS(address)));
    struct sockaddr none = {AF_UNSPEC};
    T(connect(slow, &none, sizeof none));
    T(connect(slow, ADDRESS(address)));
    T(shutdown(slow, SHUT_RDWR));
    ready("given up", slow);
    return 0;
}
