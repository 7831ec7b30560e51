// User and group ids: the setuid family, what it does to capabilities, groups, and programs with set-ID bits.
#include "check.h"
#include <grp.h>
#include <linux/capability.h>
#include <sys/auxv.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>

static void show(const char *what) {
    uid_t r, e, s;
    gid_t rg, eg, sg;
    getresuid(&r, &e, &s);
    getresgid(&rg, &eg, &sg);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    syscall(SYS_capget, &header, data);
    printf("%s: uid %d %d %d fs %d gid %d %d %d fs %d eff %x perm %x inh %x ambient %d dumpable %d keep %d securebits %x\n", what, r, e, s, setfsuid(-1), rg, eg, sg, setfsgid(-1),
           data[0].effective, data[0].permitted, data[0].inheritable, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 10, 0, 0), prctl(PR_GET_DUMPABLE), prctl(PR_GET_KEEPCAPS), prctl(PR_GET_SECUREBITS));
}

#define TRY(...) CHILD({ __VA_ARGS__; show("then"); })
#define CALL(expression) do { errno = 0; long v = expression; if (v == -1) printf("%s = -1 %s; ", #expression, check_error(errno)); else printf("%s = %ld; ", #expression, v); } while (0)

static void ambient(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    syscall(SYS_capget, &header, data);
    data[0].inheritable = data[0].permitted;
    CALL(syscall(SYS_capset, &header, data));
    CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 10, 0, 0));
}

