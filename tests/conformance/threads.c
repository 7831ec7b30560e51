// Threads: what they share and what is each one's own, their end and their process's.
#include "check.h"
#include <dirent.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

static sem_t ready, go;

static void *waits(void *argument) {
    prctl(PR_SET_NAME, "second");
    sem_post(&ready);
    sem_wait(&go);
    return argument;
}

static int tasks(void) {
    DIR *directory = opendir("/proc/self/task");
    int count = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) count += entry->d_name[0] != '.';
    if (directory) closedir(directory);
    return count;
}

static void *raw_identity(void *result) {
    // The system call changes the calling thread only; the C library's function all.
    *(long *)result = syscall(SYS_setresuid, 1000, 1000, 1000);
    sem_post(&ready);
    sem_wait(&go);
    return (void *)(long)getuid();
}

static void *own_directory(void *unused) {
    (void)unused;
    long failed = unshare(CLONE_FS) | chdir("/etc");
    umask(0);
    return (void *)failed;
}

static void *own_files(void *unused) {
    (void)unused;
    long failed = unshare(CLONE_FILES);
    close(100);
    return (void *)failed;
}

static void *ends_process(void *unused) {
    (void)unused;
    _exit(17);
}

static void *ends_thread(void *unused) {
    (void)unused;
    syscall(SYS_exit, 99);
    return 0;
}

static void *late(void *unused) {
    (void)unused;
    usleep(50000);
    char comm[32] = "";
    int fd = open("/proc/self/comm", O_RDONLY);
    printf("after its leader: comm %d, pid is tid %d\n", read(fd, comm, 31) > 0, getpid() == (int)syscall(SYS_gettid));
    close(fd);
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "State:", 6) || !strncmp(line, "Threads:", 8)) printf("%s", line);
    if (status) fclose(status);
    // A child of a thread whose leader is dead.
    pid_t child = fork();
    if (!child) _exit(getppid() == getpid() ? 1 : 2);
    int result;
    IS(waitpid(child, &result, 0) == child);
    T(WEXITSTATUS(result));
    T(kill(getpid(), 0));
    syscall(SYS_exit, 5);
    return 0;
}

static void *leader_dies(void *unused) {
    (void)unused;
    usleep(50000);
    char *arguments[] = {"sh", "-c", "test $(cut -d' ' -f1 /proc/self/stat) -gt 1 && exit 33", 0};
    execv("/bin/sh", arguments);
    return 0;
}

static void *executes(void *unused) {
    (void)unused;
    char *arguments[] = {"sh", "-c", "echo pid kept: $([ $$ = $WAS ] && echo yes); exit 31", 0};
    char was[32];
    sprintf(was, "WAS=%d", getpid());
    char *environment[] = {was, "PATH=/bin:/usr/bin", 0};
    execve("/bin/sh", arguments, environment);
    return 0;
}

static void *parked(void *descriptor) {
    char byte;
    read((int)(long)descriptor, &byte, 1);
    return 0;
}

static volatile int handled;
static void on_signal(int number) { (void)number; handled = (int)syscall(SYS_gettid); }

