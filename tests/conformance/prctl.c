// prctl(2), and seccomp(2) as programs use it on themselves.
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>

#define FILTER(...) ({ static struct sock_filter code[] = {__VA_ARGS__}; static struct sock_fprog program = {sizeof code / sizeof *code, code}; &program; })
#define NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define ON(call, action) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), BPF_STMT(BPF_RET | BPF_K, action)
#define ELSE(action) BPF_STMT(BPF_RET | BPF_K, action)

static volatile int trapped, code_, number_, errno_;
static void on_trap(int number, siginfo_t *info, void *context) { trapped++; code_ = info->si_code; number_ = info->si_syscall; errno_ = info->si_errno; }
static void *try_uname(void *unused) { char buffer[512]; return (void *)syscall(SYS_uname, buffer); }
static void *waits(void *unused) { usleep(50000); char buffer[512]; errno = 0; long r = syscall(SYS_uname, buffer); return (void *)(r ? errno : 0L); }

int main(void) {
    int value = -1;
    char name[17] = "";
    SECTION("name");
    T(prctl(PR_SET_NAME, "a name that is much too long"));
    T(prctl(PR_GET_NAME, name));
    puts(name);
    T(prctl(PR_SET_NAME, ""));
    T(prctl(PR_GET_NAME, name));
    T(strlen(name));
    T(prctl(PR_SET_NAME, 8));
    T(prctl(PR_GET_NAME, 8));
    SECTION("signals at a parent's death");
    T(prctl(PR_GET_PDEATHSIG, &value));
    T(value);
    T(prctl(PR_SET_PDEATHSIG, 65));
    T(prctl(PR_SET_PDEATHSIG, -1));
    T(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    T(prctl(PR_GET_PDEATHSIG, &value));
    T(value);
    T(prctl(PR_GET_PDEATHSIG, 8));
    int p[2];
    pipe(p);
    CHILD({ if (!fork()) { prctl(PR_SET_PDEATHSIG, SIGTERM); write(p[1], "x", 1); for (;;) pause(); } char byte; read(p[0], &byte, 1); });
    int status;
    T(waitpid(-1, &status, 0) > 0);
    T(WTERMSIG(status));
    SECTION("flags");
    T(prctl(PR_GET_DUMPABLE));
    T(prctl(PR_SET_DUMPABLE, 2));
    T(prctl(PR_SET_DUMPABLE, 3));
    T(prctl(PR_SET_DUMPABLE, 0));
    T(prctl(PR_GET_DUMPABLE));
    T(prctl(PR_SET_DUMPABLE, 1));
    T(prctl(PR_GET_KEEPCAPS));
    T(prctl(PR_SET_KEEPCAPS, 2));
    T(prctl(PR_SET_CHILD_SUBREAPER, 1));
    T(prctl(PR_GET_CHILD_SUBREAPER, &value));
    T(value);
    T(prctl(PR_SET_CHILD_SUBREAPER, 0));
    T(prctl(PR_GET_CHILD_SUBREAPER, 8));
    OK(prctl(PR_GET_TIMERSLACK));
    T(prctl(PR_SET_TIMERSLACK, 12345));
    T(prctl(PR_GET_TIMERSLACK));
    T(prctl(PR_SET_TIMERSLACK, 0));
    T(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    T(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    T(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    T(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
    T(prctl(PR_GET_THP_DISABLE, 1, 0, 0, 0));
    T(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    T(prctl(PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0));
    T(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
    T(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0));
    T(prctl(PR_SET_NO_NEW_PRIVS, 2, 0, 0, 0));
    SECTION("the rest");
    T(prctl(PR_GET_TSC, &value));
    T(value);
    T(prctl(PR_SET_TSC, 9));
    T(prctl(PR_GET_TIMING));
    T(prctl(PR_SET_TIMING, 1));
    T(prctl(PR_SET_TIMING, 0));
    T(prctl(PR_GET_UNALIGN, &value));
    T(prctl(PR_GET_FPEMU, &value));
    T(prctl(PR_GET_ENDIAN, &value));
    T(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
    T(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0));
    T(prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0) == 0 || errno == EINVAL);
    void *address = 0;
    T(prctl(PR_GET_TID_ADDRESS, &address));
    T(prctl(PR_SET_MM, PR_SET_MM_ARG_START, 0, 0, 0));
    T(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0, 0, 0));
    OK(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0));
    T(prctl(PR_GET_SPECULATION_CTRL, 99, 0, 0, 0));
    T(prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0));
    T(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0));
    T(prctl(65, 0, 0, 0, 0));
    T(prctl(66, 0, 0, 0, 0));
    T(prctl(9999, 0, 0, 0, 0));
    T(prctl(-1, 0, 0, 0, 0));
    T(prctl(0, 0, 0, 0, 0));
    SECTION("seccomp: who may");
    CHILD({
        setresuid(1000, 1000, 1000);
        T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(ELSE(SECCOMP_RET_ALLOW))));
        T(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, FILTER(ELSE(SECCOMP_RET_ALLOW))));
        T(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        T(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
        T(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, FILTER(ELSE(SECCOMP_RET_ALLOW))));
        T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(ELSE(SECCOMP_RET_ALLOW))));
        T(prctl(PR_GET_SECCOMP));
    });
    T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 8));
    T(prctl(PR_SET_SECCOMP, 9, 0));
    T(syscall(SYS_seccomp, 9, 0, 0));
    T(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, 0));
    T(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0x1000, FILTER(ELSE(SECCOMP_RET_ALLOW))));
    uint32_t actions[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO, SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW, 0x12340000};
    for (int i = 0; i < 8; i++) T(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &actions[i]));
    T(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 1, &actions[0]));
    T(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, 8));
    SECTION("seccomp: what a filter does");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    char buffer[512];
    CHILD({
        T(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, FILTER(NUMBER, ON(SYS_uname, SECCOMP_RET_ERRNO | 71), ON(SYS_getpid, SECCOMP_RET_ERRNO | 72), ELSE(SECCOMP_RET_ALLOW))));
        T(syscall(SYS_uname, buffer));
        T(syscall(SYS_getpid));
        T(syscall(SYS_getuid));
        // It stays with children and programs.
        CHILD(T(syscall(SYS_uname, buffer)));
        CHILD(execl("/bin/uname", "uname", (char *)0));
        // A later filter that allows does not win.
        T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(ELSE(SECCOMP_RET_ALLOW))));
        T(syscall(SYS_uname, buffer));
    });
    CHILD({ prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(NUMBER, ON(SYS_uname, SECCOMP_RET_KILL_PROCESS), ELSE(SECCOMP_RET_ALLOW))); syscall(SYS_uname, buffer); });
    CHILD({ prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(NUMBER, ON(SYS_uname, SECCOMP_RET_KILL_THREAD), ELSE(SECCOMP_RET_ALLOW))); syscall(SYS_uname, buffer); });
    CHILD({
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(NUMBER, ON(SYS_uname, SECCOMP_RET_KILL_THREAD), ELSE(SECCOMP_RET_ALLOW)));
        pthread_t thread;
        pthread_create(&thread, 0, try_uname, 0);
        pthread_join(thread, 0);
        printf("the other lives\n");
    });
    CHILD({
        struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
        sigaction(SIGSYS, &action, 0);
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(NUMBER, ON(SYS_uname, SECCOMP_RET_TRAP | 44), ELSE(SECCOMP_RET_ALLOW)));
        syscall(SYS_uname, buffer);
        printf("trapped %d code %d call %d errno %d\n", trapped, code_, number_, errno_);
    });
    CHILD({ prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(NUMBER, ON(SYS_uname, SECCOMP_RET_TRAP), ELSE(SECCOMP_RET_ALLOW))); syscall(SYS_uname, buffer); });
    CHILD({ prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(NUMBER, ON(SYS_exit_group, SECCOMP_RET_ERRNO | 1), ELSE(SECCOMP_RET_ALLOW))); T(syscall(SYS_exit_group, 4)); syscall(SYS_exit, 5); });
    CHILD({ T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, FILTER(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 3), ELSE(SECCOMP_RET_ALLOW)))); });
    CHILD({ struct sock_fprog none = {0, 0}; T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &none)); });
    CHILD({ static struct sock_filter code[] = {BPF_JUMP(BPF_JMP | BPF_JA, 100, 0, 0)}; struct sock_fprog bad = {1, code}; T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &bad)); });
    CHILD({
        pthread_t thread;
        pthread_create(&thread, 0, waits, 0);
        T(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, FILTER(NUMBER, ON(SYS_uname, SECCOMP_RET_ERRNO | 73), ELSE(SECCOMP_RET_ALLOW))));
        void *result;
        pthread_join(thread, &result);
        printf("in the other thread %ld\n", (long)result);
    });
    CHILD({ T(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG, FILTER(ELSE(SECCOMP_RET_ALLOW)))); });
    CHILD({ T(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, FILTER(ELSE(SECCOMP_RET_ALLOW)))); });
    return 0;
}
