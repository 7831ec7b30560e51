// Fifos: who waits for whom at open, several ends, what is left when one closes.
#include "check.h"
#include <poll.h>
#include <sys/ioctl.h>

#define NAME "/tmp/fifo"

static int revents(int fd) {
    struct pollfd poll_ = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    poll(&poll_, 1, 0);
    return poll_.revents;
}

static void on_signal(int signal) { (void)signal; }

// What a child does, some time later.
#define LATER(statement) \
    do { \
        if (fork() == 0) { \
            usleep(40000); \
            statement; \
            _exit(0); \
        } \
    } while (0)

int main(void) {
    char buffer[100] = "";
    struct stat s;
    int reader, writer, both;
    SECTION("making");
    umask(0);
    unlink(NAME);
    T(mkfifo(NAME, 0640));
    T(mkfifo(NAME, 0640));
    T(stat(NAME, &s));
    T(s.st_mode);
    T(s.st_size);
    SECTION("without waiting");
    T(open(NAME, O_WRONLY | O_NONBLOCK));
    KEEP(reader, open(NAME, O_RDONLY | O_NONBLOCK));
    T(fcntl(reader, F_GETFL));
    T(read(reader, buffer, 10));
    T(revents(reader));
    KEEP(writer, open(NAME, O_WRONLY | O_NONBLOCK));
    T(read(reader, buffer, 10));
    T(revents(reader));
    T(revents(writer));
    T(write(writer, "hello", 5));
    T(revents(reader));
    int queued = -1;
    T(ioctl(reader, FIONREAD, &queued));
    T(queued);
    close(writer);
    T(revents(reader));
    T(read(reader, buffer, 10));
    T(read(reader, buffer, 10));
    T(revents(reader));
    // A new writer takes the hang-up away.
    KEEP(writer, open(NAME, O_WRONLY | O_NONBLOCK));
    T(revents(reader));
    close(reader);
    T(revents(writer));
    signal(SIGPIPE, SIG_IGN);
    T(write(writer, "x", 1));
    close(writer);
    SECTION("both");
    KEEP(both, open(NAME, O_RDWR));
    T(write(both, "self", 4));
    T(read(both, buffer, 10));
    T(revents(both));
    KEEP(writer, open(NAME, O_WRONLY));
    KEEP(reader, open(NAME, O_RDONLY));
    T(write(writer, "one", 3));
    T(write(both, "two", 3));
    T(read(reader, buffer, 10));
    close(writer);
    T(revents(reader));
    close(both);
    T(revents(reader));
    // What nobody has read is gone with the last end.
    KEEP(writer, open(NAME, O_WRONLY));
    T(write(writer, "lost", 4));
    close(writer), close(reader);
    KEEP(reader, open(NAME, O_RDONLY | O_NONBLOCK));
    T(read(reader, buffer, 10));
    close(reader);
    SECTION("waiting");
    LATER(close(open(NAME, O_WRONLY)));
    KEEP(reader, open(NAME, O_RDONLY));
    T(read(reader, buffer, 10));
    close(reader);
    wait(0);
    LATER({
        reader = open(NAME, O_RDONLY);
        // Its end comes when the writer has said what it has to say: two processes print one after the other.
        if (read(reader, buffer, 10) == 8 && read(reader, buffer, 10) == 0) printf("read 8 bytes, then the end\n");
    });
    KEEP(writer, open(NAME, O_WRONLY));
    T(write(writer, "greeting", 8));
    close(writer);
    wait(0);
    // A writer that has come and gone meanwhile counts.
    LATER({
        reader = open(NAME, O_RDONLY | O_NONBLOCK);
        writer = open(NAME, O_WRONLY | O_NONBLOCK);
        write(writer, "brief", 5);
        close(writer);
    });
    KEEP(reader, open(NAME, O_RDONLY));
    T(read(reader, buffer, 5));
    close(reader);
    wait(0);
    // A signal ends the wait.
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGALRM, &action, 0);
    ualarm(40000, 0);
    T(open(NAME, O_RDONLY));
    ualarm(40000, 0);
    T(open(NAME, O_WRONLY));
    // An open that was given up is no reader any more.
    T(open(NAME, O_WRONLY | O_NONBLOCK));
    SECTION("several");
    KEEP(both, open(NAME, O_RDWR | O_NONBLOCK));
    int readers[3], writers[3];
    for (int at = 0; at < 3; at++) {
        KEEP(readers[at], open(NAME, O_RDONLY | O_NONBLOCK));
        KEEP(writers[at], open(NAME, O_WRONLY | O_NONBLOCK));
    }
    close(both);
    for (int at = 0; at < 3; at++) T(write(writers[at], "abc", 3));
    T(read(readers[0], buffer, 4));
    T(read(readers[1], buffer, 4));
    T(read(readers[2], buffer, 4));
    T(read(readers[0], buffer, 4));
    for (int at = 0; at < 3; at++) {
        close(writers[at]);
        T(revents(readers[0]));
    }
    SECTION("permissions and flags");
    CHILD({
        setuid(1000);
        T(open(NAME, O_RDONLY | O_NONBLOCK));
        T(open(NAME, O_WRONLY | O_NONBLOCK));
    });
    T(truncate(NAME, 0));
    KEEP(reader, open(NAME, O_RDONLY | O_NONBLOCK | O_TRUNC));
    T(lseek(reader, 0, SEEK_SET));
    T(ftruncate(reader, 0));
    T(fstat(reader, &s));
    T(S_ISFIFO(s.st_mode));
    T(s.st_mode & 0777);
    T(fchmod(reader, 0600));
    T(stat(NAME, &s));
    T(s.st_mode & 0777);
    T(open(NAME, O_RDONLY | O_DIRECTORY));
    T(open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600));
    // The name may go: the ends stay.
    KEEP(writer, open(NAME, O_WRONLY | O_NONBLOCK));
    T(unlink(NAME));
    T(write(writer, "still", 5));
    T(read(reader, buffer, 10));
    T(mkfifo(NAME, 0600));
    int fresh;
    KEEP(fresh, open(NAME, O_RDONLY | O_NONBLOCK));
    T(write(writer, "old", 3));
    T(read(fresh, buffer, 10));
    T(read(reader, buffer, 10));
    // A link to it is the same fifo.
    T(link(NAME, NAME "2"));
    KEEP(writer, open(NAME "2", O_WRONLY | O_NONBLOCK));
    T(write(writer, "link", 4));
    T(read(fresh, buffer, 10));
    unlink(NAME), unlink(NAME "2");
    return 0;
}
