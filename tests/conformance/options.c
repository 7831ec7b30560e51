// Socket options: what each is at first, what it is after it was set, wrong lengths, values out of range, those that need rights.
#include "sockets.h"
#include <linux/filter.h>
#include <netinet/tcp.h>

static long get(int fd, int level, int name) {
    long value = 0;
    socklen_t length = sizeof value;
    if (getsockopt(fd, level, name, &value, &length) < 0) return -1;
    if (length > 8) return -2;
    return value;
}

// An option that is an int.
static void integer(const char *title, int fd, int level, int name, const int *values, int count) {
    int value;
    socklen_t length;
    printf("%s:", title);
    errno = 0;
    long first = get(fd, level, name);
    int known = !errno;
    if (first == -1 && errno) printf(" get %s", check_error(errno));
    else printf(" %ld", first);
    for (int i = 0; i < count; i++) {
        printf(", %d ", values[i]);
        if (setsockopt(fd, level, name, values + i, sizeof *values) < 0) printf("%s", check_error(errno));
        else { errno = 0; long now = get(fd, level, name); printf("is %ld", now); if (now == -1 && errno) printf(" %s", check_error(errno)); }
    }
    // Lengths that are not an int's.
    static const int lengths[] = {0, 1, 3, 5, 8};
    char bytes[8] = {1, 0, 0, 0, 0, 0, 0, 0};
    for (int i = 0; i < 5; i++) {
        errno = 0;
        setsockopt(fd, level, name, bytes, lengths[i]);
        printf(" %s", errno ? check_error(errno) : "ok");
    }
    for (int i = 0; i < 5; i++) {
        length = lengths[i];
        errno = 0;
        getsockopt(fd, level, name, bytes, &length);
        printf(" %s", errno ? check_error(errno) : "");
        if (!errno) printf("%d", (int)length);
    }
    if (known) {
        length = -1;
        errno = 0;
        getsockopt(fd, level, name, bytes, &length);
        printf(" %s", errno ? check_error(errno) : "ok");
        errno = 0;
        setsockopt(fd, level, name, bytes, -1);
        printf(" %s", errno ? check_error(errno) : "ok");
        errno = 0;
        setsockopt(fd, level, name, (void *)8, 4);
        printf(" %s", errno ? check_error(errno) : "ok");
        length = 4;
        errno = 0;
        getsockopt(fd, level, name, (void *)8, &length);
        printf(" %s", errno ? check_error(errno) : "ok");
    }
    printf("\n");
    // Back to what it was, so that the next question finds a socket of the usual kind.
    value = first;
    setsockopt(fd, level, name, &value, sizeof value);
}

