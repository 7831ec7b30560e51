// Pipes: capacity, atomic writes, ends that close, vectors, flags.
#include "check.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static void on_pipe(int signal) { (void)signal; }

int main(void) {
    int p[2];
    char buffer[70000];
    memset(buffer, 'x', sizeof buffer);
    SECTION("capacity");
    T(pipe2(p, O_NONBLOCK));
    T(fcntl(p[0], F_GETPIPE_SZ));
    T(write(p[1], buffer, sizeof buffer));
    T(write(p[1], buffer, 1));
    int queued;
    T(ioctl(p[0], FIONREAD, &queued));
    T(queued);
    T(read(p[0], buffer, 4096));
    // A write of at most PIPE_BUF is whole or not at all.
    T(write(p[1], buffer, 4096));
    T(write(p[1], buffer, 1));
    T(read(p[0], buffer, 100));
    T(write(p[1], buffer, 4096));
    T(fcntl(p[1], F_SETPIPE_SZ, 4096));
    while (read(p[0], buffer, sizeof buffer) > 0) {}
    T(fcntl(p[1], F_SETPIPE_SZ, 4096));
    T(fcntl(p[1], F_SETPIPE_SZ, 5000));
    T(fcntl(p[1], F_SETPIPE_SZ, 0));
    T(fcntl(p[1], F_SETPIPE_SZ, -1));
    T(read(p[0], buffer, 1));
    T(read(p[1], buffer, 1));
    T(write(p[0], buffer, 1));
    T(lseek(p[0], 0, SEEK_CUR));
    T(pread(p[0], buffer, 1, 0));
    T(ftruncate(p[1], 0));
    T(fsync(p[1]));
    SECTION("ends");
    close(p[1]);
    T(read(p[0], buffer, 1));
    struct pollfd poll_ = {p[0], POLLIN, 0};
    T(poll(&poll_, 1, 0));
    T(poll_.revents);
    close(p[0]);
    T(pipe(p));
    close(p[0]);
    signal(SIGPIPE, on_pipe);
    T(write(p[1], "x", 1));
    signal(SIGPIPE, SIG_DFL);
    CHILD(write(p[1], "x", 1));
    poll_ = (struct pollfd){p[1], POLLOUT, 0};
    T(poll(&poll_, 1, 0));
    T(poll_.revents);
    close(p[1]);
    SECTION("vectors");
    T(pipe(p));
    struct iovec parts[3] = {{"ab", 2}, {0, 0}, {"cde", 3}};
    T(writev(p[1], parts, 3));
    char one[3] = "", two[8] = "";
    struct iovec into[2] = {{one, 2}, {two, 7}};
    T(readv(p[0], into, 2));
    printf("%s %s\n", one, two);
    T(writev(p[1], parts, -1));
    T(writev(p[1], parts, 2000));
    T(writev(p[1], (void *)8, 1));
    parts[0].iov_len = -1;
    T(writev(p[1], parts, 1));
    T(write(p[1], (void *)8, 4));
    T(pipe2(p, 0x1));
    T(pipe2((void *)8, 0));
    T(pipe2(p, O_CLOEXEC | O_NONBLOCK));
    T(fcntl(p[0], F_GETFD));
    T(fcntl(p[0], F_GETFL));
    T(fcntl(p[1], F_GETFL));
    struct stat s;
    T(fstat(p[0], &s));
    T(s.st_mode);
    T(s.st_size);
    return 0;
}
