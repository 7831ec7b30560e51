// A thread rewrites the memory that a call is about: a path, an exec path and its arguments, an I/O vector, a socket address.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile char path[32];
static volatile int stop;
static struct iovec vector[2];
static struct sockaddr_un address;

static void *flip(void *unused) {
    (void)unused;
    while (!stop) {
        memcpy((char *)path, "/tmp/mine", 10); memcpy((char *)path, "/tmp/hers", 10);
        vector[0].iov_len = 1; vector[0].iov_base = (void *)0x10; vector[0].iov_base = (void *)"ok"; vector[0].iov_len = 2;
        address.sun_path[0] = 'x'; address.sun_path[0] = 0;
    }
    return 0;
}

// The three programs: one for everybody, one that is set-user-ID root, one that only root may execute. Of equal length, so that one byte tells them apart.
static const char *const programs[] = {"/tmp/exec-a", "/tmp/exec-s", "/tmp/exec-p"};
enum { PLAIN = 10, SET_ID, FAILED = 99 };
static volatile char program[32];
static char *volatile arguments[4];

static void *flip_program(void *pair) {
    // One byte, so that what is read is always one of the two names.
    const char *letters = pair;
    for (unsigned i = 0;; i++) {
        program[10] = letters[i & 1];
        arguments[1] = i & 2 ? (char *)"one" : (char *)8;
        arguments[1] = (char *)"one";
    }
    return 0;
}

// What a program says of itself, by its exit code.
static int told(void) {
    char exe[64] = "";
    readlink("/proc/self/exe", exe, 63);
    if (!strcmp(exe, programs[2])) return 51;
    if (!strcmp(exe, programs[1])) return geteuid() == 0 && getauxval(AT_SECURE) ? SET_ID : 52;
    return geteuid() == 1000 && getuid() == 1000 && !getauxval(AT_SECURE) ? PLAIN : 50;
}

static int race(const char *letters) {
    int odd = 0;
    for (int i = 0; i < 150; i++) {
        // Root runs the one that is nobody else's, so that it stands where the host finds it.
        pid_t child = fork();
        if (!child) { execl(programs[2], programs[2], "root", (char *)0); _exit(1); }
        waitpid(child, 0, 0);
        child = fork();
        if (!child) {
            setresgid(1000, 1000, 1000);
            setresuid(1000, 1000, 1000);
            strcpy((char *)program, programs[0]);
            arguments[0] = (char *)program;
            pthread_t thread;
            pthread_create(&thread, 0, flip_program, (void *)letters);
            usleep(i % 20 * 10);
            execv((char *)program, (char **)arguments);
            _exit(FAILED);
        }
        int status;
        waitpid(child, &status, 0);
        // It runs one of the two as it should, or nothing, or it is killed for the race.
        int fine = WIFSIGNALED(status) ? WTERMSIG(status) == 9 : WEXITSTATUS(status) == PLAIN || WEXITSTATUS(status) == SET_ID || WEXITSTATUS(status) == FAILED;
        if (!fine) { odd++; fprintf(stderr, "status %x\n", status); }
    }
    return odd;
}

int main(int argc, char **argv) {
    if (!strncmp(argv[0], "/tmp/exec-", 10)) return argc > 1 && !strcmp(argv[1], "root") ? 0 : told();
    setvbuf(stdout, 0, _IONBF, 0);
    for (int i = 0; i < 3; i++) {
        static char bytes[4 << 20];
        int from = open("/proc/self/exe", O_RDONLY), to = open(programs[i], O_CREAT | O_WRONLY | O_TRUNC, 0600);
        write(to, bytes, read(from, bytes, sizeof bytes));
        fchmod(to, i == 0 ? 0755 : i == 1 ? 04755 : 0700);
        close(from);
        close(to);
    }
    int odd = race("as") + race("ap") + race("sp");
    // A file that this user may read, and one that it may not.
    int f = open("/tmp/mine", O_CREAT | O_WRONLY, 0644); write(f, "mine", 4); close(f);
    f = open("/tmp/hers", O_CREAT | O_WRONLY, 0600); write(f, "hers", 4); close(f);
    setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000);
    pthread_t t; pthread_create(&t, 0, flip, 0);
    int leaked = 0;
    char buffer[8];
    for (int i = 0; i < 3000; i++) {
        f = open((char *)path, O_RDONLY);
        if (f >= 0) { memset(buffer, 0, 8); read(f, buffer, 4); if (!strcmp(buffer, "hers")) leaked++; close(f); }
    }
    int null = open("/dev/null", O_WRONLY);
    for (int i = 0; i < 2000; i++) writev(null, vector, 2);
    address.sun_family = AF_UNIX;
    for (int i = 0; i < 500; i++) { int s = socket(AF_UNIX, SOCK_STREAM, 0); bind(s, (void *)&address, 8); close(s); }
    stop = 1; pthread_join(t, 0);
    printf("leaked %d, odd %d\n", leaked, odd);
    return 0;
}
