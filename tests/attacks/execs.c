// Programs that gain rights, executed in ways that should not let anybody else have them: by two threads at once, by a thread that is not the first, by a
// process whose working directory another one holds, with files at the number that marks an exec natively.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// A process whose threads execute two programs at once may be killed, where it can't be told which one it runs. That is rare.
enum { PLAIN = 10, SET_ID = 11, INSECURE = 60, KILLED = 128 + SIGKILL };
static const char *suid = "/tmp/execs-s", *plain = "/tmp/execs-a", *other = "/tmp/execs-b";
static volatile int go;

static void run(const char *path) { char *arguments[] = {(char *)path, "tell", 0}; execv(path, arguments); }
static void drop(void) { setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); }

// With PR_SET_NO_NEW_PRIVS the set-user-ID bit does nothing: for this thread alone.
static void *without(void *unused) { prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); while (!go) {} run(suid); return unused; }
static void *with(void *path) { while (!go) {} run(path); return 0; }
static void *late(void *path) { usleep(2000); run(path); return 0; }
static void *maps(void *unused) {
    for (;;) { int fd = open("/etc/passwd", O_RDONLY); dup2(fd, 63); close(fd); munmap(mmap(0, 4096, PROT_READ, MAP_PRIVATE, 63, 0), 4096); close(63); }
    return unused;
}

#define CHILD(...) ({ \
    pid_t child = fork(); \
    if (!child) { __VA_ARGS__; _exit(90); } \
    int status; \
    waitpid(child, &status, 0); \
    WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); })

int main(int argc, char **argv) {
    if (argc > 1) return geteuid() != 0 ? PLAIN : getauxval(AT_SECURE) ? SET_ID : INSECURE;
    for (int i = 0; i < 3; i++) {
        static char bytes[4 << 20];
        const char *path = i == 0 ? suid : i == 1 ? plain : other;
        int from = open("/proc/self/exe", O_RDONLY), to = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
        write(to, bytes, read(from, bytes, sizeof bytes));
        fchmod(to, i == 0 ? 04755 : 0755);
        close(from);
        close(to);
    }
    pthread_t thread;
    int insecure = 0, killed = 0, odd = 0, code;
    for (int i = 0; i < 60; i++) {
        code = CHILD({ drop(); pthread_create(&thread, 0, without, 0); pthread_create(&thread, 0, with, (void *)suid); usleep(1000); go = 1; pause(); });
        insecure += code == INSECURE;
        odd += code != PLAIN && code != SET_ID && code != KILLED;
        code = CHILD({ drop(); pthread_create(&thread, 0, with, (void *)other); pthread_create(&thread, 0, with, (void *)plain); usleep(1000); go = 1; pause(); });
        killed += code != PLAIN;
        code = CHILD({ drop(); pthread_create(&thread, 0, with, (void *)plain); pthread_create(&thread, 0, with, (void *)suid); usleep(1000); go = 1; pause(); });
        odd += code != PLAIN && code != SET_ID && code != KILLED;
    }
    printf("two at once: insecure %d, killed %s, odd %d\n", insecure, killed > 6 ? "many" : "few", odd);
    printf("not the first thread: %d", CHILD({ drop(); pthread_create(&thread, 0, late, (void *)suid); pause(); }));
    printf(" %d\n", CHILD({ drop(); pthread_create(&thread, 0, late, (void *)suid); syscall(SYS_exit, 0); }));
    // A process that shares the working directory could move it from under the program.
    printf("shared directory: %d", CHILD({ drop(); pid_t holder = syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0); if (!holder) { pause(); _exit(0); } prctl(PR_SET_NAME, "x"); pid_t s = syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0); if (!s) { run(suid); _exit(91); } int status; waitpid(s, &status, 0); kill(holder, SIGKILL); _exit(WEXITSTATUS(status)); }));
    // Nor may it have its addresses chosen by whoever runs it.
    printf(", no randomisation: %d\n", CHILD({ drop(); personality(ADDR_NO_RANDOMIZE); run(suid); }));
    odd = 0;
    for (int i = 0; i < 40; i++) {
        // Files mapped at the planted number, while one exec fails and another succeeds.
        code = CHILD({ pthread_create(&thread, 0, maps, 0); usleep(500 + i * 37); static char big[200000]; memset(big, 'x', sizeof big - 1); char *many[] = {"x", big, 0}; execv(plain, many); if (errno != E2BIG) _exit(92); drop(); run(i & 1 ? suid : plain); });
        odd += code != (i & 1 ? SET_ID : PLAIN);
    }
    printf("mapped at the mark: odd %d\n", odd);
    int status;
    pid_t child = vfork();
    if (!child) { for (volatile long i = 0; i < 1000000; i++) {} _exit(7); }
    waitpid(child, &status, 0);
    printf("vfork without exec: %d\n", WEXITSTATUS(status));
    return 0;
}
