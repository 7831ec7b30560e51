// accept and accept4: flags, what is inherited, what is not, addresses, waiting.
#include "sockets.h"
#include <netinet/tcp.h>

static void on_alarm(int signal) { (void)signal; }

static int number(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    if (getsockopt(fd, level, name, &value, &length) < 0) return -errno;
    return value;
}

int main(void) {
    int port, on = 1, n, listener = listener4(&port, 20);
    struct sockaddr_in address = inet4("127.0.0.1", port);
    struct sockaddr_storage from;
    socklen_t length;
    #define CONNECT() ({ int fd = socket(AF_INET, SOCK_STREAM, 0); connect(fd, ADDRESS(address)); fd; })
    SECTION("flags");
    CONNECT();
    KEEP(n, accept4(listener, 0, 0, 0));
    T(fcntl(n, F_GETFD));
    T(fcntl(n, F_GETFL) & O_NONBLOCK);
    CONNECT();
    KEEP(n, accept4(listener, 0, 0, SOCK_CLOEXEC));
    T(fcntl(n, F_GETFD));
    CONNECT();
    KEEP(n, accept4(listener, 0, 0, SOCK_NONBLOCK));
    T(fcntl(n, F_GETFD));
    T(fcntl(n, F_GETFL) & O_NONBLOCK);
    T(accept4(listener, 0, 0, 1));
    T(accept4(listener, 0, 0, SOCK_CLOEXEC | 4));
    T(accept4(999, 0, 0, 1));
    T(accept4(999, 0, 0, 0));
    T(accept4(0, 0, 0, 0));
    T(fcntl(listener, F_SETFL, O_NONBLOCK));
    T(accept4(listener, 0, 0, 0));
    CONNECT();
    until(listener, POLLIN);
    KEEP(n, accept4(listener, 0, 0, 0));
    // What the listener has, its connections do not get.
    T(fcntl(n, F_GETFL) & O_NONBLOCK);
    SECTION("inherited");
    struct timeval second = {3, 0};
    struct linger linger = {1, 7};
    int value = 5000;
    T(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second));
    T(setsockopt(listener, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second));
    T(setsockopt(listener, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    T(setsockopt(listener, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    T(setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &value, sizeof value));
    T(setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    T(setsockopt(listener, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
    CONNECT();
    until(listener, POLLIN);
    KEEP(n, accept(listener, 0, 0));
    length = sizeof second;
    memset(&second, 0, sizeof second);
    T(getsockopt(n, SOL_SOCKET, SO_RCVTIMEO, &second, &length));
    T(second.tv_sec);
    length = sizeof second;
    memset(&second, 0, sizeof second);
    T(getsockopt(n, SOL_SOCKET, SO_SNDTIMEO, &second, &length));
    T(second.tv_sec);
    length = sizeof linger;
    memset(&linger, 0, sizeof linger);
    T(getsockopt(n, SOL_SOCKET, SO_LINGER, &linger, &length));
    T(linger.l_linger);
    T(number(n, SOL_SOCKET, SO_KEEPALIVE));
    T(number(n, SOL_SOCKET, SO_SNDBUF));
    T(number(n, SOL_SOCKET, SO_OOBINLINE));
    T(number(n, SOL_SOCKET, SO_ACCEPTCONN));
    T(number(listener, SOL_SOCKET, SO_ACCEPTCONN));
    T(number(n, IPPROTO_TCP, TCP_NODELAY));
    close(n);
    SECTION("addresses");
    CONNECT();
    until(listener, POLLIN);
    length = 4;
    memset(&from, 'x', sizeof from);
    T(accept(listener, (struct sockaddr *)&from, &length) >= 0);
    T(length);
    T(((char *)&from)[4]);
    CONNECT();
    until(listener, POLLIN);
    length = -5;
    T(accept(listener, (struct sockaddr *)&from, &length));
    CONNECT();
    until(listener, POLLIN);
    T(accept(listener, (struct sockaddr *)8, &length));
    CONNECT();
    until(listener, POLLIN);
    length = sizeof from;
    T(accept(listener, (struct sockaddr *)8, &length));
    CONNECT();
    until(listener, POLLIN);
    T(accept(listener, (struct sockaddr *)&from, 0));
    CONNECT();
    until(listener, POLLIN);
    T(accept(listener, 0, (void *)8) >= 0);
    // Those that failed are gone all the same.
    T(accept(listener, 0, 0));
    SECTION("no descriptor left");
    CONNECT();
    until(listener, POLLIN);
    int filled[1024], count = 0;
    while (count < 1024 && (filled[count] = dup(0)) >= 0) count++;
    T(accept(listener, 0, 0));
    T(socket(AF_INET, SOCK_STREAM, 0));
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, filled + 1000));
    close(filled[--count]);
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, filled + 1000));
    T(accept(listener, 0, 0) >= 0);
    while (count > 0) close(filled[--count]);
    SECTION("a client that went");
    int gone = CONNECT();
    until(listener, POLLIN);
    write(gone, "left", 4);
    close(gone);
    KEEP(n, accept(listener, 0, 0));
    char buffer[16];
    until(n, POLLIN);
    T(read(n, buffer, 9));
    T(read(n, buffer, 9));
    gone = CONNECT();
    until(listener, POLLIN);
    struct linger hard = {1, 0};
    setsockopt(gone, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(gone);
    KEEP(n, accept(listener, 0, 0));
    T(read(n, buffer, 9));
    SECTION("waiting");
    T(fcntl(listener, F_SETFL, 0));
    if (fork() == 0) { usleep(50000); CONNECT(); usleep(50000); _exit(0); }
    KEEP(n, accept(listener, 0, 0));
    wait(0);
    second = (struct timeval){0, 50000};
    T(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second));
    T(accept(listener, 0, 0));
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    second = (struct timeval){2, 0};
    T(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second));
    ualarm(50000, 0);
    T(accept(listener, 0, 0));
    second = (struct timeval){0, 0};
    T(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second));
    action.sa_flags = 0;
    sigaction(SIGALRM, &action, 0);
    ualarm(50000, 0);
    T(accept(listener, 0, 0));
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, 0);
    if (fork() == 0) { usleep(150000); CONNECT(); usleep(50000); _exit(0); }
    ualarm(50000, 0);
    T(accept(listener, 0, 0) >= 0);
    wait(0);
    SECTION("not listening");
    T(accept(socket(AF_INET, SOCK_STREAM, 0), 0, 0));
    T(accept(socket(AF_INET, SOCK_DGRAM, 0), 0, 0));
    T(accept(socket(AF_INET6, SOCK_DGRAM, 0), 0, 0));
    T(accept(socket(AF_UNIX, SOCK_STREAM, 0), 0, 0));
    T(accept(socket(AF_UNIX, SOCK_DGRAM, 0), 0, 0));
    T(accept(socket(AF_NETLINK, SOCK_RAW, 0), 0, 0));
    return 0;
}
