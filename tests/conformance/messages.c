// Messages of many kinds: vectors, several at once, flags, bad pointers, lengths of nothing.
#include "sockets.h"

static void on_alarm(int signal) { (void)signal; }

int main(void) {
    int u[2], s[2], d[2], n;
    char buffer[256];
    SECTION("vectors");
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    T(socketpair(AF_UNIX, SOCK_DGRAM, 0, d));
    struct iovec parts[3] = {{"ab", 2}, {0, 0}, {"cde", 3}};
    struct msghdr m = {.msg_iov = parts, .msg_iovlen = 3};
    T(sendmsg(d[0], &m, 0));
    T(recv(d[1], buffer, 9, 0));
    char one[3] = "", two[3] = "";
    struct iovec into[2] = {{one, 2}, {two, 2}};
    struct msghdr r = {.msg_iov = into, .msg_iovlen = 2};
    T(sendmsg(d[0], &m, 0));
    T(recvmsg(d[1], &r, 0));
    printf("%s %s\n", one, two);
    T(r.msg_flags);
    T(r.msg_controllen);
    T(r.msg_namelen);
    m.msg_iovlen = 0;
    T(sendmsg(d[0], &m, 0));
    T(recvmsg(d[1], &r, MSG_DONTWAIT));
    T(sendmsg(s[0], &m, 0));
    T(recvmsg(s[1], &r, MSG_DONTWAIT));
    m.msg_iovlen = 1025;
    T(sendmsg(s[0], &m, 0));
    T(recvmsg(s[1], &m, 0));
    m.msg_iovlen = (size_t)-1;
    T(sendmsg(s[0], &m, 0));
    m.msg_iovlen = 1;
    m.msg_iov = (void *)8;
    T(sendmsg(s[0], &m, 0));
    m.msg_iov = parts;
    parts[0].iov_len = -1;
    T(sendmsg(s[0], &m, 0));
    parts[0].iov_len = SSIZE_MAX;
    IS(sendmsg(s[0], &m, MSG_DONTWAIT) > 0);
    while (recv(s[1], buffer, sizeof buffer, MSG_DONTWAIT) > 0) {}
    parts[0] = (struct iovec){(void *)8, 4};
    T(sendmsg(s[0], &m, 0));
    T(sendmsg(d[0], &m, 0));
    T(recv(s[1], buffer, 9, MSG_DONTWAIT));
    T(recv(d[1], buffer, 9, MSG_DONTWAIT));
    T(sendmsg(s[0], (void *)8, 0));
    T(recvmsg(s[0], (void *)8, 0));
    T(sendmsg(s[0], 0, 0));
    T(send(s[0], (void *)8, 4, 0));
    T(send(s[0], (void *)-8, 4, 0));
    T(send(s[0], "x", -1, MSG_DONTWAIT) == -1 ? errno : 0);
    while (recv(s[1], buffer, sizeof buffer, MSG_DONTWAIT) > 0) {}
    // What cannot be written is lost for a datagram, and kept by a stream.
    T(send(d[0], "datagram", 8, 0));
    T(recv(d[1], (void *)8, 8, 0));
    T(recv(d[1], buffer, 9, MSG_DONTWAIT));
    T(send(s[0], "stream", 6, 0));
    T(recv(s[1], (void *)8, 8, 0));
    T(recv(s[1], buffer, 9, MSG_DONTWAIT));
    SECTION("names");
    m = (struct msghdr){.msg_iov = parts, .msg_iovlen = 1};
    parts[0] = (struct iovec){"ab", 2};
    m.msg_name = (void *)8;
    T(sendmsg(d[0], &m, 0));
    m.msg_namelen = 10;
    T(sendmsg(d[0], &m, 0));
    m.msg_namelen = -1;
    T(sendmsg(d[0], &m, 0));
    struct sockaddr_un name = {AF_UNIX, "/nowhere"};
    m.msg_name = &name;
    m.msg_namelen = 400;
    T(sendmsg(d[0], &m, 0));
    m.msg_namelen = sizeof name;
    T(sendmsg(d[0], &m, 0));
    m.msg_namelen = 1;
    T(sendmsg(d[0], &m, 0));
    m.msg_name = 0;
    m.msg_namelen = 100;
    T(sendmsg(d[0], &m, 0));
    while (recv(d[1], buffer, 9, MSG_DONTWAIT) >= 0) {}
    T(send(d[0], "x", 1, 0));
    r = (struct msghdr){.msg_name = (void *)8, .msg_namelen = 10, .msg_iov = into, .msg_iovlen = 2};
    T(recvmsg(d[1], &r, MSG_DONTWAIT));
    T(bind_name(d[0], "@messages"));
    T(send(d[0], "x", 1, 0));
    T(recvmsg(d[1], &r, MSG_DONTWAIT));
    T(recvmsg(d[1], &r, MSG_DONTWAIT));
    T(send(d[0], "x", 1, 0));
    r.msg_name = &name;
    r.msg_namelen = -1;
    T(recvmsg(d[1], &r, MSG_DONTWAIT));
    r.msg_namelen = 4;
    T(recvmsg(d[1], &r, MSG_DONTWAIT));
    T(r.msg_namelen);
    SECTION("flags");
    T(send(d[0], "x", 1, MSG_CONFIRM | MSG_DONTROUTE | MSG_MORE | MSG_EOR | MSG_NOSIGNAL));
    T(recv(d[1], buffer, 9, MSG_DONTWAIT));
    T(send(d[0], "x", 1, 0x80000));
    T(recv(d[1], buffer, 9, MSG_DONTWAIT));
    T(send(d[0], "x", 1, -1));
    T(recv(d[1], buffer, 9, MSG_DONTWAIT));
    T(send(d[0], "x", 1, MSG_OOB));
    T(recv(d[1], buffer, 9, MSG_OOB));
    T(send(d[0], "x", 1, 0));
    T(recv(d[1], buffer, 9, MSG_ERRQUEUE | MSG_DONTWAIT));
    T(recv(s[1], buffer, 9, MSG_ERRQUEUE | MSG_DONTWAIT));
    r = (struct msghdr){.msg_iov = into, .msg_iovlen = 2, .msg_flags = -1};
    T(send(d[0], "x", 1, 0));
    T(recvmsg(d[1], &r, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
    T(r.msg_flags);
    SECTION("all of it");
    if (fork() == 0) {
        for (int i = 0; i < 3; i++) { usleep(20000); write(s[0], "abcd", 4); }
        _exit(0);
    }
    T(recv(s[1], buffer, 10, MSG_WAITALL));
    wait(0);
    T(recv(s[1], buffer, 10, MSG_WAITALL | MSG_DONTWAIT));
    T(recv(s[1], buffer, 10, MSG_WAITALL | MSG_DONTWAIT));
    if (fork() == 0) { close(s[1]); usleep(20000); write(s[0], "ab", 2); usleep(20000); shutdown(s[0], SHUT_WR); _exit(0); }
    T(recv(s[1], buffer, 10, MSG_WAITALL));
    wait(0);
    T(recv(s[1], buffer, 10, MSG_WAITALL));
    int t[2];
    connection4(t);
    if (fork() == 0) {
        for (int i = 0; i < 3; i++) { usleep(20000); write(t[0], "abcd", 4); }
        _exit(0);
    }
    T(recv(t[1], buffer, 10, MSG_WAITALL));
    wait(0);
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, 0);
    ualarm(50000, 0);
    T(recv(t[1], buffer, 10, MSG_WAITALL));
    ualarm(50000, 0);
    T(recv(t[1], buffer, 10, MSG_WAITALL));
    struct timeval little = {0, 50000};
    T(setsockopt(t[1], SOL_SOCKET, SO_RCVTIMEO, &little, sizeof little));
    T(write(t[0], "ab", 2));
    T(recv(t[1], buffer, 10, MSG_WAITALL));
    T(recv(t[1], buffer, 10, MSG_WAITALL));
    T(write(t[0], "abcdef", 6));
    T(recv(t[1], buffer, 4, MSG_WAITALL | MSG_PEEK));
    T(recv(t[1], buffer, 6, MSG_WAITALL));
    int low = 5;
    T(setsockopt(t[1], SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
    T(write(t[0], "abc", 3));
    usleep(10000);
    ready("below the mark", t[1]);
    T(recv(t[1], buffer, 9, MSG_DONTWAIT));
    int v[2];
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, v));
    T(setsockopt(v[1], SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
    T(write(v[0], "abc", 3));
    ready("unix, below the mark", v[1]);
    T(setsockopt(v[1], SOL_SOCKET, SO_RCVTIMEO, &little, sizeof little));
    T(recv(v[1], buffer, 9, 0));
    SECTION("several at once");
    T(socketpair(AF_UNIX, SOCK_DGRAM, 0, u));
    struct mmsghdr many[4];
    struct iovec texts[4] = {{"a", 1}, {"bc", 2}, {"", 0}, {"def", 3}};
    memset(many, 0, sizeof many);
    for (int i = 0; i < 4; i++) many[i].msg_hdr = (struct msghdr){.msg_iov = texts + i, .msg_iovlen = 1};
    T(sendmmsg(u[0], many, 4, 0));
    for (int i = 0; i < 4; i++) T(many[i].msg_len);
    char rooms[4][8];
    struct iovec spaces[4];
    struct mmsghdr got[4];
    memset(got, 0, sizeof got);
    for (int i = 0; i < 4; i++) {
        spaces[i] = (struct iovec){rooms[i], i == 3 ? 2 : 8};
        got[i].msg_hdr = (struct msghdr){.msg_iov = spaces + i, .msg_iovlen = 1};
    }
    T(recvmmsg(u[1], got, 4, 0, 0));
    for (int i = 0; i < 4; i++) { T(got[i].msg_len); T(got[i].msg_hdr.msg_flags); }
    T(recvmmsg(u[1], got, 4, MSG_DONTWAIT, 0));
    T(sendmmsg(u[0], many, 2, 0));
    T(recvmmsg(u[1], got, 4, MSG_DONTWAIT, 0));
    T(sendmmsg(u[0], many, 2, 0));
    T(recvmmsg(u[1], got, 4, MSG_WAITFORONE, 0));
    T(sendmmsg(u[0], many, 0, 0));
    T(recvmmsg(u[1], got, 0, 0, 0));
    struct timespec time_out = {0, 50000000};
    T(sendmmsg(u[0], many, 1, 0));
    T(recvmmsg(u[1], got, 1, 0, &time_out));
    IS(time_out.tv_nsec <= 50000000);
    time_out = (struct timespec){0, 1000000000};
    T(recvmmsg(u[1], got, 1, MSG_DONTWAIT, &time_out));
    time_out = (struct timespec){-1, 0};
    T(recvmmsg(u[1], got, 1, MSG_DONTWAIT, &time_out));
    T(recvmmsg(u[1], got, 1, MSG_DONTWAIT, (void *)8));
    T(recvmmsg(u[1], (void *)8, 1, MSG_DONTWAIT, 0));
    T(sendmmsg(u[0], (void *)8, 1, 0));
    T(sendmmsg(u[0], many, -1, 0) > 0);
    texts[2] = (struct iovec){(void *)8, 9};
    while (recv(u[1], buffer, 9, MSG_DONTWAIT) >= 0) {}
    T(sendmmsg(u[0], many, 4, 0));
    while (recv(u[1], buffer, 9, MSG_DONTWAIT) >= 0) {}
    texts[0] = (struct iovec){(void *)8, 9};
    T(sendmmsg(u[0], many, 4, 0));
    T(sendmmsg(0, many, 1, 0));
    T(recvmmsg(0, got, 1, 0, 0));
    T(sendmmsg(999, many, 1, 0));
    // An error after some messages is told by the next call.
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in closed = inet4("127.0.0.1", 1);
    T(connect(udp, ADDRESS(closed)));
    T(send(udp, "x", 1, 0));
    until(udp, POLLERR);
    T(recvmmsg(udp, got, 2, MSG_DONTWAIT, 0));
    T(recvmmsg(udp, got, 2, MSG_DONTWAIT, 0));
    SECTION("sockets as files");
    struct stat st;
    T(fstat(u[0], &st));
    T(st.st_mode);
    T(st.st_nlink);
    T(st.st_blksize);
    char link[64], path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", u[0]);
    n = readlink(path, link, sizeof link - 1);
    link[n > 0 ? n : 0] = 0;
    T(strncmp(link, "socket:[", 8));
    T(open(path, O_RDWR));
    T(read(udp, 0, 0));
    T(fsync(udp));
    T(lseek(udp, 0, SEEK_CUR));
    T(pread(udp, buffer, 1, 0));
    T(ftruncate(udp, 0));
    T(mmap(0, 4096, PROT_READ, MAP_SHARED, udp, 0) == MAP_FAILED ? errno : 0);
    T(fchdir(udp));
    T(fchmod(udp, 0644));
    T(ioctl(udp, 0x1234, buffer));
    T(ioctl(u[0], 0x1234, buffer));
    T(fcntl(udp, F_SETFL, O_NONBLOCK | O_APPEND));
    T(fcntl(udp, F_GETFL) & (O_NONBLOCK | O_APPEND | O_ACCMODE));
    T(fallocate(udp, 0, 0, 10));
    return 0;
}