#define BOOLEAN(fd, level, name) integer(#name, fd, level, name, (int[]){1, 0, 7, -1}, 4)
#define INTEGER(fd, level, name, ...) \
    do { int list[] = {__VA_ARGS__}; integer(#name, fd, level, name, list, sizeof list / sizeof *list); } while (0)

static void common(int fd) {
    BOOLEAN(fd, SOL_SOCKET, SO_REUSEADDR);
    BOOLEAN(fd, SOL_SOCKET, SO_REUSEPORT);
    BOOLEAN(fd, SOL_SOCKET, SO_KEEPALIVE);
    BOOLEAN(fd, SOL_SOCKET, SO_BROADCAST);
    BOOLEAN(fd, SOL_SOCKET, SO_OOBINLINE);
    BOOLEAN(fd, SOL_SOCKET, SO_DONTROUTE);
    BOOLEAN(fd, SOL_SOCKET, SO_TIMESTAMP);
    BOOLEAN(fd, SOL_SOCKET, SO_TIMESTAMPNS);
    BOOLEAN(fd, SOL_SOCKET, SO_NO_CHECK);
    BOOLEAN(fd, SOL_SOCKET, SO_PASSCRED);
    BOOLEAN(fd, SOL_SOCKET, SO_RXQ_OVFL);
    BOOLEAN(fd, SOL_SOCKET, SO_LOCK_FILTER);
    INTEGER(fd, SOL_SOCKET, SO_PRIORITY, 0, 3, 6);
    INTEGER(fd, SOL_SOCKET, SO_RCVLOWAT, 1, 10, 0, 100);
    INTEGER(fd, SOL_SOCKET, SO_SNDLOWAT, 1);
    INTEGER(fd, SOL_SOCKET, SO_SNDBUF, 10000, 0, 100000);
    INTEGER(fd, SOL_SOCKET, SO_RCVBUF, 10000, 0, 100000);
    INTEGER(fd, SOL_SOCKET, SO_SNDBUFFORCE, 10000);
    INTEGER(fd, SOL_SOCKET, SO_RCVBUFFORCE, 10000);
    INTEGER(fd, SOL_SOCKET, SO_DEBUG, 0);
    INTEGER(fd, SOL_SOCKET, SO_TYPE, 1);
    INTEGER(fd, SOL_SOCKET, SO_PROTOCOL, 1);
    INTEGER(fd, SOL_SOCKET, SO_DOMAIN, 1);
    INTEGER(fd, SOL_SOCKET, SO_ERROR, 1);
    INTEGER(fd, SOL_SOCKET, SO_ACCEPTCONN, 1);
    INTEGER(fd, SOL_SOCKET, 999, 1);
    INTEGER(fd, 999, 1, 1);
    INTEGER(fd, -1, 1, 1);
    struct linger linger = {9, 9};
    socklen_t length = sizeof linger;
    T(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    printf("linger %d %d, %d\n", linger.l_onoff, linger.l_linger, (int)length);
    linger = (struct linger){5, 6};
    T(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    T(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, 4));
    T(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, 3));
    length = sizeof linger;
    T(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    printf("linger %d %d\n", linger.l_onoff, linger.l_linger);
    length = 4;
    T(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    T(length);
    linger = (struct linger){0, 0};
    T(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    T(getsockopt(fd, SOL_SOCKET, SO_TYPE, &length, 0));
    T(getsockopt(fd, SOL_SOCKET, SO_TYPE, 0, &length));
}

static void ip(int fd) {
    INTEGER(fd, IPPROTO_IP, IP_TTL, 5, 0, 256, -1);
    INTEGER(fd, IPPROTO_IP, IP_TOS, 16, 255, 256);
    INTEGER(fd, IPPROTO_IP, IP_MTU_DISCOVER, 2, 0, 9, 1);
    BOOLEAN(fd, IPPROTO_IP, IP_RECVERR);
    BOOLEAN(fd, IPPROTO_IP, IP_PKTINFO);
    BOOLEAN(fd, IPPROTO_IP, IP_RECVTTL);
    BOOLEAN(fd, IPPROTO_IP, IP_RECVTOS);
    BOOLEAN(fd, IPPROTO_IP, IP_RECVOPTS);
    BOOLEAN(fd, IPPROTO_IP, IP_RETOPTS);
    BOOLEAN(fd, IPPROTO_IP, IP_FREEBIND);
    BOOLEAN(fd, IPPROTO_IP, IP_RECVORIGDSTADDR);
    BOOLEAN(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
    BOOLEAN(fd, IPPROTO_IP, IP_MULTICAST_ALL);
    INTEGER(fd, IPPROTO_IP, IP_MULTICAST_TTL, 4, 256, -1);
    INTEGER(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 0, 1);
    INTEGER(fd, IPPROTO_IP, IP_MINTTL, 3, 256);
    T(get(fd, IPPROTO_IP, IP_TRANSPARENT));
    INTEGER(fd, IPPROTO_IP, IP_HDRINCL, 1);
    INTEGER(fd, IPPROTO_IP, IP_MTU, 100);
    INTEGER(fd, IPPROTO_IP, 9999, 1);
    char options[40];
    socklen_t length = sizeof options;
    T(getsockopt(fd, IPPROTO_IP, IP_OPTIONS, options, &length));
    T(length);
    T(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, options, 0));
    struct in_addr interface = {0};
    length = sizeof interface;
    T(getsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, &length));
    T(interface.s_addr);
    interface.s_addr = inet_addr("127.0.0.1");
    T(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, sizeof interface));
    interface.s_addr = inet_addr("10.10.10.10");
    T(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, sizeof interface));
    T(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, 2));
}

static void ip6(int fd) {
    BOOLEAN(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    BOOLEAN(fd, IPPROTO_IPV6, IPV6_RECVERR);
    BOOLEAN(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO);
    BOOLEAN(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT);
    BOOLEAN(fd, IPPROTO_IPV6, IPV6_RECVTCLASS);
    INTEGER(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 5, 0, 256, -1, -2);
    INTEGER(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 5, 256, -1);
    INTEGER(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0, 1, 2);
    INTEGER(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, 1, 99, 0);
    INTEGER(fd, IPPROTO_IPV6, IPV6_TCLASS, 16, 256, -1);
    INTEGER(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, 2, 9, 1);
    INTEGER(fd, IPPROTO_IPV6, IPV6_MTU, 1500, 100, 0);
    INTEGER(fd, IPPROTO_IPV6, IPV6_RECVRTHDR, 1);
    INTEGER(fd, IPPROTO_IPV6, IPV6_DONTFRAG, 1);
    INTEGER(fd, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 1);
    INTEGER(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
    T(get(fd, IPPROTO_IPV6, IPV6_TRANSPARENT));
    INTEGER(fd, IPPROTO_IPV6, 33, 1);
    INTEGER(fd, IPPROTO_IPV6, 9999, 1);
    INTEGER(fd, IPPROTO_IP, IP_TTL, 9);
    INTEGER(fd, IPPROTO_IP, IP_TOS, 8);
}

static void rights(int fd) {
    // SO_MARK, high priorities, IP_TRANSPARENT and leaving a device need rights in the network namespace.
    T(get(fd, SOL_SOCKET, SO_MARK));
    int value = 1;
    T(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &value, sizeof value));
    T(setsockopt(fd, SOL_SOCKET, SO_DEBUG, &value, sizeof value));
    value = 50;
    T(setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL, &value, sizeof value));
    T(get(fd, SOL_SOCKET, SO_BUSY_POLL));
    // A device means nothing to a socket that sends through none.
    if (get(fd, SOL_SOCKET, SO_DOMAIN) == AF_UNIX) return;
    T(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
    char device[32] = "";
    socklen_t length = sizeof device;
    T(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &length));
    printf("%d %s\n", (int)length, device);
    T(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "none", 5));
}

