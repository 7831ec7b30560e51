// The system: uname(2), names, sysinfo(2), personality(2), what only the host's administrator may.
#include "check.h"
#include <sys/personality.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

int main(void) {
    struct utsname names;
    char name[100] = "";
    SECTION("uname");
    T(uname(&names));
    puts(names.sysname);
    puts(names.nodename);
    puts(names.machine);
    puts(names.domainname);
    T(syscall(SYS_uname, 8));
    T(gethostname(name, sizeof name));
    puts(name);
    T(gethostname(name, 2));
    T(sethostname("x", 1));
    T(sethostname("x", -1));
    T(sethostname("x", 65));
    T(setdomainname("x", 1));
    SECTION("sysinfo");
    struct sysinfo info;
    memset(&info, 0x55, sizeof info);
    T(sysinfo(&info));
    IS(info.uptime > 0);
    IS(info.totalram > 0 && info.freeram <= info.totalram);
    T(info.mem_unit);
    T(info.totalhigh);
    T(info.freehigh);
    IS(info.procs > 0);
    T(sysinfo((void *)8));
    SECTION("personality");
    T(personality(0xffffffff));
    CHILD({ T(personality(ADDR_NO_RANDOMIZE)); T(personality(0xffffffff)); CHILD(T(personality(0xffffffff))); CHILD(execl("/bin/cat", "cat", "/proc/self/personality", (char *)0)); T(personality(0)); T(personality(0xffffffff)); });
    CHILD({ T(personality(PER_LINUX32)); T(personality(0xffffffff)); uname(&names); puts(names.machine); });
    CHILD({ T(personality(READ_IMPLIES_EXEC)); T(personality(0xffffffff)); });
    CHILD({ T(personality(UNAME26)); T(personality(0xffffffff)); });
    SECTION("the administrator's");
    T(reboot(RB_AUTOBOOT));
    T(syscall(SYS_reboot, 1, 2, 3, 0));
    T(swapon("/tmp", 0));
    T(swapoff("/tmp"));
    T(acct("/tmp"));
    T(syscall(SYS_syslog, 3, name, 10));
    T(syscall(SYS_syslog, 10, 0, 0));
    struct timespec time = {1, 0};
    T(clock_settime(CLOCK_REALTIME, &time));
    T(clock_settime(CLOCK_MONOTONIC, &time));
    T(clock_settime(99, &time));
    struct timeval value = {1, 0};
    T(settimeofday(&value, 0));
    T(syscall(SYS_vhangup));
    T(syscall(SYS_chroot, "/nonexistent"));
    T(syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
    T(syscall(SYS_umount2, "/tmp", 0));
    T(syscall(SYS_umount2, "/proc", 0));
    T(syscall(SYS_pivot_root, "/", "/"));
    T(syscall(SYS_getcpu, 0, 0, 0));
    T(syscall(SYS_arch_prctl, 0x9999, 0));
    T(syscall(SYS_arch_prctl, 0x1011, 0));
    return 0;
}
