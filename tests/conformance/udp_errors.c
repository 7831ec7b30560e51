// Errors that come back on UDP sockets: refused ports, the error queue (ip(7), IP_RECVERR).
#include "sockets.h"
#include <linux/errqueue.h>

static void queue(const char *what, int fd) {
    char buffer[64], control[512];
    struct sockaddr_in6 name;
    memset(&name, 0, sizeof name);
    struct iovec v = {buffer, sizeof buffer};
    struct msghdr m = {&name, sizeof name, &v, 1, control, sizeof control};
    errno = 0;
    long n = recvmsg(fd, &m, MSG_ERRQUEUE);
    printf("%s: %ld %s\n", what, n, n < 0 ? check_error(errno) : "");
    if (n < 0) return;
    printf("flags %x\n", m.msg_flags);
    show_inet("to", &name, m.msg_namelen, 0);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        printf("control %d %d length %d\n", c->cmsg_level, c->cmsg_type, (int)c->cmsg_len);
        if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) || (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR)) {
            struct sock_extended_err *e = (struct sock_extended_err *)CMSG_DATA(c);
            printf("error %s origin %d type %d code %d info %d\n", check_error(e->ee_errno), e->ee_origin, e->ee_type, e->ee_code, e->ee_info);
            show_inet("offender", SO_EE_OFFENDER(e), c->cmsg_len - CMSG_LEN(sizeof *e), 0);
        }
    }
}

static int free_port(int family) {
    struct sockaddr_in6 a = {family};
    int fd = socket(family, SOCK_DGRAM, 0);
    if (family == AF_INET) inet_pton(AF_INET, "127.0.0.1", &((struct sockaddr_in *)&a)->sin_addr);
    else a.sin6_addr = in6addr_loopback;
    bind(fd, ADDRESS(a));
    int port = port_of(fd);
    close(fd);
    return port;
}

int main(void) {
    int on = 1, off = 0;
    char buffer[64];
    struct sockaddr_in to = inet4("127.0.0.1", free_port(AF_INET));
    SECTION("connected");
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    T(connect(fd, ADDRESS(to)));
    T(send(fd, "x", 1, 0));
    until(fd, POLLERR);
    ready("refused", fd);
    T(recv(fd, buffer, 1, MSG_DONTWAIT));
    ready("error taken", fd);
    T(recv(fd, buffer, 1, MSG_DONTWAIT));
    T(send(fd, "x", 1, 0));
    until(fd, POLLERR);
    T(send(fd, "x", 1, 0));
    T(send(fd, "x", 1, 0));
    until(fd, POLLERR);
    T(error_of(fd));
    T(error_of(fd));
    T(send(fd, "x", 1, 0));
    until(fd, POLLERR);
    T(recv(fd, buffer, 1, 0));
    queue("no queue", fd);
    SECTION("unconnected");
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    T(sendto(fd, "x", 1, 0, ADDRESS(to)));
    usleep(20000);
    ready("nothing is told", fd);
    T(recv(fd, buffer, 1, MSG_DONTWAIT));
    SECTION("the queue");
    T(setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on));
    T(sendto(fd, "hello", 5, 0, ADDRESS(to)));
    until(fd, POLLERR);
    ready("refused", fd);
    T(recv(fd, buffer, 1, MSG_DONTWAIT));
    T(recv(fd, buffer, 1, MSG_DONTWAIT));
    ready("queued", fd);
    queue("first", fd);
    queue("no more", fd);
    ready("emptied", fd);
    T(sendto(fd, "a", 1, 0, ADDRESS(to)));
    until(fd, POLLERR);
    T(sendto(fd, "b", 1, 0, ADDRESS(to)));
    T(sendto(fd, "b", 1, 0, ADDRESS(to)));
    until(fd, POLLERR);
    T(error_of(fd));
    queue("first", fd);
    queue("second", fd);
    T(setsockopt(fd, IPPROTO_IP, IP_RECVERR, &off, sizeof off));
    SECTION("its own errors");
    static char much[70000];
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    T(setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on));
    int mode = IP_PMTUDISC_DO;
    T(setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &mode, sizeof mode));
    T(sendto(fd, much, 65508, 0, ADDRESS(to)));
    queue("too long", fd);
    SECTION("version 6");
    struct sockaddr_in6 six = inet6("::1", free_port(AF_INET6));
    fd = socket(AF_INET6, SOCK_DGRAM, 0);
    T(setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on));
    T(connect(fd, ADDRESS(six)));
    T(send(fd, "hello", 5, 0));
    until(fd, POLLERR);
    ready("refused", fd);
    queue("first", fd);
    T(recv(fd, buffer, 1, MSG_DONTWAIT));
    T(error_of(fd));
    SECTION("tcp");
    int free4, listener = listener4(&free4, 1);
    close(listener);
    to = inet4("127.0.0.1", free4);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    T(setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on));
    T(connect(fd, ADDRESS(to)));
    queue("tcp", fd);
    return 0;
}