static void cookie(int fd, int other) {
    unsigned long one = 0, two = 0;
    socklen_t length = sizeof one;
    OK(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &one, &length));
    OK(getsockopt(other, SOL_SOCKET, SO_COOKIE, &two, &length));
    IS(one != 0 && one != two);
}

int main(void) {
    int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
    SECTION("tcp");
    common(tcp);
    ip(tcp);
    rights(tcp);
    cookie(tcp, udp);
    SECTION("udp");
    common(udp);
    ip(udp);
    rights(udp);
    INTEGER(udp, IPPROTO_UDP, 1, 1, 0);
    INTEGER(udp, IPPROTO_UDP, 103, 1000, 0, 70000);
    INTEGER(udp, IPPROTO_UDP, 999, 0);
    INTEGER(udp, IPPROTO_TCP, 1, 1);
    INTEGER(tcp, IPPROTO_UDP, 1, 1);
    SECTION("tcp6");
    common(socket(AF_INET6, SOCK_STREAM, 0));
    ip6(socket(AF_INET6, SOCK_STREAM, 0));
    SECTION("udp6");
    ip6(socket(AF_INET6, SOCK_DGRAM, 0));
    INTEGER(tcp, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    SECTION("unix stream");
    int stream = socket(AF_UNIX, SOCK_STREAM, 0);
    common(stream);
    rights(stream);
    INTEGER(stream, IPPROTO_IP, IP_TTL, 1);
    INTEGER(stream, IPPROTO_TCP, 1, 1);
    cookie(stream, socket(AF_UNIX, SOCK_STREAM, 0));
    SECTION("unix datagram");
    common(socket(AF_UNIX, SOCK_DGRAM, 0));
    INTEGER(socket(AF_UNIX, SOCK_DGRAM, 0), SOL_SOCKET, SO_PEEK_OFF, 5, -1, -2);
    INTEGER(stream, SOL_SOCKET, SO_PEEK_OFF, 5, -1);
    INTEGER(udp, SOL_SOCKET, SO_PEEK_OFF, 5, -1);
    INTEGER(tcp, SOL_SOCKET, SO_PEEK_OFF, 5, -1);
    SECTION("netlink");
    int route = socket(AF_NETLINK, SOCK_RAW, 0);
    common(route);
    for (int name = 1; name < 14; name++) {
        if (name == 9) continue;
        printf("%d ", name);
        integer("netlink", route, 270, name, (int[]){1, 0}, name == 1 || name == 2 ? 0 : 2);
    }
    SECTION("peeking at an offset");
    int p[2];
    char buffer[8] = "";
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    int offset = 2;
    T(setsockopt(p[1], SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset));
    T(write(p[0], "abcdef", 6));
    T(recv(p[1], buffer, 2, MSG_PEEK));
    printf("%.2s\n", buffer);
    T(recv(p[1], buffer, 2, MSG_PEEK));
    printf("%.2s\n", buffer);
    T(recv(p[1], buffer, 2, 0));
    printf("%.2s\n", buffer);
    T(get(p[1], SOL_SOCKET, SO_PEEK_OFF));
    SECTION("time stamps");
    int on = 1;
    T(socketpair(AF_UNIX, SOCK_DGRAM, 0, p));
    T(setsockopt(p[1], SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on));
    T(write(p[0], "x", 1));
    char control[128];
    struct iovec v = {buffer, 8};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    T(recvmsg(p[1], &m, 0));
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) printf("%d %d %d\n", c->cmsg_level, c->cmsg_type, (int)c->cmsg_len);
    struct sockaddr_in to = inet4("127.0.0.1", 0);
    int a = socket(AF_INET, SOCK_DGRAM, 0);
    T(bind(a, ADDRESS(to)));
    T(setsockopt(a, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on));
    to = inet4("127.0.0.1", port_of(a));
    T(sendto(udp, "x", 1, 0, ADDRESS(to)));
    until(a, POLLIN);
    m.msg_controllen = sizeof control;
    T(recvmsg(a, &m, 0));
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) printf("%d %d %d\n", c->cmsg_level, c->cmsg_type, (int)c->cmsg_len);
    return 0;
}
