// Making sockets, and calling them in the wrong order.
#include "sockets.h"
#include <linux/netlink.h>

int main(void) {
    int p[2];
    char buffer[16];
    struct sockaddr_in address;
    socklen_t length;
    SECTION("families");
    for (int family = -1; family < 50; family++) {
        // Families that a kernel may or may not have, or that need rights, say little.
        static const int common[] = {-1, 0, 1, 2, 10, 16, 46, 47, 48, 49};
        for (unsigned i = 0; i < sizeof common / sizeof *common; i++)
            if (common[i] == family) { printf("%d: ", family); OK(socket(family, SOCK_DGRAM, 0)); }
    }
    SECTION("types");
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
    for (unsigned f = 0; f < 4; f++)
        for (int type = 0; type < 12; type++) {
            // Raw sockets need a right that only some have.
            if ((families[f] == AF_INET || families[f] == AF_INET6) && (type == SOCK_RAW || type == SOCK_PACKET)) continue;
            printf("%d %d: ", families[f], type);
            OK(socket(families[f], type, 0));
        }
    SECTION("protocols");
    for (unsigned f = 0; f < 3; f++)
        for (int type = 1; type < 3; type++) {
            static const int protocols[] = {-1, 1, 2, 6, 17, 41, 58, 255, 256, 262, 1000};
            for (unsigned i = 0; i < sizeof protocols / sizeof *protocols; i++) {
                // Echo sockets depend on the namespace's ping_group_range; 262 is multipath TCP.
                if (type == SOCK_DGRAM && (protocols[i] == 1 || protocols[i] == 58) || protocols[i] == 262) continue;
                printf("%d %d %d: ", families[f], type, protocols[i]);
                OK(socket(families[f], type, protocols[i]));
            }
        }
    OK(socket(AF_NETLINK, SOCK_RAW, 32));
    OK(socket(AF_NETLINK, SOCK_RAW, -1));
    SECTION("flags");
    OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    T(socket(AF_INET, SOCK_STREAM | 0x10, 0));
    T(socket(AF_INET, SOCK_STREAM | 0x100000, 0));
    T(socket(AF_INET, -1, 0));
    T(socket(AF_UNIX, SOCK_STREAM | 0x10, 0));
    int quick = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    T(fcntl(quick, F_GETFD));
    T(fcntl(quick, F_GETFL) & O_NONBLOCK);
    SECTION("pairs");
    T(socketpair(AF_INET, SOCK_STREAM, 0, p));
    T(socketpair(AF_INET6, SOCK_DGRAM, 0, p));
    T(socketpair(AF_NETLINK, SOCK_RAW, 0, p));
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, (void *)8));
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, 0));
    T(socketpair(AF_UNIX, 9, 0, p));
    T(socketpair(AF_UNIX, SOCK_STREAM | 0x10, 0, p));
    T(socketpair(AF_UNIX, SOCK_STREAM, 7, p));
    T(socketpair(AF_UNIX, SOCK_STREAM, 1, p));
    T(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p));
    T(fcntl(p[0], F_GETFD) + fcntl(p[1], F_GETFD));
    T(read(p[0], buffer, 1));
    T(socketpair(99, SOCK_STREAM, 0, p));
    SECTION("no socket");
    static const int numbers[] = {0, 999, -1};
    for (int i = 0; i < 3; i++) {
        int fd = numbers[i];
        length = sizeof address;
        T(bind(fd, ADDRESS(address)));
        T(connect(fd, ADDRESS(address)));
        T(listen(fd, 1));
        T(accept(fd, 0, 0));
        T(getsockname(fd, (struct sockaddr *)&address, &length));
        T(getpeername(fd, (struct sockaddr *)&address, &length));
        T(send(fd, "x", 1, 0));
        T(recv(fd, buffer, 1, 0));
        T(shutdown(fd, 0));
        T(getsockopt(fd, SOL_SOCKET, SO_TYPE, buffer, &length));
        T(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, buffer, 4));
        struct msghdr m = {0};
        T(sendmsg(fd, &m, 0));
        T(recvmsg(fd, &m, 0));
    }
    int path = open("/", O_PATH);
    T(listen(path, 1));
    T(recv(path, buffer, 1, 0));
    SECTION("order: tcp");
    int tcp = socket(AF_INET, SOCK_STREAM, 0);
    address = inet4("127.0.0.1", 0);
    length = sizeof address;
    T(getpeername(tcp, (struct sockaddr *)&address, &length));
    T(send(tcp, "x", 1, MSG_NOSIGNAL));
    CHILD(send(tcp, "x", 1, 0));
    T(recv(tcp, buffer, 1, MSG_DONTWAIT));
    T(recv(tcp, buffer, 1, MSG_OOB));
    T(accept(tcp, 0, 0));
    address = inet4("127.0.0.1", 0);
    T(bind(tcp, ADDRESS(address)));
    T(bind(tcp, ADDRESS(address)));
    T(listen(tcp, -1));
    T(listen(tcp, 0));
    T(listen(tcp, 100000));
    T(bind(tcp, ADDRESS(address)));
    T(connect(tcp, ADDRESS(address)));
    T(send(tcp, "x", 1, MSG_NOSIGNAL));
    T(recv(tcp, buffer, 1, MSG_DONTWAIT));
    int unbound = socket(AF_INET, SOCK_STREAM, 0);
    // Listening binds to a port of the kernel's choice.
    T(listen(unbound, 1));
    length = sizeof address;
    T(getsockname(unbound, (struct sockaddr *)&address, &length));
    show_inet("chosen", &address, length, 0);
    SECTION("order: unix");
    int stream = socket(AF_UNIX, SOCK_STREAM, 0);
    T(listen(stream, 1));
    T(accept(stream, 0, 0));
    T(send(stream, "x", 1, MSG_NOSIGNAL));
    T(recv(stream, buffer, 1, MSG_DONTWAIT));
    T(bind_name(stream, "@order"));
    T(bind_name(stream, "@order2"));
    T(accept(stream, 0, 0));
    T(listen(stream, 1));
    T(listen(stream, 0));
    T(connect_name(stream, "@order"));
    T(shutdown(stream, SHUT_RD));
    SECTION("order: netlink");
    int route = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    T(listen(route, 1));
    T(accept(route, 0, 0));
    T(shutdown(route, SHUT_RD));
    T(recv(route, buffer, 1, MSG_DONTWAIT));
    struct sockaddr_nl nl = {AF_NETLINK};
    T(bind(route, (struct sockaddr *)&nl, 11));
    T(bind(route, ADDRESS(nl)));
    T(bind(route, ADDRESS(nl)));
    nl.nl_pid = 12345;
    T(bind(route, ADDRESS(nl)));
    length = sizeof nl;
    T(getsockname(route, (struct sockaddr *)&nl, &length));
    T(length);
    IS(nl.nl_pid != 0);
    length = sizeof nl;
    T(getpeername(route, (struct sockaddr *)&nl, &length));
    T(nl.nl_pid);
    nl.nl_family = AF_INET;
    T(bind(route, ADDRESS(nl)));
    T(connect(route, ADDRESS(nl)));
    SECTION("bad pointers");
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    T(bind(fresh, (void *)8, 16));
    T(connect(fresh, (void *)8, 16));
    T(bind(fresh, (void *)8, 0));
    T(connect(fresh, (void *)8, 0));
    T(connect(fresh, (void *)8, 129));
    T(connect(fresh, (void *)8, -1));
    address = inet4("127.0.0.1", 0);
    T(bind(fresh, (struct sockaddr *)&address, 1));
    T(bind(fresh, (struct sockaddr *)&address, 2));
    T(bind(fresh, (struct sockaddr *)&address, 15));
    T(connect(fresh, (struct sockaddr *)&address, 1));
    T(connect(fresh, (struct sockaddr *)&address, 2));
    T(connect(fresh, (struct sockaddr *)&address, 15));
    T(connect(fresh, ADDRESS(address)));
    T(getsockname(fresh, (void *)8, &length));
    length = -1;
    T(getsockname(fresh, (struct sockaddr *)&address, &length));
    address = inet4("10.1.1.1", 5);
    T(connect(fresh, ADDRESS(address)));
    address = inet4("224.0.0.1", 5);
    T(connect(fresh, ADDRESS(address)));
    address = inet4("255.255.255.255", 5);
    T(connect(fresh, ADDRESS(address)));
    address = inet4("240.0.0.1", 5);
    T(bind(fresh, ADDRESS(address)));
    return 0;
}
