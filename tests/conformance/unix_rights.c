// Descriptors and credentials that go along with messages (unix(7): SCM_RIGHTS, SCM_CREDENTIALS).
#include "sockets.h"

struct credentials { pid_t pid; uid_t uid; gid_t gid; };

static union { char bytes[4096]; struct cmsghdr align; } control;

// Sends a byte with descriptors.
static long give(int fd, const int *given, int count) {
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    memset(&control, 0, sizeof control);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), given, count * sizeof(int));
    return sendmsg(fd, &m, MSG_DONTWAIT);
}

static long claim(int fd, pid_t pid, uid_t uid, gid_t gid, int length) {
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(length)};
    memset(&control, 0, sizeof control);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_CREDENTIALS;
    c->cmsg_len = CMSG_LEN(length);
    struct credentials credentials = {pid, uid, gid};
    memcpy(CMSG_DATA(c), &credentials, sizeof credentials);
    return sendmsg(fd, &m, MSG_DONTWAIT);
}

static int got[300], got_count;

// Receives up to `size` bytes into a control buffer of `room` bytes and says what came.
static void take(const char *what, int fd, int size, int room, int flags) {
    char buffer[64];
    struct iovec v = {buffer, size};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room ? control.bytes : 0, .msg_controllen = room};
    memset(&control, 0x55, sizeof control);
    errno = 0;
    long n = recvmsg(fd, &m, flags | MSG_DONTWAIT);
    printf("%s: %ld %s flags %x control %d", what, n, n < 0 ? check_error(errno) : "", n < 0 ? 0 : m.msg_flags, (int)(n < 0 ? -1 : m.msg_controllen));
    got_count = 0;
    if (n >= 0)
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            printf(" [%d %d length %d", c->cmsg_level, c->cmsg_type, (int)c->cmsg_len);
            if (c->cmsg_type == SCM_RIGHTS) {
                got_count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(got, CMSG_DATA(c), got_count * sizeof(int));
                for (int i = 0; i < got_count && i < 3; i++) printf(" cloexec %d", fcntl(got[i], F_GETFD));
            } else if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(struct credentials))) {
                struct credentials credentials;
                memcpy(&credentials, CMSG_DATA(c), sizeof credentials);
                printf(" %s %d %d", credentials.pid == getpid() ? "self" : credentials.pid == getppid() ? "parent" : credentials.pid ? "other" : "0",
                       (int)credentials.uid, (int)credentials.gid);
            }
            printf("]");
        }
    printf("\n");
}

static void close_got(void) {
    for (int i = 0; i < got_count; i++) close(got[i]);
}

static int open_count(void) {
    int count = 0;
    for (int i = 0; i < 1024; i++) count += fcntl(i, F_GETFD) >= 0;
    return count;
}

