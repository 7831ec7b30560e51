// What the programs about sockets share.
#ifndef SOCKETS_H
#define SOCKETS_H
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#ifndef POLLRDHUP
#define POLLRDHUP 0x2000
#endif

// The bits of poll(2), by name.
static inline void show_bits(const char *what, short bits) {
    static const struct { short bit; const char *name; } names[] = {
        {POLLIN, "IN"}, {POLLPRI, "PRI"}, {POLLOUT, "OUT"}, {POLLERR, "ERR"}, {POLLHUP, "HUP"}, {POLLNVAL, "NVAL"}, {POLLRDNORM, "RDNORM"},
        {POLLRDBAND, "RDBAND"}, {POLLWRNORM, "WRNORM"}, {POLLWRBAND, "WRBAND"}, {POLLRDHUP, "RDHUP"},
    };
    printf("%s:", what);
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (bits & names[i].bit) printf(" %s", names[i].name);
    printf("\n");
}

#define EVERYTHING (POLLIN | POLLPRI | POLLOUT | POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND | POLLRDHUP)

// What is ready now.
static inline void ready(const char *what, int fd) {
    struct pollfd one = {fd, EVERYTHING, 0};
    poll(&one, 1, 0);
    show_bits(what, one.revents);
}

// Waits until one of the events is there: what the network does takes a moment.
static inline void until(int fd, short events) {
    struct pollfd one = {fd, events, 0};
    if (poll(&one, 1, 5000) != 1) printf("nothing came\n");
}

// A Unix address; an abstract name begins with '@'. Its length goes to *length.
static inline struct sockaddr_un named(const char *name, socklen_t *length) {
    struct sockaddr_un address = {AF_UNIX};
    size_t size = strlen(name);
    memcpy(address.sun_path, name, size);
    if (*name == '@') address.sun_path[0] = 0;
    *length = offsetof(struct sockaddr_un, sun_path) + size + (*name == '@' ? 0 : 1);
    return address;
}

static inline int bind_name(int fd, const char *name) {
    socklen_t length;
    struct sockaddr_un address = named(name, &length);
    return bind(fd, (struct sockaddr *)&address, length);
}

static inline int connect_name(int fd, const char *name) {
    socklen_t length;
    struct sockaddr_un address = named(name, &length);
    return connect(fd, (struct sockaddr *)&address, length);
}

static inline int sendto_name(int fd, const char *text, const char *name) {
    socklen_t length;
    struct sockaddr_un address = named(name, &length);
    return sendto(fd, text, strlen(text), 0, (struct sockaddr *)&address, length);
}

// A Unix address as text, NULs as '@', with its length.
static inline void show_name(const char *what, const struct sockaddr_un *address, socklen_t length) {
    printf("%s: %d ", what, (int)length);
    for (int i = offsetof(struct sockaddr_un, sun_path); i < (int)length && i < (int)sizeof *address + 1; i++) {
        char c = ((const char *)address)[i];
        putchar(c ? c : '@');
    }
    printf("\n");
}

static inline void show_own_name(const char *what, int fd) {
    struct { struct sockaddr_un a; char more[16]; } address;
    memset(&address, 0, sizeof address);
    socklen_t length = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0) printf("%s: %s\n", what, check_error(errno));
    else show_name(what, &address.a, length);
}

static inline void show_peer_name(const char *what, int fd) {
    struct { struct sockaddr_un a; char more[16]; } address;
    memset(&address, 0, sizeof address);
    socklen_t length = sizeof address;
    if (getpeername(fd, (struct sockaddr *)&address, &length) < 0) printf("%s: %s\n", what, check_error(errno));
    else show_name(what, &address.a, length);
}

static inline struct sockaddr_in inet4(const char *text, int port) {
    struct sockaddr_in address = {AF_INET, htons(port)};
    inet_pton(AF_INET, text, &address.sin_addr);
    return address;
}

static inline struct sockaddr_in6 inet6(const char *text, int port) {
    struct sockaddr_in6 address = {AF_INET6, htons(port)};
    inet_pton(AF_INET6, text, &address.sin6_addr);
    return address;
}

#define ADDRESS(a) (struct sockaddr *)&(a), sizeof(a)

// An internet address as text. A port of the kernel's choice is only said to be there.
static inline void show_inet(const char *what, const void *address, socklen_t length, int show_port) {
    char text[64] = "?";
    int family = length >= 2 ? ((const struct sockaddr *)address)->sa_family : -1, port = 0;
    if (family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, sizeof text);
        port = ntohs(((const struct sockaddr_in *)address)->sin_port);
    } else if (family == AF_INET6) {
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, text, sizeof text);
        port = ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    }
    if (show_port || port == 0) printf("%s: %d family %d %s port %d\n", what, (int)length, family, text, port);
    else printf("%s: %d family %d %s and a port\n", what, (int)length, family, text);
}

static inline int port_of(int fd) {
    struct sockaddr_in6 address;
    socklen_t length = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &length);
    return ntohs(address.sin6_port);
}

static inline int error_of(int fd) {
    int error = -1;
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return error;
}

// A listener on loopback and its port.
static inline int listener4(int *port, int backlog) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = inet4("127.0.0.1", 0);
    if (bind(fd, ADDRESS(address)) < 0 || listen(fd, backlog) < 0) printf("listener: %s\n", check_error(errno));
    *port = port_of(fd);
    return fd;
}

// A connection over loopback: pair[0] connected, pair[1] accepted.
static inline void connection4(int pair[2]) {
    int port, listener = listener4(&port, 5);
    struct sockaddr_in address = inet4("127.0.0.1", port);
    pair[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(pair[0], ADDRESS(address)) < 0) printf("connect: %s\n", check_error(errno));
    pair[1] = accept(listener, 0, 0);
    if (pair[1] < 0) printf("accept: %s\n", check_error(errno));
    close(listener);
}
#endif
