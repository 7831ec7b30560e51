// What each state of a connection gives to poll, read and write: half closed, reset, refused; SIGPIPE.
#include "sockets.h"

static void both(const char *what, int a, int b) {
    char line[100];
    snprintf(line, sizeof line, "%s, one end", what);
    ready(line, a);
    snprintf(line, sizeof line, "%s, the other", what);
    ready(line, b);
}

// The same questions about TCP and a Unix stream.
static void states(int tcp) {
    int p[2];
    char buffer[64];
    #define FRESH() do { if (tcp) connection4(p); else socketpair(AF_UNIX, SOCK_STREAM, 0, p); } while (0)
    FRESH();
    both("connected", p[0], p[1]);
    T(shutdown(p[0], SHUT_WR));
    until(p[1], POLLIN);
    both("no more writing", p[0], p[1]);
    T(read(p[1], buffer, 9));
    T(write(p[1], "still", 5));
    until(p[0], POLLIN);
    T(read(p[0], buffer, 9));
    CHILD(write(p[0], "x", 1));
    CHILD(send(p[0], "x", 1, 0));
    CHILD(T(send(p[0], "x", 1, MSG_NOSIGNAL)));
    T(shutdown(p[0], SHUT_WR));
    T(shutdown(p[1], SHUT_WR));
    until(p[0], POLLHUP);
    until(p[1], POLLHUP);
    both("neither writes", p[0], p[1]);
    T(shutdown(p[0], SHUT_RDWR));
    T(shutdown(p[0], SHUT_RD));
    close(p[0]);
    close(p[1]);
    FRESH();
    T(shutdown(p[0], SHUT_RD));
    both("one does not read", p[0], p[1]);
    T(recv(p[0], buffer, 9, MSG_DONTWAIT));
    T(send(p[1], "x", 1, MSG_NOSIGNAL));
    usleep(10000);
    T(recv(p[0], buffer, 9, MSG_DONTWAIT));
    T(recv(p[0], buffer, 9, MSG_DONTWAIT));
    T(send(p[0], "y", 1, MSG_NOSIGNAL));
    until(p[1], POLLIN);
    T(recv(p[1], buffer, 9, MSG_DONTWAIT));
    close(p[0]);
    close(p[1]);
    FRESH();
    T(write(p[0], "bytes", 5));
    T(shutdown(p[0], SHUT_RDWR));
    until(p[1], POLLRDHUP);
    both("shut for both", p[0], p[1]);
    T(read(p[1], buffer, 3));
    T(read(p[1], buffer, 3));
    T(read(p[1], buffer, 3));
    T(read(p[0], buffer, 3));
    close(p[0]);
    close(p[1]);
    FRESH();
    T(close(p[1]));
    until(p[0], POLLIN);
    ready("the other closed", p[0]);
    T(read(p[0], buffer, 3));
    if (tcp) {
        T(send(p[0], "x", 1, MSG_NOSIGNAL));
        until(p[0], POLLHUP);
        ready("after a write", p[0]);
        T(error_of(p[0]));
    }
    T(send(p[0], "x", 1, MSG_NOSIGNAL));
    T(read(p[0], buffer, 3));
    close(p[0]);
    FRESH();
    struct linger hard = {1, 0};
    T(setsockopt(p[1], SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
    T(write(p[1], "lost", 4));
    T(close(p[1]));
    until(p[0], POLLIN);
    if (tcp) until(p[0], POLLERR);
    ready("closed hard", p[0]);
    T(read(p[0], buffer, 9));
    T(read(p[0], buffer, 9));
    T(send(p[0], "x", 1, MSG_NOSIGNAL));
    CHILD(send(p[0], "x", 1, 0));
    close(p[0]);
    // A reader and a writer that wait.
    FRESH();
    if (fork() == 0) {
        close(p[0]);
        usleep(50000);
        shutdown(p[1], SHUT_WR);
        _exit(0);
    }
    T(read(p[0], buffer, 9));
    wait(0);
    if (fork() == 0) {
        usleep(50000);
        shutdown(p[0], SHUT_RD);
        _exit(0);
    }
    T(read(p[0], buffer, 9));
    wait(0);
    close(p[0]);
    close(p[1]);
}

int main(void) {
    char buffer[16];
    SECTION("unix");
    states(0);
    SECTION("tcp");
    states(1);
    SECTION("listeners");
    int port, listener = listener4(&port, 5);
    struct sockaddr_in address = inet4("127.0.0.1", port);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    T(shutdown(client, SHUT_WR));
    T(connect(client, ADDRESS(address)));
    T(shutdown(listener, SHUT_WR));
    ready("shut for writing", listener);
    T(shutdown(listener, SHUT_RD));
    ready("shut for reading", listener);
    T(accept(listener, 0, 0));
    T(connect(socket(AF_INET, SOCK_STREAM, 0), ADDRESS(address)));
    // It may listen again.
    T(listen(listener, 5));
    address = inet4("127.0.0.1", port_of(listener));
    T(connect(socket(AF_INET, SOCK_STREAM, 0), ADDRESS(address)));
    T(accept(listener, 0, 0) >= 0);
    int waiter = socket(AF_INET, SOCK_STREAM, 0);
    address = inet4("127.0.0.1", 0);
    T(bind(waiter, ADDRESS(address)));
    T(listen(waiter, 1));
    if (fork() == 0) { usleep(50000); shutdown(waiter, SHUT_RD); _exit(0); }
    T(accept(waiter, 0, 0));
    wait(0);
    int name = socket(AF_UNIX, SOCK_STREAM, 0);
    T(bind_name(name, "@shut"));
    T(listen(name, 5));
    T(shutdown(name, SHUT_RD));
    ready("unix, shut for reading", name);
    T(accept(name, 0, 0));
    T(connect_name(socket(AF_UNIX, SOCK_STREAM, 0), "@shut"));
    T(shutdown(name, SHUT_RDWR));
    ready("unix, shut for both", name);
    T(listen(name, 5));
    T(connect_name(socket(AF_UNIX, SOCK_STREAM, 0), "@shut"));
    int another = socket(AF_UNIX, SOCK_STREAM, 0);
    T(bind_name(another, "@shut2"));
    T(listen(another, 5));
    if (fork() == 0) { usleep(50000); shutdown(another, SHUT_RD); _exit(0); }
    T(accept(another, 0, 0));
    wait(0);
    SECTION("bad");
    T(shutdown(client, 3));
    T(shutdown(0, SHUT_RD));
    T(shutdown(99, SHUT_RD));
    T(shutdown(99, 9));
    T(shutdown(socket(AF_INET, SOCK_STREAM, 0), SHUT_RD));
    T(shutdown(socket(AF_INET, SOCK_DGRAM, 0), SHUT_RD));
    T(shutdown(socket(AF_INET, SOCK_DGRAM, 0), 7));
    return 0;
}