int main(void) {
    int p[2], pipes[2], many[300], on = 1, off = 0;
    char buffer[64];
    SECTION("descriptors");
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    T(pipe(pipes));
    T(give(p[0], pipes, 2));
    take("two", p[1], 10, 200, 0);
    T(write(got[1], "through", 7));
    T(read(pipes[0], buffer, sizeof buffer));
    close_got();
    T(give(p[0], pipes, 2));
    take("close on exec", p[1], 10, 200, MSG_CMSG_CLOEXEC);
    close_got();
    int none[] = {-1, 999}, before = open_count();
    T(give(p[0], none, 1));
    T(give(p[0], none + 1, 1));
    T(give(p[0], none, 0));
    take("nothing went along", p[1], 10, 200, 0);
    int path = open("/", O_PATH);
    T(give(p[0], &path, 1));
    take("a path", p[1], 10, 200, 0);
    close_got();
    SECTION("too little room");
    T(give(p[0], pipes, 2));
    take("none", p[1], 10, 0, 0);
    T(give(p[0], pipes, 2));
    take("half a header", p[1], 10, 8, 0);
    T(give(p[0], pipes, 2));
    take("a header", p[1], 10, 16, 0);
    T(give(p[0], pipes, 2));
    take("two bytes more", p[1], 10, 18, 0);
    T(give(p[0], pipes, 2));
    take("for one", p[1], 10, CMSG_LEN(4), 0);
    close_got();
    T(give(p[0], pipes, 2));
    take("for one and padding", p[1], 10, CMSG_SPACE(4), 0);
    close_got();
    T(give(p[0], pipes, 2));
    take("for two", p[1], 10, CMSG_LEN(8), 0);
    close_got();
    T(give(p[0], pipes, 2));
    T(read(p[1], buffer, 1));
    T(give(p[0], pipes, 2));
    T(recv(p[1], buffer, 1, 0));
    close(path);
    // Nothing of what was dropped stays open.
    IS(open_count() == before);
    SECTION("at most 253");
    for (int i = 0; i < 300; i++) many[i] = pipes[0];
    T(give(p[0], many, 253));
    take("253", p[1], 10, 4096, 0);
    T(got_count);
    close_got();
    T(give(p[0], many, 254));
    SECTION("no room in the table");
    T(give(p[0], many, 20));
    int full[1024], count = 0;
    while (count < 1024 && (full[count] = dup(0)) >= 0) count++;
    for (int i = 0; i < 3; i++) close(full[--count]);
    take("three free", p[1], 10, 4096, 0);
    close_got();
    while (count > 0) close(full[--count]);
    IS(open_count() == before - 1);
    SECTION("borders");
    T(write(p[0], "abc", 3));
    T(give(p[0], pipes, 1));
    T(write(p[0], "def", 3));
    take("up to the descriptors", p[1], 64, 200, 0);
    close_got();
    take("behind them", p[1], 64, 200, 0);
    T(give(p[0], pipes, 1));
    T(give(p[0], pipes, 1));
    take("first", p[1], 64, 200, 0);
    close_got();
    take("second", p[1], 64, 200, 0);
    close_got();
    SECTION("peeking");
    T(give(p[0], pipes, 1));
    take("a look", p[1], 64, 200, MSG_PEEK);
    close_got();
    take("another", p[1], 64, 200, MSG_PEEK);
    close_got();
    take("taken", p[1], 64, 200, 0);
    close_got();
    IS(open_count() == before - 1);
    SECTION("datagrams");
    int d[2];
    T(socketpair(AF_UNIX, SOCK_DGRAM, 0, d));
    T(give(d[0], pipes, 2));
    take("two", d[1], 64, 200, 0);
    close_got();
    T(give(d[0], pipes, 2));
    take("no byte asked", d[1], 0, 200, 0);
    close_got();
    // A datagram of descriptors alone.
    struct msghdr m = {.msg_control = control.bytes, .msg_controllen = CMSG_SPACE(4)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    memset(&control, 0, sizeof control);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(4);
    memcpy(CMSG_DATA(c), pipes, 4);
    T(sendmsg(d[0], &m, 0));
    take("empty", d[1], 64, 200, 0);
    close_got();
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(4);
    memcpy(CMSG_DATA(c), pipes, 4);
    // A stream has no message to go with.
    T(sendmsg(p[0], &m, 0));
    take("nothing", p[1], 64, 200, 0);
    SECTION("malformed");
    struct iovec v = {"x", 1};
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    c->cmsg_len = 15;
    T(sendmsg(p[0], &m, 0));
    c->cmsg_len = CMSG_LEN(4) + 8;
    T(sendmsg(p[0], &m, 0));
    c->cmsg_len = -1;
    T(sendmsg(p[0], &m, 0));
    c->cmsg_len = CMSG_LEN(3);
    T(sendmsg(p[0], &m, 0));
    take("three bytes", p[1], 64, 200, 0);
    c->cmsg_len = CMSG_LEN(4);
    c->cmsg_type = 77;
    T(sendmsg(p[0], &m, 0));
    c->cmsg_level = 77;
    T(sendmsg(p[0], &m, 0));
    take("another level", p[1], 64, 200, 0);
    m.msg_controllen = 7;
    T(sendmsg(p[0], &m, 0));
    take("less than a header", p[1], 64, 200, 0);
    m.msg_control = (void *)8;
    m.msg_controllen = 24;
    T(sendmsg(p[0], &m, 0));
    m.msg_control = 0;
    T(sendmsg(p[0], &m, 0));
    m.msg_controllen = 1 << 20;
    m.msg_control = control.bytes;
    T(sendmsg(p[0], &m, 0));
    m.msg_controllen = (size_t)-1;
    T(sendmsg(p[0], &m, 0));
    while (recv(p[1], buffer, 9, MSG_DONTWAIT) > 0) {}
    SECTION("two records");
    m.msg_controllen = 2 * CMSG_SPACE(4);
    m.msg_control = control.bytes;
    memset(&control, 0, sizeof control);
    for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(4);
        memcpy(CMSG_DATA(c), pipes, 4);
    }
    T(sendmsg(p[0], &m, 0));
    take("two records", p[1], 64, 200, 0);
    close_got();
    SECTION("of the wrong kind");
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = inet4("127.0.0.1", 9);
    T(connect(udp, ADDRESS(to)));
    T(give(udp, pipes, 1));
    T(claim(udp, getpid(), 0, 0, 12));
    SECTION("sockets in themselves");
    int loop[2], probe[2];
    T(pipe(probe));
    T(socketpair(AF_UNIX, SOCK_DGRAM, 0, loop));
    T(give(loop[0], loop, 2));
    T(give(loop[1], loop, 2));
    T(give(loop[0], probe + 1, 1));
    close(loop[0]);
    close(loop[1]);
    close(probe[1]);
    // Nobody can receive them any more: the last writer of the pipe is gone when they are collected. Linux looks when a socket is closed or sent.
    for (int i = 0; i < 20; i++) {
        int more[2];
        socketpair(AF_UNIX, SOCK_DGRAM, 0, more);
        give(more[0], more, 2);
        close(more[0]);
        close(more[1]);
    }
    // When it does is its own affair: on a busy machine it may be long after.
    struct pollfd gone = {probe[0], POLLIN};
    SECTION("a closed queue");
    T(pipe(probe));
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, loop));
    T(give(loop[0], probe + 1, 1));
    close(probe[1]);
    T(read(loop[1], buffer, 0));
    gone.fd = probe[0];
    T(poll(&gone, 1, 0));
    close(loop[1]);
    T(poll(&gone, 1, 1000));
    show_bits("the pipe", gone.revents);
    SECTION("deep");
    // Each socket lies in the queue of the next.
    int outer[2], inner[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, inner);
    for (int i = 0; i < 2000; i++) {
        socketpair(AF_UNIX, SOCK_STREAM, 0, outer);
        // A user may have only so many under way.
        if (give(outer[0], inner, 2) != 1) { printf("%s\n", check_error(errno)); break; }
        close(inner[0]);
        close(inner[1]);
        memcpy(inner, outer, sizeof inner);
    }
    close(inner[0]);
    close(inner[1]);
    SECTION("credentials");
    T(claim(p[0], getpid(), 0, 0, 12));
    take("not asked for", p[1], 9, 200, 0);
    T(setsockopt(p[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    socklen_t length = sizeof off;
    T(getsockopt(p[1], SOL_SOCKET, SO_PASSCRED, &off, &length));
    T(off);
    T(claim(p[0], getpid(), 0, 0, 12));
    take("own", p[1], 9, 200, 0);
    T(send(p[0], "y", 1, 0));
    take("of the kernel's filling", p[1], 9, 200, 0);
    T(write(p[0], "z", 1));
    take("of a write", p[1], 9, 200, 0);
    T(claim(p[0], getpid() + 1000, 0, 0, 12));
    T(claim(p[0], 1, 0, 0, 12));
    T(claim(p[0], 0, 0, 0, 12));
    take("of another", p[1], 9, 200, 0);
    T(claim(p[0], getpid(), 1234, 5678, 12));
    take("of another user", p[1], 9, 200, 0);
    T(claim(p[0], getpid(), -1, 0, 12));
    T(claim(p[0], getpid(), 0, -1, 12));
    T(claim(p[0], getpid(), 0, 0, 8));
    T(claim(p[0], getpid(), 0, 0, 16));
    take("length", p[1], 9, 200, 0);
    T(claim(p[0], getpid(), 0, 0, 12));
    take("no room", p[1], 9, 0, 0);
    T(claim(p[0], getpid(), 0, 0, 12));
    take("little room", p[1], 9, 20, 0);
    T(claim(p[0], getpid(), 0, 0, 12));
    take("peeked", p[1], 9, 200, MSG_PEEK);
    take("taken", p[1], 9, 200, 0);
    CHILD(setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); T(claim(p[0], getpid(), 0, 0, 12)); T(claim(p[0], getpid(), 1000, 0, 12));
          T(claim(p[0], getpid(), 1000, 1000, 12)); T(claim(p[0], getppid(), 1000, 1000, 12)); T(write(p[0], "w", 1)));
    take("of a child", p[1], 9, 200, 0);
    take("of a child's write", p[1], 9, 200, 0);
    CHILD(T(setresuid(0, 1000, 0)); T(write(p[0], "w", 1)));
    take("real and effective", p[1], 9, 200, 0);
    // Bytes of two senders are not mixed.
    T(write(p[0], "ab", 2));
    CHILD(write(p[0], "cd", 2));
    take("from one", p[1], 64, 200, 0);
    take("from the other", p[1], 64, 200, 0);
    T(give(p[0], pipes, 1));
    take("both", p[1], 9, 200, 0);
    close_got();
    T(give(p[0], pipes, 1));
    take("room for one of them", p[1], 9, CMSG_SPACE(12), 0);
    SECTION("of the peer");
    struct credentials peer;
    memset(&peer, 0, sizeof peer);
    length = sizeof peer;
    T(getsockopt(p[0], SOL_SOCKET, SO_PEERCRED, &peer, &length));
    T(length);
    IS(peer.pid == getpid());
    T(peer.uid);
    T(peer.gid);
    length = 4;
    T(getsockopt(p[0], SOL_SOCKET, SO_PEERCRED, &peer, &length));
    T(length);
    int lone = socket(AF_UNIX, SOCK_STREAM, 0);
    length = sizeof peer;
    T(getsockopt(lone, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    T(peer.pid);
    T(peer.uid);
    T(peer.gid);
    T(bind_name(lone, "@peers"));
    T(listen(lone, 5));
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHILD(setresgid(7, 7, 7); setresuid(7, 7, 7); int x = socket(AF_UNIX, SOCK_STREAM, 0); T(connect_name(x, "@peers")); length = sizeof peer;
          T(getsockopt(x, SOL_SOCKET, SO_PEERCRED, &peer, &length)); IS(peer.pid == getppid()); T(peer.uid));
    int accepted = accept(lone, 0, 0);
    length = sizeof peer;
    T(getsockopt(accepted, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    IS(peer.pid != getpid());
    T(peer.uid);
    T(peer.gid);
    length = sizeof peer;
    T(getsockopt(d[0], SOL_SOCKET, SO_PEERCRED, &peer, &length));
    IS(peer.pid == getpid());
    length = sizeof peer;
    T(getsockopt(udp, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    T(peer.pid);
    T(peer.uid);
    gid_t groups[8] = {3, 4, 5};
    T(setgroups(3, groups));
    int q[2];
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, q));
    memset(groups, 0, sizeof groups);
    length = sizeof groups;
    T(getsockopt(q[0], SOL_SOCKET, 59, groups, &length));
    T(length);
    T(groups[2]);
    length = 4;
    T(getsockopt(q[0], SOL_SOCKET, 59, groups, &length));
    T(length);
    T(getsockopt(client, SOL_SOCKET, 59, groups, &length));
    T(setsockopt(q[0], SOL_SOCKET, SO_PEERCRED, &peer, sizeof peer));
    SECTION("asked for on a listener");
    T(setsockopt(lone, SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    T(connect_name(client, "@peers"));
    T(write(client, "m", 1));
    accepted = accept(lone, 0, 0);
    length = sizeof off;
    T(getsockopt(accepted, SOL_SOCKET, SO_PASSCRED, &off, &length));
    T(off);
    take("first", accepted, 9, 200, 0);
    return 0;
}
