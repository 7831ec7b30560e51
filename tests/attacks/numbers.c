// Raw system calls over the whole number range with hostile arguments, by the 64-bit, x32 and 32-bit entries. Whatever they do to this process, the kernel must go on.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int ends(long n) {
    static const long list[] = {SYS_exit, SYS_exit_group, SYS_fork, SYS_vfork, SYS_clone, SYS_clone3, SYS_pause, SYS_rt_sigsuspend, SYS_rt_sigreturn, SYS_kill, SYS_tkill, SYS_tgkill, SYS_munmap, SYS_rt_sigprocmask, SYS_alarm, SYS_setitimer, SYS_rt_sigaction, SYS_nanosleep, SYS_clock_nanosleep};
    for (unsigned i = 0; i < sizeof list / sizeof *list; i++) if (list[i] == n) return 1;
    return 0;
}

static long int80(long n) {
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(0), "c"(0), "d"(0), "S"(0), "D"(0) : "memory", "r8", "r9", "r10", "r11");
    return r;
}

int main(void) {
    static char page[8192];
    long hostile[] = {0, 1, -1, (long)page, (long)page + 4095, 0x7ffffffff000, (long)0x8000000000000000, 0xffffffff, 0x41414141, 3, 4096, 0x7fffffff};
    int count = sizeof hostile / sizeof *hostile;
    for (long n = 0; n < 1024; n++) {
        if (ends(n)) continue;
        pid_t child = fork();
        if (child < 0) { perror("fork"); return 1; }
        if (child == 0) {
            alarm(2);
            for (int a = 0; a < count; a++) {
                syscall(n, hostile[a], hostile[(a + 1) % count], hostile[(a + 5) % count], hostile[(a + 3) % count], hostile[(a + 7) % count], hostile[(a + 2) % count]);
                syscall(n, hostile[a], hostile[a], hostile[a], hostile[a], hostile[a], hostile[a]);
            }
            syscall(SYS_exit_group, 0);
        }
        int status;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    }
    int wrong = 0;
    for (long n = 0; n < 600; n++) {
        errno = 0;
        if (syscall(n | 0x40000000, 0, 0, 0, 0, 0, 0) != -1 || errno != ENOSYS) wrong++;
        long r = int80(n);
        if (r != -ENOSYS) wrong++;
    }
    printf("survived, %d executed by another entry\n", wrong);
    return 0;
}
