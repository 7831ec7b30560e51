// Locks: record locks that split, merge and are lost, open-file-description locks, flock(2), waiting and deadlocks.
#include "places.h"
#include <sys/file.h>

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif

static int lock(int fd, int command, int kind, long start, long length) {
    struct flock request = {.l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &request);
}

static pid_t parent;

// Who is in the way of a lock.
static void ask(int fd, int command, int kind, long start, long length) {
    struct flock request = {.l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int done = fcntl(fd, command, &request);
    if (done < 0) printf("  %ld+%ld: %s\n", start, length, check_error(errno));
    else if (request.l_type == F_UNLCK) printf("  %ld+%ld: free, whence %d, start %ld, length %ld\n", start, length, request.l_whence, (long)request.l_start, (long)request.l_len);
    else
        printf("  %ld+%ld: %s %ld+%ld of %s, whence %d\n", start, length, request.l_type == F_RDLCK ? "read" : "write", (long)request.l_start, (long)request.l_len,
               request.l_pid == parent ? "parent" : request.l_pid == -1 ? "-1" : request.l_pid == getpid() ? "self" : "another", request.l_whence);
}

// All the locks that another process sees, byte by byte of the first hundred.
static void map(const char *path) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(path, O_RDWR);
        char line[101];
        for (int i = 0; i < 100; i++) {
            struct flock request = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = i, .l_len = 1};
            fcntl(fd, F_GETLK, &request);
            line[i] = request.l_type == F_UNLCK ? '.' : request.l_type == F_RDLCK ? 'r' : 'w';
        }
        line[100] = 0;
        printf("  %s\n", line);
        _exit(0);
    }
    waitpid(child, 0, 0);
}

static void on_alarm(int signal) {}

