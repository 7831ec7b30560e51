// A file that was mapped is a native descriptor of this process. Nothing but that mapping may come of it.
//
//   donated        asks everything at once, and races two threads for one number
//   donated hold   maps a file of /volume, and says by files there how far it is: the host looks who has the file open
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int bad;

// The call must fail: what it names is not open here.
#define NOTHING(bit, call) \
    do { \
        errno = 0; \
        if ((long)(call) != -1) { \
            printf("%s succeeded\n", #call); \
            bad |= bit; \
        } \
    } while (0)

// Every call that takes a descriptor, on one that is closed for this process but may be open natively.
static void ask_everything(int fd) {
    // As large as the largest answer, should there be one.
    char byte[512];
    struct stat s;
    struct iovec vector = {byte, 1};
    struct epoll_event event = {EPOLLIN};
    int pipes[2], pair[2], epoll = epoll_create1(0);
    if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) bad |= 1 << 20;
    NOTHING(8, read(fd, byte, 1));
    NOTHING(8, write(fd, "x", 1));
    NOTHING(8, pread(fd, byte, 1, 0));
    NOTHING(8, pwrite(fd, "x", 1, 0));
    NOTHING(8, readv(fd, &vector, 1));
    NOTHING(8, writev(fd, &vector, 1));
    NOTHING(8, syscall(SYS_preadv2, fd, &vector, 1, 0, 0, 0));
    NOTHING(8, syscall(SYS_pwritev2, fd, &vector, 1, 0, 0, 0));
    NOTHING(8, lseek(fd, 0, SEEK_SET));
    NOTHING(8, fstat(fd, &s));
    NOTHING(8, fstatat(fd, "", &s, AT_EMPTY_PATH));
    NOTHING(8, syscall(SYS_statx, fd, "", AT_EMPTY_PATH, 0x7ff, byte));
    NOTHING(8, fcntl(fd, F_GETFL));
    NOTHING(8, fcntl(fd, F_DUPFD, 50));
    NOTHING(8, dup(fd));
    NOTHING(8, dup2(fd, 60));
    NOTHING(8, dup3(fd, 60, 0));
    NOTHING(8, ioctl(fd, 0x5421, byte));
    NOTHING(8, ftruncate(fd, 0));
    NOTHING(8, fallocate(fd, 0, 0, 1));
    NOTHING(8, fsync(fd));
    NOTHING(8, fdatasync(fd));
    NOTHING(8, syncfs(fd));
    NOTHING(8, sync_file_range(fd, 0, 0, 0));
    NOTHING(8, readahead(fd, 0, 1));
    NOTHING(8, fchdir(fd));
    NOTHING(8, fchmod(fd, 0777));
    NOTHING(8, fchown(fd, 0, 0));
    NOTHING(8, futimens(fd, 0));
    NOTHING(8, syscall(SYS_flock, fd, 1));
    NOTHING(8, syscall(SYS_getdents64, fd, byte, sizeof byte));
    NOTHING(8, syscall(SYS_fgetxattr, fd, "user.x", byte, sizeof byte));
    NOTHING(8, syscall(SYS_fsetxattr, fd, "user.x", "x", 1, 0));
    NOTHING(8, syscall(SYS_flistxattr, fd, byte, sizeof byte));
    NOTHING(8, syscall(SYS_sendfile, pipes[1], fd, 0, 1));
    NOTHING(8, syscall(SYS_copy_file_range, fd, 0, fd, 0, 1, 0));
    NOTHING(8, syscall(SYS_splice, fd, 0, pipes[1], 0, 1, 0));
    NOTHING(8, syscall(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &event));
    NOTHING(8, openat(fd, ".", O_RDONLY));
    NOTHING(8, linkat(fd, "", AT_FDCWD, "/tmp/linked", AT_EMPTY_PATH));
    NOTHING(8, syscall(SYS_execveat, fd, "", 0, 0, AT_EMPTY_PATH));
    NOTHING(8, syscall(SYS_name_to_handle_at, fd, "", byte, byte, AT_EMPTY_PATH));
    NOTHING(8, syscall(SYS_finit_module, fd, "", 0));
    NOTHING(8, syscall(SYS_kexec_file_load, fd, fd, 0, 0, 0));
    NOTHING(8, syscall(SYS_fanotify_mark, fd, 1, 1, fd, 0));
    NOTHING(8, syscall(SYS_io_uring_enter, fd, 0, 0, 0, 0, 0));
    NOTHING(8, syscall(SYS_setns, fd, 0));
    NOTHING(8, syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, getpid(), 0), fd, 0));
    NOTHING(8, mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0));
    NOTHING(8, close(fd));
    // Descriptors travel in messages, too.
    char control[CMSG_SPACE(sizeof fd)] = "";
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    NOTHING(8, sendmsg(pair[0], &message, 0));
    char path[50];
    sprintf(path, "/proc/self/fd/%d", fd);
    NOTHING(8, open(path, O_RDONLY));
    for (int i = 0; i < 2; i++) {
        close(pipes[i]);
        close(pair[i]);
    }
    close(epoll);
}

