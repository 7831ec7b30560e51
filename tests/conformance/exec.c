// execve(2) and execveat(2): every error, and what a new program finds.
#include "check.h"
#include <elf.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static char *self;
static char *no_environment[] = {0};

// Executes a path in a child; prints the error, or how the program ended.
#define RUN(path, ...) \
    do { \
        printf("%s: ", #path); \
        CHILD({ char *arguments[] = {__VA_ARGS__ __VA_OPT__(,) 0}; execve(path, arguments, environ); printf("%s\n", check_error(errno)); _exit(200); }); \
    } while (0)
#define RUNAT(directory, path, flags, ...) \
    do { \
        printf("execveat(%s, %s, %s): ", #directory, #path, #flags); \
        CHILD({ char *arguments[] = {__VA_ARGS__ __VA_OPT__(,) 0}; syscall(SYS_execveat, directory, path, arguments, environ, flags); printf("%s\n", check_error(errno)); _exit(200); }); \
    } while (0)

static void put(const char *path, const void *bytes, size_t length, int mode) {
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    write(fd, bytes, length);
    fchmod(fd, mode);
    close(fd);
}

static void copy(const char *from, const char *to, int mode) {
    static char bytes[4 << 20];
    int fd = open(from, O_RDONLY);
    size_t length = 0;
    for (ssize_t more; (more = read(fd, bytes + length, sizeof bytes - length)) > 0;) length += more;
    close(fd);
    put(to, bytes, length, mode);
}

// What the new program tells of itself.
static int tell(int argc, char **argv, char **envp) {
    printf("argc %d:", argc);
    for (int i = 0; i < argc; i++) printf(" [%s]", argv[i]);
    int count = 0;
    while (envp[count]) count++;
    printf(" env %d%s%s\n", count, count ? " " : "", count ? envp[0] : "");
    if (!getenv("BY_DESCRIPTOR")) printf("execfn %s ", (char *)getauxval(AT_EXECFN));
    printf("secure %ld\n", getauxval(AT_SECURE));
    printf("random %d pagesz %ld phdr %d entry %d clktck %ld platform %s vdso %d\n", getauxval(AT_RANDOM) != 0, getauxval(AT_PAGESZ),
           getauxval(AT_PHDR) != 0, getauxval(AT_ENTRY) != 0, getauxval(AT_CLKTCK), (char *)getauxval(AT_PLATFORM), getauxval(AT_SYSINFO_EHDR) != 0);
    char name[16] = "", exe[128] = "";
    prctl(PR_GET_NAME, name);
    readlink("/proc/self/exe", exe, 127);
    if (!getenv("BY_DESCRIPTOR")) printf("comm %s ", name);
    printf("exe %s\n", exe);
    printf("open:");
    for (int fd = 0; fd < 300; fd++) if (fcntl(fd, F_GETFD) >= 0) printf(" %d", fd);
    sigset_t mask, pending;
    sigprocmask(SIG_BLOCK, 0, &mask);
    sigpending(&pending);
    struct sigaction action;
    printf(" blocked:");
    for (int i = 1; i < 65; i++) if (sigismember(&mask, i) == 1) printf(" %d", i);
    printf(" pending:");
    for (int i = 1; i < 65; i++) if (sigismember(&pending, i) == 1) printf(" %d", i);
    printf(" ignored:");
    for (int i = 1; i < 65; i++) if (!sigaction(i, 0, &action) && action.sa_handler == SIG_IGN) printf(" %d", i);
    printf(" caught:");
    for (int i = 1; i < 65; i++) if (!sigaction(i, 0, &action) && action.sa_handler != SIG_IGN && action.sa_handler != SIG_DFL) printf(" %d", i);
    stack_t stack;
    sigaltstack(0, &stack);
    printf(" altstack %d\n", stack.ss_flags);
    int death = -1;
    prctl(PR_GET_PDEATHSIG, &death);
    char line[512];
    int fd = open("/proc/self/cmdline", O_RDONLY);
    ssize_t length = read(fd, line, 511);
    close(fd);
    for (int i = 0; i < length; i++) if (!line[i]) line[i] = '|';
    line[length < 0 ? 0 : length] = 0;
    printf("cmdline %s pdeathsig %d dumpable %d keepcaps %d nonewprivs %d alarm %u\n", line, death, prctl(PR_GET_DUMPABLE), prctl(PR_GET_KEEPCAPS),
           prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), alarm(0));
    return 42;
}

static void handler(int number) { (void)number; }

int main(int argc, char **argv, char **envp) {
    // The first process of the container asks; the programs that it executes tell.
    if (getpid() != 1) return tell(argc, argv, envp);
    self = argv[0];
    mkdir("/tmp/x", 0755);
    chdir("/tmp/x");
    copy(self, "prog", 0755);
    copy(self, "private", 0700);
    copy(self, "unreadable", 0711);
    SECTION("errors");
    RUN("", "x");
    RUN("/nonexistent", "x");
    RUN("/nonexistent/x", "x");
    RUN("prog/x", "x");
    RUN("prog/", "x");
    RUN("/tmp", "x");
    RUN("/tmp/x/", "x");
    RUN(".", "x");
    RUN("..", "x");
    RUN("/", "x");
    RUN("/dev/null", "x");
    RUN("/etc/passwd", "x");
    put("empty", "", 0, 0755);
    RUN("empty", "x");
    put("text", "hello world, no program\n", 24, 0755);
    RUN("text", "x");
    put("short", "\x7f" "ELF", 4, 0755);
    RUN("short", "x");
    char head[64] = "\x7f" "ELF\x01\x01\x01";
    put("elf32", head, 64, 0755);
    RUN("elf32", "x");
    unsigned char bytes[4096];
    int fd = open(self, O_RDONLY);
    read(fd, bytes, sizeof bytes);
    close(fd);
    Elf64_Ehdr *header = (void *)bytes;
    put("headers", bytes, 64, 0755);
    RUN("headers", "x");
    header->e_machine = EM_AARCH64;
    put("other", bytes, sizeof bytes, 0755);
    RUN("other", "x");
    header->e_machine = EM_X86_64;
    header->e_type = ET_REL;
    put("object", bytes, sizeof bytes, 0755);
    RUN("object", "x");
    header->e_type = ET_EXEC;
    header->e_phnum = 0;
    put("nosegments", bytes, sizeof bytes, 0755);
    RUN("nosegments", "x");
    // A dynamic loader that is not there, is a directory, is not executable, is no ELF file.
    static const char *loaders[] = {"/nonexistent", "/tmp", "/etc/passwd", "/tmp/x/text", "prog/x", ""};
    for (int i = 0; i < 6; i++) {
        memset(bytes, 0, sizeof bytes);
        memcpy(header->e_ident, "\x7f" "ELF\x02\x01\x01", 7);
        header->e_type = ET_EXEC;
        header->e_machine = EM_X86_64;
        header->e_version = 1;
        header->e_phoff = 64;
        header->e_ehsize = 64;
        header->e_phentsize = 56;
        header->e_phnum = 1;
        Elf64_Phdr *segment = (void *)(bytes + 64);
        segment->p_type = PT_INTERP;
        segment->p_offset = 512;
        segment->p_filesz = strlen(loaders[i]) + 1;
        strcpy((char *)bytes + 512, loaders[i]);
        put("loaded", bytes, sizeof bytes, 0755);
        printf("loader %s ", loaders[i]);
        RUN("loaded", "x");
    }
    put("notexec", "#!/bin/sh\nexit 3\n", 17, 0644);
    RUN("notexec", "x");
    symlink("loop", "loop");
    RUN("loop", "x");
    symlink("nowhere", "dangling");
    RUN("dangling", "x");
    symlink("prog", "link");
    RUN("link", "link", "tell");
    char long_name[300];
    memset(long_name, 'n', 299);
    long_name[299] = 0;
    RUN(long_name, "x");
    static char long_path[5000];
    memset(long_path, '/', 4999);
    RUN(long_path, "x");
    RUN((char *)8, "x");
    RUN((char *)0, "x");
    CHILD({ execve("/bin/true", (char **)8, environ); printf("%s\n", check_error(errno)); });
    CHILD({ char *bad[] = {"x", (char *)8, 0}; execve("/bin/true", bad, environ); printf("%s\n", check_error(errno)); });
    CHILD({ char *good[] = {"x", 0}; execve("/bin/true", good, (char **)8); printf("%s\n", check_error(errno)); });
    CHILD({ execve("prog", 0, environ); printf("%s\n", check_error(errno)); });
    CHILD({ char *none[] = {0}; execve("prog", none, no_environment); printf("%s\n", check_error(errno)); });
    CHILD({ char *some[] = {"prog", "tell", 0}; execve("prog", some, 0); printf("%s\n", check_error(errno)); });
    static char big[200000];
    memset(big, 'b', sizeof big - 1);
    RUN("prog", "prog", big);
    static char *many[200] = {"prog"};
    for (int i = 1; i < 199; i++) many[i] = big + sizeof big - 100000;
    CHILD({ execve("prog", many, environ); printf("%s\n", check_error(errno)); });
    RUN("prog", "prog", "tell");
    CHILD({
        setresgid(1000, 1000, 1000);
        setresuid(1000, 1000, 1000);
        RUN("private", "x", "tell");
        RUN("unreadable", "unreadable", "tell");
        RUN("/root/x", "x");
        RUN("/proc/self/exe", "x", "tell");
    });
    mkdir("closed", 0600);
    copy(self, "closed/prog", 0755);
    CHILD({ setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); RUN("closed/prog", "x", "tell"); });
    RUN("closed/prog", "x", "tell");
    RUN("./closed/../prog", "x", "tell");
    RUN("/tmp/x/nonexistent/../prog", "x", "tell");
    RUN("/dev/shm/none", "x");
    copy(self, "/dev/shm/prog", 0755);
    RUN("/dev/shm/prog", "x", "tell");
    SECTION("what stays and what goes");
    CHILD({
        fcntl(open("/dev/null", O_RDONLY), F_DUPFD, 100);
        fcntl(open("/dev/null", O_RDONLY), F_DUPFD_CLOEXEC, 120);
        // The number at which this kernel marks an exec natively is the workload's own like any other.
        fcntl(open("/dev/null", O_RDONLY), F_DUPFD, 63);
        fcntl(open("/dev/null", O_RDONLY), F_DUPFD_CLOEXEC, 64);
        signal(SIGUSR1, handler);
        signal(SIGUSR2, SIG_IGN);
        signal(SIGCHLD, SIG_IGN);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGHUP);
        sigaddset(&set, SIGWINCH);
        sigaddset(&set, 40);
        sigprocmask(SIG_BLOCK, &set, 0);
        raise(SIGHUP);
        static char space[65536];
        stack_t stack = {space, 0, sizeof space};
        sigaltstack(&stack, 0);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        prctl(PR_SET_NAME, "another");
        prctl(PR_SET_DUMPABLE, 0);
        prctl(PR_SET_KEEPCAPS, 1);
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        alarm(1000);
        char *arguments[] = {"a", "tell", "", "b c", 0};
        execve("./prog", arguments, (char *[]){"ONE=1", "TWO=2", 0});
    });
    SECTION("execveat");
    int directory = open("/tmp/x", O_RDONLY | O_DIRECTORY);
    int path = open("prog", O_PATH);
    int file = open("prog", O_RDONLY);
    int closing = open("prog", O_RDONLY | O_CLOEXEC);
    RUNAT(AT_FDCWD, "prog", 0, "p", "tell");
    RUNAT(directory, "/tmp/x/prog", 0, "p", "tell");
    RUNAT(-1, "/tmp/x/prog", 0, "p", "tell");
    RUNAT(directory, "/tmp/x/prog", 0x4000, "p", "tell");
    RUNAT(directory, "/tmp/x/none", 0, "p", "tell");
    RUNAT(directory, "/tmp/x/text", 0, "p", "tell");
    // The C library reaches a descriptor by this call or by another.
    setenv("BY_DESCRIPTOR", "1", 1);
    put("script", "#!/bin/sh\necho \"$1\"\nexit 9\n", 27, 0755);
    int script = open("script", O_RDONLY);
    CHILD({ char *arguments[] = {"f", "one", 0}; fexecve(script, arguments, environ); printf("%s\n", check_error(errno)); });
    CHILD({ char *arguments[] = {"f", "one", 0}; fexecve(path, arguments, environ); printf("%s\n", check_error(errno)); });
    CHILD({ char *arguments[] = {"f", "one", 0}; fexecve(closing, arguments, environ); printf("%s\n", check_error(errno)); });
    CHILD({ char *arguments[] = {"f", "one", 0}; fexecve(directory, arguments, environ); printf("%s\n", check_error(errno)); });
    CHILD({ char *arguments[] = {"f", "one", 0}; fexecve(-1, arguments, environ); printf("%s\n", check_error(errno)); });
    CHILD({ char *arguments[] = {"f", "tell", 0}; fexecve(file, arguments, environ); printf("%s\n", check_error(errno)); });
    int memory = memfd_create("program", 0);
    fd = open(self, O_RDONLY);
    for (ssize_t length; (length = read(fd, bytes, sizeof bytes)) > 0;) write(memory, bytes, length);
    close(fd);
    CHILD({ char *arguments[] = {"m", "tell", 0}; fexecve(memory, arguments, environ); printf("%s\n", check_error(errno)); });
    char through[64];
    sprintf(through, "/proc/self/fd/%d", memory);
    int read_only = open(through, O_RDONLY | O_CLOEXEC);
    close(memory);
    CHILD({
        char *arguments[] = {"m", "1", 0};
        setenv("TELL", "1", 1);
        dup2(read_only, 50);
        close(read_only);
        char link[64] = "";
        fexecve(50, arguments, environ);
        printf("%s\n", check_error(errno));
    });
    RUN("/proc/self/fd/50", "x");
    dup2(file, 51);
    RUN("/proc/self/fd/51", "x", "tell");
    RUN("/proc/self/exe", "x", "tell");
    SECTION("a program that is replaced while it runs");
    copy(self, "replaced", 0755);
    put("after", "#!/bin/sh\nexit 8\n", 17, 0755);
    CHILD({
        char *arguments[] = {"sh", "-c", "cp /bin/sh other; exec ./other -c 'rm other; cp /bin/true other; readlink /proc/$$/exe; exec /proc/self/exe -c \"exit 14\"'", 0};
        execv("/bin/sh", arguments);
    });
    return 0;
}