static void suite(void) {
    int fd, other, p[2];
    parent = getpid();
    make_file("file", "some text");
    SECTION("ranges");
    KEEP(fd, open("file", O_RDWR));
    T(lock(fd, F_SETLK, F_WRLCK, 10, 30));
    map("file");
    T(lock(fd, F_SETLK, F_UNLCK, 20, 5));
    map("file");
    T(lock(fd, F_SETLK, F_RDLCK, 15, 15));
    map("file");
    T(lock(fd, F_SETLK, F_WRLCK, 5, 10));
    map("file");
    T(lock(fd, F_SETLK, F_WRLCK, 0, 0));
    map("file");
    T(lock(fd, F_SETLK, F_UNLCK, 50, 0));
    map("file");
    T(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    map("file");
    T(lock(fd, F_SETLK, F_RDLCK, 50, -10));
    map("file");
    T(lock(fd, F_SETLK, F_RDLCK, 5, -10));
    T(lock(fd, F_SETLK, F_RDLCK, -1, 10));
    T(lock(fd, F_SETLK, F_RDLCK, LONG_MAX, 1));
    T(lock(fd, F_SETLK, F_RDLCK, LONG_MAX, 2));
    T(lock(fd, F_SETLK, F_RDLCK, LONG_MAX, 0));
    T(lock(fd, F_SETLK, F_RDLCK, 1, LONG_MAX));
    T(lock(fd, F_SETLK, F_RDLCK, 1, LONG_MIN));
    T(lock(fd, F_SETLK, 7, 0, 1));
    T(lock(fd, F_GETLK, F_UNLCK, 0, 1));
    T(lock(fd, F_GETLK, 7, 0, 1));
    T(fcntl(fd, F_SETLK, (void *)8));
    T(fcntl(fd, F_GETLK, (void *)8));
    T(lock(-1, F_SETLK, F_RDLCK, 0, 1));
    T(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    lseek(fd, 5, SEEK_SET);
    struct flock request = {.l_type = F_WRLCK, .l_whence = SEEK_CUR, .l_start = 3, .l_len = 2};
    T(fcntl(fd, F_SETLK, &request));
    request = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = 1, .l_len = 2};
    T(fcntl(fd, F_SETLK, &request));
    request.l_whence = 5;
    T(fcntl(fd, F_SETLK, &request));
    map("file");
    CHILD({
        other = open("file", O_RDWR);
        ask(other, F_GETLK, F_WRLCK, 0, 0);
        ask(other, F_GETLK, F_RDLCK, 0, 8);
        ask(other, F_GETLK, F_WRLCK, 10, 1);
        ask(other, F_GETLK, F_WRLCK, 20, 0);
        ask(other, F_OFD_GETLK, F_WRLCK, 0, 0);
        T(lock(other, F_SETLK, F_RDLCK, 0, 9));
        T(lock(other, F_SETLK, F_RDLCK, 0, 8));
        request = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = -9, .l_len = 0};
        T(fcntl(other, F_GETLK, &request));
        printf("whence %d, start %ld, length %ld\n", request.l_whence, (long)request.l_start, (long)request.l_len);
    });
    T(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    SECTION("access modes");
    KEEP(other, open("file", O_RDONLY));
    T(lock(other, F_SETLK, F_WRLCK, 0, 1));
    T(lock(other, F_SETLK, F_RDLCK, 0, 1));
    T(lock(other, F_SETLK, F_UNLCK, 0, 1));
    T(lock(other, F_OFD_SETLK, F_WRLCK, 0, 1));
    T(lock(other, F_GETLK, F_WRLCK, 0, 1));
    close(other);
    KEEP(other, open("file", O_WRONLY));
    T(lock(other, F_SETLK, F_RDLCK, 0, 1));
    T(lock(other, F_SETLK, F_WRLCK, 0, 1));
    close(other);
    KEEP(other, open(".", O_RDONLY));
    T(lock(other, F_SETLK, F_RDLCK, 0, 1));
    T(lock(other, F_SETLK, F_WRLCK, 0, 1));
    T(flock(other, LOCK_EX));
    close(other);
    T(pipe(p));
    T(lock(p[0], F_SETLK, F_RDLCK, 0, 1));
    T(lock(p[0], F_GETLK, F_RDLCK, 0, 1));
    T(flock(p[0], LOCK_SH));
    close(p[0]);
    close(p[1]);
    SECTION("lost on close");
    T(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    map("file");
    // Any descriptor of the file, closed by the process, takes its locks along.
    close(open("file", O_RDONLY));
    map("file");
    T(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    KEEP(other, dup(fd));
    close(other);
    map("file");
    T(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    KEEP(other, open("file", O_RDONLY));
    T(dup2(0, other) == other);
    map("file");
    close(other);
    T(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    KEEP(other, open("file", O_PATH));
    close(other);
    map("file");
    T(link("file", "name"));
    T(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    close(open("name", O_RDONLY));
    map("file");
    // A child that inherits the descriptor does not inherit the lock, and does not lose it for its parent.
    T(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    CHILD({
        T(lock(fd, F_SETLK, F_WRLCK, 0, 10));
        ask(fd, F_GETLK, F_WRLCK, 0, 1);
        close(fd);
    });
    map("file");
    CHILD({ T(lock(fd, F_SETLK, F_UNLCK, 0, 10)); });
    map("file");
    T(unlink("name"));
    CHILD({
        other = open("file", O_RDWR);
        lock(other, F_SETLK, F_WRLCK, 50, 5);
        map("file");
    });
    map("file");
    // An exec keeps them.
    fflush(stdout);
    CHILD({
        other = open("file", O_RDWR);
        T(lock(other, F_SETLK, F_WRLCK, 60, 5));
        execl("/proc/self/exe", "locks", "map", (char *)0);
    });
    T(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    SECTION("waiting");
    T(pipe(p));
    T(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        other = open("file", O_RDWR);
        write(p[1], "r", 1);
        int taken = lock(other, F_SETLKW, F_WRLCK, 5, 1);
        write(p[1], taken == 0 ? "t" : "e", 1);
        _exit(0);
    }
    char byte;
    read(p[0], &byte, 1);
    usleep(50000);
    T(lock(fd, F_SETLK, F_UNLCK, 0, 5));
    usleep(50000);
    T(lock(fd, F_SETLK, F_UNLCK, 5, 5));
    read(p[0], &byte, 1);
    printf("%c\n", byte);
    waitpid(child, 0, 0);
    // A signal interrupts the wait.
    T(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    CHILD({
        struct sigaction action = {.sa_handler = on_alarm};
        sigaction(SIGALRM, &action, 0);
        other = open("file", O_RDWR);
        alarm(1);
        T(lock(other, F_SETLKW, F_WRLCK, 5, 1));
    });
    // The end of the holder ends the wait.
    fflush(stdout);
    child = fork();
    if (child == 0) {
        other = open("file", O_RDWR);
        lock(other, F_SETLK, F_WRLCK, 70, 1);
        write(p[1], "h", 1);
        usleep(100000);
        _exit(0);
    }
    read(p[0], &byte, 1);
    T(lock(fd, F_SETLKW, F_WRLCK, 70, 1));
    waitpid(child, 0, 0);
    SECTION("deadlock");
    T(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    T(lock(fd, F_SETLK, F_WRLCK, 0, 1));
    child = fork();
    if (child == 0) {
        other = open("file", O_RDWR);
        lock(other, F_SETLK, F_WRLCK, 1, 1);
        write(p[1], "h", 1);
        int got = lock(other, F_SETLKW, F_WRLCK, 0, 1);
        write(p[1], got == 0 ? "t" : "e", 1);
        _exit(0);
    }
    read(p[0], &byte, 1);
    usleep(100000);
    T(lock(fd, F_SETLKW, F_WRLCK, 1, 1));
    T(lock(fd, F_SETLK, F_UNLCK, 0, 1));
    read(p[0], &byte, 1);
    printf("%c\n", byte);
    waitpid(child, 0, 0);
    T(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    SECTION("of descriptions");
    int second;
    KEEP(second, open("file", O_RDWR));
    T(lock(fd, F_OFD_SETLK, F_WRLCK, 0, 10));
    T(lock(second, F_OFD_SETLK, F_WRLCK, 5, 10));
    T(lock(second, F_OFD_SETLK, F_RDLCK, 10, 10));
    T(lock(second, F_SETLK, F_WRLCK, 5, 1));
    ask(second, F_OFD_GETLK, F_WRLCK, 0, 100);
    ask(second, F_GETLK, F_WRLCK, 0, 100);
    map("file");
    KEEP(other, dup(fd));
    T(lock(other, F_OFD_SETLK, F_WRLCK, 3, 1));
    close(other);
    close(open("file", O_RDONLY));
    map("file");
    CHILD({
        T(lock(fd, F_OFD_SETLK, F_WRLCK, 1, 1));
        T(lock(fd, F_OFD_SETLK, F_UNLCK, 2, 1));
    });
    map("file");
    request = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1, .l_pid = 5};
    T(fcntl(fd, F_OFD_SETLK, &request));
    T(fcntl(fd, F_OFD_GETLK, &request));
    close(second);
    map("file");
    KEEP(second, open("file", O_RDWR));
    child = fork();
    if (child == 0) {
        usleep(100000);
        lock(fd, F_OFD_SETLK, F_UNLCK, 0, 0);
        _exit(0);
    }
    T(lock(second, F_OFD_SETLKW, F_WRLCK, 0, 1));
    waitpid(child, 0, 0);
    close(second);
    SECTION("flock");
    KEEP(second, open("file", O_RDONLY));
    T(flock(fd, LOCK_SH));
    T(flock(second, LOCK_SH | LOCK_NB));
    T(flock(fd, LOCK_EX | LOCK_NB));
    T(flock(second, LOCK_UN));
    T(flock(fd, LOCK_EX | LOCK_NB));
    T(flock(second, LOCK_SH | LOCK_NB));
    T(flock(second, LOCK_UN));
    T(flock(fd, LOCK_SH | LOCK_NB));
    T(flock(second, LOCK_SH | LOCK_NB));
    T(flock(fd, LOCK_UN));
    T(flock(fd, 0));
    T(flock(fd, LOCK_NB));
    T(flock(fd, LOCK_SH | LOCK_EX));
    T(flock(fd, 77));
    T(flock(-1, LOCK_SH));
    // A failed conversion loses what was held.
    T(flock(fd, LOCK_SH));
    T(flock(fd, LOCK_EX | LOCK_NB));
    T(flock(second, LOCK_EX | LOCK_NB));
    T(flock(second, LOCK_UN));
    T(flock(fd, LOCK_UN));
    KEEP(other, dup(fd));
    T(flock(fd, LOCK_EX));
    close(other);
    T(flock(second, LOCK_SH | LOCK_NB));
    CHILD({
        T(flock(fd, LOCK_EX | LOCK_NB));
        close(fd);
    });
    T(flock(second, LOCK_SH | LOCK_NB));
    // Locks of the two kinds do not see each other.
    T(lock(second, F_SETLK, F_RDLCK, 0, 1));
    child = fork();
    if (child == 0) {
        close(fd);
        flock(second, LOCK_EX);
        write(p[1], "f", 1);
        _exit(0);
    }
    usleep(50000);
    close(fd);
    read(p[0], &byte, 1);
    printf("%c\n", byte);
    waitpid(child, 0, 0);
    close(second);
    close(p[0]);
    close(p[1]);
    SECTION("a description that stays open elsewhere");
    KEEP(fd, open("file", O_RDWR));
    T(flock(fd, LOCK_EX));
    T(pipe(p));
    child = fork();
    if (child == 0) {
        read(p[0], &byte, 1);
        _exit(0);
    }
    close(fd);
    KEEP(fd, open("file", O_RDWR));
    T(flock(fd, LOCK_EX | LOCK_NB));
    write(p[1], "x", 1);
    waitpid(child, 0, 0);
    T(flock(fd, LOCK_EX | LOCK_NB));
    close(fd);
    close(p[0]);
    close(p[1]);
}

int main(int count, char **arguments) {
    if (count > 1) {
        map("file");
        return 0;
    }
    on_each_place("locks", suite);
    return 0;
}