int main(void) {
    pthread_t thread;
    void *result;
    int status;
    sem_init(&ready, 0, 0);
    sem_init(&go, 0, 0);
    SECTION("shared and own");
    T(tasks());
    T(pthread_create(&thread, 0, waits, (void *)5));
    sem_wait(&ready);
    T(tasks());
    char name[16];
    T(prctl(PR_GET_NAME, name));
    puts(name);
    T(unshare(CLONE_THREAD));
    T(unshare(CLONE_VM));
    T(unshare(CLONE_SIGHAND));
    T(unshare(CLONE_FS));
    sem_post(&go);
    T(pthread_join(thread, &result));
    T(result);
    usleep(5000);
    T(tasks());
    long changed = -1;
    CHILD({
        pthread_create(&thread, 0, raw_identity, &changed);
        sem_wait(&ready);
        printf("in the thread %ld, uid here %d\n", changed, getuid());
        // The file-system id of a process's file is its own thread's.
        T(setresuid(2000, 2000, 2000));
        sem_post(&go);
        pthread_join(thread, &result);
        printf("uid there %ld\n", (long)result);
    });
    pthread_create(&thread, 0, own_directory, 0);
    T(pthread_join(thread, &result));
    T(result);
    char where[64];
    puts(getcwd(where, sizeof where));
    T(umask(022));
    dup2(1, 100);
    pthread_create(&thread, 0, own_files, 0);
    T(pthread_join(thread, &result));
    T(result);
    T(fcntl(100, F_GETFD));
    SECTION("ends");
    CHILD({ pthread_create(&thread, 0, ends_process, 0); pause(); });
    CHILD({ pthread_create(&thread, 0, ends_thread, 0); usleep(30000); _exit(tasks()); });
    CHILD({ pthread_create(&thread, 0, late, 0); syscall(SYS_exit, 3); });
    CHILD({ pthread_create(&thread, 0, leader_dies, 0); syscall(SYS_exit, 3); });
    CHILD({ pthread_create(&thread, 0, executes, 0); pause(); });
    int p[2];
    pipe(p);
    CHILD({ pthread_create(&thread, 0, parked, (void *)(long)p[0]); usleep(10000); executes(0); });
    CHILD({ pthread_create(&thread, 0, executes, 0); parked((void *)(long)p[0]); });
    CHILD({ pthread_create(&thread, 0, parked, (void *)(long)p[0]); usleep(10000); _exit(7); });
    SECTION("fork of a process with threads");
    pthread_create(&thread, 0, waits, 0);
    sem_wait(&ready);
    CHILD(_exit(tasks()));
    sem_post(&go);
    pthread_join(thread, 0);
    SECTION("signals to threads");
    signal(SIGUSR1, on_signal);
    T(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1));
    IS(handled == getpid());
    T(syscall(SYS_tgkill, getpid() + 1, syscall(SYS_gettid), SIGUSR1));
    T(syscall(SYS_tgkill, getpid(), getpid() + 5000, SIGUSR1));
    T(syscall(SYS_tgkill, 0, 1, SIGUSR1));
    T(syscall(SYS_tgkill, 1, 0, SIGUSR1));
    T(syscall(SYS_tgkill, -1, 1, SIGUSR1));
    T(syscall(SYS_tkill, 0, SIGUSR1));
    T(syscall(SYS_tkill, -4, SIGUSR1));
    T(syscall(SYS_tkill, 99999, SIGUSR1));
    T(syscall(SYS_tkill, getpid(), 65));
    T(syscall(SYS_tkill, getpid(), -1));
    T(syscall(SYS_tkill, getpid(), 0));
    SECTION("futexes and lists");
    uint32_t word = 1;
    struct timespec brief = {0, 1000000};
    T(syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0));
    T(syscall(SYS_futex, &word, FUTEX_WAIT, 1, &brief, 0, 0));
    T(syscall(SYS_futex, &word, FUTEX_WAKE, 1, 0, 0, 0));
    T(syscall(SYS_futex, 8, FUTEX_WAKE, 1, 0, 0, 0));
    T(syscall(SYS_futex, 1, FUTEX_WAIT, 1, 0, 0, 0));
    T(syscall(SYS_futex, &word, 99, 1, 0, 0, 0));
    void *head;
    size_t length;
    T(syscall(SYS_get_robust_list, 0, &head, &length));
    T(length);
    IS(head != 0);
    T(syscall(SYS_get_robust_list, getpid(), &head, &length));
    T(syscall(SYS_get_robust_list, 99999, &head, &length));
    T(syscall(SYS_get_robust_list, 0, (void *)8, &length));
    T(syscall(SYS_set_robust_list, head, 3));
    T(syscall(SYS_set_robust_list, head, length));
    IS(syscall(SYS_set_tid_address, &word) == getpid());
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    T(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT));
    T(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
    return 0;
}
