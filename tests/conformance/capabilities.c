// capget(2), capset(2), and the capability calls of prctl(2).
#include "check.h"
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>

static struct __user_cap_header_struct header;
static struct __user_cap_data_struct data[2];

static int get(uint32_t version, int pid) { header.version = version; header.pid = pid; memset(data, 0x55, sizeof data); return syscall(SYS_capget, &header, data); }
static int set(uint32_t effective, uint32_t permitted, uint32_t inheritable) {
    header.version = _LINUX_CAPABILITY_VERSION_3;
    header.pid = 0;
    memset(data, 0, sizeof data);
    data[0].effective = effective;
    data[0].permitted = permitted;
    data[0].inheritable = inheritable;
    return syscall(SYS_capset, &header, data);
}
static void show(void) {
    get(_LINUX_CAPABILITY_VERSION_3, 0);
    printf("  eff %x perm %x inh %x\n", data[0].effective, data[0].permitted, data[0].inheritable);
}

int main(void) {
    SECTION("versions");
    T(get(_LINUX_CAPABILITY_VERSION_1, 0));
    printf("%x %x %x %x\n", data[0].effective, data[0].permitted, data[0].inheritable, data[1].effective);
    T(get(_LINUX_CAPABILITY_VERSION_2, 0));
    printf("%x %x %x %x\n", data[0].effective, data[0].permitted, data[0].inheritable, data[1].effective);
    T(get(_LINUX_CAPABILITY_VERSION_3, 0));
    T(get(0, 0));
    printf("%x\n", header.version);
    header.version = 0;
    T(syscall(SYS_capget, &header, 0));
    printf("%x\n", header.version);
    T(syscall(SYS_capget, &header, 0));
    T(syscall(SYS_capget, 0, 0));
    T(syscall(SYS_capget, 8, data));
    T(syscall(SYS_capget, &header, 8));
    header.version = 5;
    T(syscall(SYS_capset, &header, data));
    printf("%x\n", header.version);
    T(get(_LINUX_CAPABILITY_VERSION_3, getpid()));
    T(get(_LINUX_CAPABILITY_VERSION_3, 99999));
    T(get(_LINUX_CAPABILITY_VERSION_3, -1));
    T(get(_LINUX_CAPABILITY_VERSION_3, 1));
    header.pid = 99999;
    T(syscall(SYS_capset, &header, data));
    header.pid = -1;
    T(syscall(SYS_capset, &header, data));
    header.pid = 0;
    T(syscall(SYS_capset, &header, 8));
    pid_t child = fork();
    if (!child) { for (;;) pause(); }
    CHILD({ setresuid(1000, 1000, 1000); T(get(_LINUX_CAPABILITY_VERSION_3, child)); show(); });
    header.version = _LINUX_CAPABILITY_VERSION_3;
    header.pid = child;
    T(syscall(SYS_capset, &header, data));
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    SECTION("rules of capset");
    uint32_t all;
    show();
    get(_LINUX_CAPABILITY_VERSION_3, 0);
    all = data[0].permitted;
    CHILD({ T(set(all, all, 0)); show(); T(set(-1, -1, 0)); T(set(0, all, 0)); show(); T(set(all, all, 0)); show(); });
    CHILD({ T(set(0, 0, 0)); show(); T(set(all, all, 0)); T(set(0, 0, 1)); T(setuid(5)); T(chown("/tmp", 0, 0)); });
    CHILD({ T(set(all, all, all)); show(); T(set(all, all, -1)); });
    CHILD({ T(set(1, 0, 0)); T(set(1, 1, 0)); show(); T(set(1, 3, 0)); T(set(1, 1, 1)); T(set(0, 0, 1)); show(); T(set(0, 0, 3)); });
    // Without CAP_SETPCAP (8) the inheritable set grows only by what is permitted.
    CHILD({ T(set(all & ~256, all & ~256, 0)); T(set(0, 1, 1)); T(set(0, 1, 256)); T(set(0, 0, 1)); show(); });
    CHILD({ T(prctl(PR_CAPBSET_DROP, 10)); T(set(all, all, 1 << 10)); T(set(all, all, 1 << 13)); show(); });
    SECTION("bounding set");
    for (int i = 0; i < 41; i++) printf("%d", prctl(PR_CAPBSET_READ, i));
    printf("\n");
    T(prctl(PR_CAPBSET_READ, 41));
    T(prctl(PR_CAPBSET_READ, 64));
    T(prctl(PR_CAPBSET_READ, -1));
    CHILD({ T(prctl(PR_CAPBSET_DROP, 10)); T(prctl(PR_CAPBSET_READ, 10)); T(prctl(PR_CAPBSET_DROP, 41)); T(prctl(PR_CAPBSET_DROP, 10)); show(); });
    CHILD({ setresuid(1000, 1000, 1000); T(prctl(PR_CAPBSET_DROP, 10)); T(prctl(PR_CAPBSET_DROP, 41)); });
    SECTION("ambient set");
    T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 10, 0, 0));
    T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 41, 0, 0));
    T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 10, 0, 0));
    T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 41, 0, 0));
    T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, 10, 0, 0));
    T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 1, 0, 0));
    T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 10, 1, 0));
    T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 10, 0, 1));
    T(prctl(PR_CAP_AMBIENT, 5, 10, 0, 0));
    T(prctl(PR_CAP_AMBIENT, 0, 10, 0, 0));
    CHILD({
        set(all, all, all);
        T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 10, 0, 0));
        T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 10, 0, 0));
        set(all, all, 0);
        T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 10, 0, 0));
    });
    SECTION("securebits");
    T(prctl(PR_GET_SECUREBITS));
    CHILD({
        T(prctl(PR_SET_SECUREBITS, 0x1000));
        T(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED));
        T(prctl(PR_GET_SECUREBITS));
        T(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT));
        T(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT_LOCKED));
        T(prctl(PR_SET_SECUREBITS, 0));
        T(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS));
        T(prctl(PR_GET_KEEPCAPS));
        T(prctl(PR_SET_KEEPCAPS, 0));
        T(prctl(PR_GET_SECUREBITS));
        set(0, 0, 0);
        T(prctl(PR_SET_SECUREBITS, 0x3));
        T(prctl(PR_SET_SECUREBITS, 0));
    });
    CHILD({ setresuid(1000, 1000, 1000); T(prctl(PR_SET_SECUREBITS, 0)); });
    return 0;
}