static void copy(const char *from, const char *to, int mode, uid_t uid, gid_t gid) {
    static char bytes[4 << 20];
    int fd = open(from, O_RDONLY);
    size_t length = 0;
    for (ssize_t more; (more = read(fd, bytes + length, sizeof bytes - length)) > 0;) length += more;
    close(fd);
    fd = open(to, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    write(fd, bytes, length);
    fchown(fd, uid, gid);
    fchmod(fd, mode);
    close(fd);
}

#define EXEC(path, ...) CHILD({ __VA_ARGS__; execl(path, "prog", "tell", (char *)0); printf("%s\n", check_error(errno)); })

int main(int argc, char **argv) {
    if (argc > 1) {
        show("program");
        printf("secure %ld ", getauxval(AT_SECURE));
        // Where rights are gained the numbers count.
        if (getauxval(AT_SECURE)) printf("aux %ld %ld %ld %ld ", getauxval(AT_UID), getauxval(AT_EUID), getauxval(AT_GID), getauxval(AT_EGID));
        printf("nnp %d LD %s\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), getenv("LD_PRELOAD") ? "there" : "gone");
        return 0;
    }
    SECTION("as root");
    show("first");
    TRY(CALL(setuid(1000)); CALL(setuid(0)));
    TRY(CALL(seteuid(1000)); CALL(seteuid(0)));
    TRY(CALL(setreuid(1000, -1)); CALL(setreuid(-1, 1000)); CALL(setreuid(0, 0)));
    TRY(CALL(setreuid(1000, 2000)); CALL(setreuid(2000, 1000)));
    TRY(CALL(setresuid(1000, 2000, 3000)); CALL(setresuid(3000, 1000, 2000)); CALL(setresuid(-1, 5, -1)));
    TRY(CALL(setresuid(1000, 1000, 0)); CALL(setresuid(-1, 0, -1)));
    TRY(CALL(setresuid(-1, -1, -1)));
    TRY(CALL(syscall(SYS_setuid, -1)); CALL(syscall(SYS_setgid, -1)));
    TRY(CALL(setgid(1000)); CALL(setgid(0)));
    TRY(CALL(setregid(1000, 2000)); CALL(setresgid(3000, -1, 4000)));
    TRY(CALL(setfsuid(1000)); CALL(setfsuid(2000)); CALL(setfsgid(1000)));
    TRY(CALL(setfsuid(1000)); CALL(seteuid(0)));
    SECTION("as a user");
    TRY(setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); CALL(setuid(0)); CALL(setgid(0)); CALL(seteuid(2000)); CALL(setreuid(1000, 1000)); CALL(setreuid(0, -1)); CALL(setfsuid(0)); CALL(setfsgid(5)); CALL(setgroups(0, 0)));
    TRY(setresuid(1000, 2000, 3000); CALL(setuid(3000)); CALL(setuid(2000)); CALL(setuid(1000)));
    TRY(setresuid(1000, 2000, 3000); CALL(setreuid(2000, 3000)); CALL(setreuid(3000, -1)));
    TRY(setresuid(1000, 2000, 3000); CALL(setreuid(-1, 1000)));
    TRY(setresuid(1000, 2000, 3000); CALL(setfsuid(3000)); CALL(setfsuid(4000)));
    TRY(setresgid(1000, 2000, 3000); setresuid(1, 1, 1); CALL(setgid(3000)); CALL(setregid(3000, 1000)); CALL(setresgid(2000, 2000, 2000)));
    SECTION("keeping capabilities");
    TRY(CALL(prctl(PR_SET_KEEPCAPS, 1)); CALL(setuid(1000)); CALL(setuid(0)));
    TRY(CALL(prctl(PR_SET_KEEPCAPS, 1)); CALL(setresuid(1000, 1000, 0)); CALL(seteuid(0)));
    TRY(CALL(prctl(PR_SET_KEEPCAPS, 2)); CALL(prctl(PR_SET_KEEPCAPS, 0)));
    TRY(CALL(prctl(PR_SET_SECUREBITS, 1 << 4)); CALL(setuid(1000)));
    TRY(CALL(prctl(PR_SET_SECUREBITS, 1 << 2)); CALL(setuid(1000)));
    TRY(CALL(prctl(PR_SET_SECUREBITS, 1 << 5)); CALL(prctl(PR_SET_KEEPCAPS, 1)); CALL(prctl(PR_SET_SECUREBITS, 0)));
    TRY(CALL(prctl(PR_SET_SECUREBITS, 3 << 4)); CALL(prctl(PR_SET_KEEPCAPS, 0)));
    TRY(ambient(); CALL(setuid(1000)));
    TRY(ambient(); CALL(prctl(PR_SET_KEEPCAPS, 1)); CALL(setuid(1000)));
    TRY(ambient(); CALL(seteuid(1000)));
    TRY(ambient(); CALL(prctl(PR_SET_SECUREBITS, 1 << 6)); CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 13, 0, 0)); CALL(setfsuid(1000)));
    SECTION("groups");
    gid_t groups[70000] = {5, 3, 9};
    CHILD({
        T(getgroups(0, 0));
        T(setgroups(3, groups));
        T(getgroups(0, groups));
        T(getgroups(2, groups));
        T(getgroups(-1, groups));
        T(getgroups(3, (void *)8));
        gid_t found[8];
        T(getgroups(8, found));
        printf("%d %d %d\n", found[0], found[1], found[2]);
        T(setgroups(65536, groups));
        T(setgroups(65537, groups));
        T(setgroups(-1, groups));
        T(setgroups(2, (void *)8));
        groups[1] = -1;
        T(setgroups(2, groups));
        T(setgroups(0, 0));
        setresuid(1000, 1000, 1000);
        T(setgroups(0, 0));
        T(setgroups(-1, 0));
    });
    T(syscall(SYS_getresuid, 8, 8, 8));
    SECTION("dumpable");
    TRY(CALL(setfsuid(1000)));
    TRY(CALL(setgid(1000)));
    TRY(CALL(setgroups(1, groups)));
    TRY(CALL(setreuid(1000, -1)));
    TRY(CALL(prctl(PR_CAPBSET_DROP, 10)));
    TRY(struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0}; struct __user_cap_data_struct data[2] = {0}; CALL(syscall(SYS_capset, &header, data)));
    SECTION("programs with set-ID bits");
    mkdir("/tmp/z", 0755);
    const char *prog = "/tmp/z/prog";
    copy(argv[0], prog, 0755, 0, 0);
    setenv("LD_PRELOAD", "/nonexistent.so", 1);
    EXEC(prog, );
    EXEC(prog, setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000));
    EXEC(prog, setresuid(1000, 0, 0));
    EXEC(prog, setresuid(0, 1000, 1000));
    EXEC(prog, setresuid(1000, 2000, 3000));
    EXEC(prog, setresgid(1000, 2000, 3000));
    EXEC(prog, setfsuid(1000));
    EXEC(prog, prctl(PR_SET_KEEPCAPS, 1); setuid(1000));
    EXEC(prog, prctl(PR_SET_SECUREBITS, 1));
    EXEC(prog, prctl(PR_SET_SECUREBITS, 1 | 1 << 4));
    EXEC(prog, prctl(PR_CAPBSET_DROP, 10));
    EXEC(prog, ambient());
    EXEC(prog, ambient(); prctl(PR_SET_KEEPCAPS, 1); setuid(1000); prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 10, 0, 0));
    EXEC(prog, ambient(); prctl(PR_SET_SECUREBITS, 1); prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 13, 0, 0));
    copy(argv[0], "/tmp/z/suid-root", 04755, 0, 0);
    copy(argv[0], "/tmp/z/suid-user", 04755, 1234, 1234);
    copy(argv[0], "/tmp/z/sgid-user", 02755, 1234, 1234);
    copy(argv[0], "/tmp/z/sgid-no-x", 02745, 1234, 1234);
    copy(argv[0], "/tmp/z/both", 06755, 1234, 5678);
    copy(argv[0], "/tmp/z/private", 04711, 0, 0);
    const char *programs[] = {"/tmp/z/suid-root", "/tmp/z/suid-user", "/tmp/z/sgid-user", "/tmp/z/sgid-no-x", "/tmp/z/both", "/tmp/z/private"};
    for (int i = 0; i < 6; i++) {
        printf("-- %s\n", programs[i]);
        EXEC(programs[i], );
        EXEC(programs[i], setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000));
        EXEC(programs[i], setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        EXEC(programs[i], prctl(PR_SET_SECUREBITS, 1); setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000));
        EXEC(programs[i], setresgid(1234, 1234, 1234); setresuid(1234, 1234, 1234));
        EXEC(programs[i], ambient(); prctl(PR_SET_KEEPCAPS, 1); setuid(1000); prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 10, 0, 0));
    }
    copy(argv[0], "/dev/shm/x", 04755, 1234, 1234);
    // Set-ID bits go when the owner changes.
    struct stat s;
    chown("/tmp/z/both", 0, 0);
    stat("/tmp/z/both", &s);
    printf("%o\n", s.st_mode);
    return 0;
}