// Two threads, one number: one maps a file of its own for writing there, the other one that it may only read.
#define RACED 100
static volatile int stop;
static int own, foreign;

static void *map_own(void *unused) {
    while (!stop) {
        dup2(own, RACED);
        char *m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, RACED, 0);
        if (m == MAP_FAILED) continue;
        m[0] = '!';
        munmap(m, 4096);
    }
    return 0;
}

static void *map_foreign(void *unused) {
    while (!stop) {
        dup2(foreign, RACED);
        char *m = mmap(0, 4096, PROT_READ, MAP_SHARED, RACED, 0);
        if (m == MAP_FAILED) continue;
        // What may not be written does not become writable, whichever of the two it is: the own one is, by right.
        if (m[0] == 'r' && !mprotect(m, 4096, PROT_READ | PROT_WRITE)) bad |= 256;
        munmap(m, 4096);
    }
    return 0;
}

static void race(void) {
    foreign = open("/etc/passwd", O_RDONLY);
    own = open("/tmp/own", O_CREAT | O_RDWR, 0644);
    if (own < 0 || ftruncate(own, 4096)) bad |= 1 << 21;
    pthread_t threads[2];
    pthread_create(&threads[0], 0, map_own, 0);
    pthread_create(&threads[1], 0, map_foreign, 0);
    struct timespec length = {2, 0};
    nanosleep(&length, 0);
    stop = 1;
    pthread_join(threads[0], 0);
    pthread_join(threads[1], 0);
    char c = 0;
    int fresh = open("/etc/passwd", O_RDONLY);
    if (read(fresh, &c, 1) != 1 || c != 'r') bad |= 512;
}

static void signal_file(const char *name) { close(open(name, O_CREAT | O_WRONLY, 0644)); }

static void await(const char *name) {
    struct timespec moment = {0, 10000000};
    while (access(name, F_OK)) nanosleep(&moment, 0);
}

static int hold(void) {
    int fd = open("/volume/big", O_CREAT | O_RDWR, 0644);
    if (fd < 0 || ftruncate(fd, 1 << 20)) return 1;
    char *m = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m == MAP_FAILED) return 2;
    m[0] = 'x';
    signal_file("/volume/mapped");
    await("/volume/go");
    munmap(m, 1 << 20);
    if (close(fd) || unlink("/volume/big")) return 3;
    signal_file("/volume/closed");
    await("/volume/end");
    return 0;
}

int main(int count, char **arguments) {
    if (count > 1) return hold();
    int fd = open("/etc/passwd", O_RDONLY);
    char *p = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return 1;
    if (write(fd, "x", 1) != -1 || errno != EBADF) bad |= 1;
    if (ftruncate(fd, 0) != -1 || errno != EINVAL) bad |= 2;
    if (mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED || errno != EACCES) bad |= 4;
    // A mapping gains no rights afterwards, and makes no holes.
    char *shared = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED || mprotect(shared, 4096, PROT_READ | PROT_WRITE) != -1 || errno != EACCES) bad |= 32;
    if (madvise(shared, 4096, MADV_REMOVE) != -1) bad |= 32;
    int code = open("/dev/shm/code", O_CREAT | O_RDWR, 0755);
    if (write(code, "\xc3", 1) != 1) bad |= 64;
    char *data = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0);
    if (data == MAP_FAILED || mprotect(data, 4096, PROT_READ | PROT_EXEC) != -1) bad |= 64;
    close(fd);
    // Closed for this process: the native copy must not answer for it. At a number that nothing else gets meanwhile.
    int high = dup2(code, 200);
    if (mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, high, 0) == MAP_FAILED || close(high)) bad |= 8;
    ask_everything(high);
    // A new file at the same number is the new file.
    int other = open("/etc/hostname", O_RDONLY);
    if (other != fd && dup2(other, fd) != fd) bad |= 16;
    char *q = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    if (q == MAP_FAILED || q[0] == p[0]) bad |= 16;
    // Nor does it answer when another took the number.
    if (dup2(0, fd) != fd || mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED) bad |= 128;
    close(fd);
    race();
    printf("%c%d\n", p[0], bad);
    return 0;
}
