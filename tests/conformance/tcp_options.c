// The options of TCP that servers and clients set, on sockets that are fresh, connected and listening.
#include "sockets.h"
#include <netinet/tcp.h>

static void one(const char *title, int fd, int name, const int *values, int count) {
    int value = -1;
    socklen_t length = sizeof value;
    printf("%s:", title);
    if (getsockopt(fd, IPPROTO_TCP, name, &value, &length) < 0) printf(" get %s", check_error(errno));
    else printf(" %d", value);
    for (int i = 0; i < count; i++) {
        printf(", %d ", values[i]);
        if (setsockopt(fd, IPPROTO_TCP, name, values + i, sizeof *values) < 0) { printf("%s", check_error(errno)); continue; }
        length = sizeof value;
        if (getsockopt(fd, IPPROTO_TCP, name, &value, &length) < 0) printf("get %s", check_error(errno));
        else printf("is %d", value);
    }
    errno = 0;
    setsockopt(fd, IPPROTO_TCP, name, &value, 3);
    printf(" short %s", errno ? check_error(errno) : "ok");
    length = 2;
    errno = 0;
    getsockopt(fd, IPPROTO_TCP, name, &value, &length);
    printf(" %s %d\n", errno ? check_error(errno) : "ok", (int)length);
}

#define ONE(fd, name, ...) do { int list[] = {__VA_ARGS__}; one(#name, fd, name, list, sizeof list / sizeof *list); } while (0)

static void all(int fd) {
    ONE(fd, TCP_NODELAY, 1, 0, 5);
    ONE(fd, TCP_CORK, 1, 0);
    ONE(fd, TCP_KEEPIDLE, 10, 0, 40000, 32767);
    ONE(fd, TCP_KEEPINTVL, 10, 0, 40000);
    ONE(fd, TCP_KEEPCNT, 3, 0, 128);
    ONE(fd, TCP_SYNCNT, 3, 0, 128);
    ONE(fd, TCP_LINGER2, 30, -1, 0);
    ONE(fd, TCP_DEFER_ACCEPT, 5, 0);
    ONE(fd, TCP_QUICKACK, 1, 0);
    ONE(fd, TCP_USER_TIMEOUT, 1000, -1, 0);
    ONE(fd, TCP_NOTSENT_LOWAT, 16384, 0);
    ONE(fd, TCP_THIN_LINEAR_TIMEOUTS, 1, 2, 0);
    ONE(fd, TCP_THIN_DUPACK, 1, 0);
    ONE(fd, TCP_INQ, 1, 2, 0);
    ONE(fd, TCP_TX_DELAY, 0);
    ONE(fd, TCP_SAVE_SYN, 1, 3, 0);
    ONE(fd, 9999, 1);
}

int main(void) {
    int fresh = socket(AF_INET, SOCK_STREAM, 0), pair[2], port, listener = listener4(&port, 5);
    char name[32];
    struct tcp_info info;
    socklen_t length;
    SECTION("fresh");
    all(fresh);
    ONE(fresh, TCP_FASTOPEN_CONNECT, 1, 0, 2);
    ONE(fresh, TCP_MAXSEG, 1000, 0, 20, 70000);
    ONE(fresh, TCP_WINDOW_CLAMP, 10000, 100, 0);
    SECTION("connected");
    connection4(pair);
    all(pair[0]);
    ONE(pair[0], TCP_FASTOPEN_CONNECT, 1);
    SECTION("listening");
    all(listener);
    ONE(listener, TCP_FASTOPEN, 5, 0, -1);
    SECTION("congestion");
    strcpy(name, "reno");
    T(setsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, name, 4));
    length = sizeof name;
    memset(name, 0, sizeof name);
    T(getsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, name, &length));
    printf("%d %s\n", (int)length, name);
    T(setsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, "nothing", 7));
    T(setsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, "", 0));
    T(setsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, "a name that is much too long to be one", 38));
    length = 3;
    T(getsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, name, &length));
    T(length);
    length = sizeof name;
    T(getsockopt(fresh, IPPROTO_TCP, TCP_ULP, name, &length));
    T(length);
    SECTION("information");
    length = sizeof info;
    T(getsockopt(fresh, IPPROTO_TCP, TCP_INFO, &info, &length));
    T(length);
    T(info.tcpi_state);
    T(getsockopt(pair[0], IPPROTO_TCP, TCP_INFO, &info, &length));
    T(info.tcpi_state);
    T(getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &length));
    T(info.tcpi_state);
    T(info.tcpi_sacked);
    length = 8;
    T(getsockopt(pair[0], IPPROTO_TCP, TCP_INFO, &info, &length));
    T(length);
    char large[1000];
    length = sizeof large;
    T(getsockopt(pair[0], IPPROTO_TCP, TCP_INFO, large, &length));
    IS(length >= 104);
    T(setsockopt(fresh, IPPROTO_TCP, TCP_INFO, &info, sizeof info));
    SECTION("corked");
    int on = 1, off = 0;
    T(setsockopt(pair[0], IPPROTO_TCP, TCP_CORK, &on, sizeof on));
    T(write(pair[0], "ab", 2));
    T(recv(pair[1], name, 9, MSG_DONTWAIT));
    T(write(pair[0], "cd", 2));
    T(setsockopt(pair[0], IPPROTO_TCP, TCP_CORK, &off, sizeof off));
    until(pair[1], POLLIN);
    T(recv(pair[1], name, 9, MSG_DONTWAIT));
    T(send(pair[0], "ef", 2, MSG_MORE));
    T(recv(pair[1], name, 9, MSG_DONTWAIT));
    T(send(pair[0], "g", 1, 0));
    until(pair[1], POLLIN);
    T(recv(pair[1], name, 9, MSG_DONTWAIT));
    SECTION("fast open");
    struct sockaddr_in to = inet4("127.0.0.1", port);
    int quick = socket(AF_INET, SOCK_STREAM, 0);
    T(sendto(quick, "early", 5, MSG_FASTOPEN, ADDRESS(to)));
    until(listener, POLLIN);
    int server = accept(listener, 0, 0);
    until(server, POLLIN);
    T(recv(server, name, 9, MSG_DONTWAIT));
    return 0;
}
