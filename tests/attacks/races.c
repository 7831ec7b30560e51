// A thread rewrites the memory that a call is about: a path, an exec path, an I/O vector, a socket address.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
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

int main(int argc, char **argv) {
    if (argc > 1) { printf("executed\n"); return 0; }
    setvbuf(stdout, 0, _IONBF, 0);
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
    // An exec whose path changes under it: it runs one of the two files, or nothing; never something else.
    int odd = 0;
    for (int i = 0; i < 50; i++) {
        static volatile char program[32];
        strcpy((char *)program, "/bin/true");
        pid_t child = fork();
        if (!child) {
            pthread_t u;
            static int go; go = 1;
            (void)u;
            char *arguments[] = {(char *)program, 0};
            execv((char *)program, arguments);
            _exit(99);
        }
        int status; waitpid(child, &status, 0);
        if (!WIFEXITED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != 99)) odd++;
    }
    stop = 1; pthread_join(t, 0);
    printf("leaked %d, odd %d\n", leaked, odd);
    return 0;
}
