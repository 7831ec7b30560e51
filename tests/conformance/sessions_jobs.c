// Sessions and process groups: setsid(2), setpgid(2), orphaned groups.
#include "check.h"

static volatile sig_atomic_t hups, conts;
static void on_hup(int number) { (void)number; hups++; }
static void on_cont(int number) { (void)number; conts++; }

static pid_t sleeper(void) {
    pid_t child = fork();
    if (!child) { for (;;) pause(); }
    return child;
}
static void end(pid_t child) { kill(child, SIGKILL); waitpid(child, 0, 0); }

int main(void) {
    int status;
    SECTION("numbers");
    IS(getpgrp() == getpgid(0));
    IS(getsid(0) == getsid(getpid()));
    T(getpgid(99999));
    T(getsid(99999));
    T(getpgid(-1));
    T(getsid(-1));
    SECTION("setpgid");
    T(setpgid(99999, 0));
    T(setpgid(-1, 0));
    T(setpgid(0, -1));
    pid_t child = sleeper();
    T(setpgid(child, 99999));
    T(setpgid(child, child));
    IS(getpgid(child) == child);
    T(setpgid(child, getpgrp()));
    IS(getpgid(child) == getpgrp());
    CHILD(T(setpgid(child, 0)));
    CHILD({ T(setpgid(getppid(), 0)); });
    end(child);
    T(setpgid(child, 0));
    int p[2];
    pipe(p);
    child = fork();
    if (!child) { close(p[0]); fcntl(p[1], F_SETFD, FD_CLOEXEC); execl("/bin/sleep", "sleep", "100", (char *)0); }
    close(p[1]);
    char byte;
    read(p[0], &byte, 1);
    T(setpgid(child, child));
    end(child);
    CHILD({ setsid(); T(setpgid(0, 0)); pid_t own = getpid(); IS(getpgrp() == own); });
    child = fork();
    if (!child) { setsid(); for (;;) pause(); }
    usleep(20000);
    T(setpgid(child, getpgrp()));
    CHILD({ T(setpgid(0, child)); });
    IS(getsid(child) == child);
    end(child);
    SECTION("setsid");
    CHILD({ OK(setsid()); T(setsid()); });
    CHILD({ setpgid(0, 0); T(setsid()); });
    SECTION("orphaned groups");
    // A stopped group loses its last parent outside: it is sent SIGHUP and SIGCONT.
    pipe(p);
    child = fork();
    if (!child) {
        // A session of its own: init, who adopts the member, would keep a group of this one from being orphaned.
        setsid();
        pid_t member = fork();
        if (!member) {
            signal(SIGHUP, on_hup);
            signal(SIGCONT, on_cont);
            setpgid(0, 0);
            write(p[1], "r", 1);
            raise(SIGSTOP);
            for (int i = 0; i < 200 && !(hups && conts); i++) usleep(5000);
            usleep(100000);
            printf("hup %d cont %d\n", hups, conts);
            _exit(0);
        }
        read(p[0], &byte, 1);
        waitpid(member, &status, WUNTRACED);
        _exit(WIFSTOPPED(status) ? 5 : 6);
    }
    IS(waitpid(child, &status, 0) == child);
    T(WEXITSTATUS(status));
    T(waitpid(-1, &status, 0) > 0);
    T(WIFSTOPPED(status));
    T(status);
    // In an orphaned group the terminal's stop signals do nothing; SIGSTOP does.
    CHILD({
        if (fork()) _exit(0);
        usleep(30000);
        setsid();
        raise(SIGTSTP);
        printf("not stopped\n");
        _exit(3);
    });
    T(waitpid(-1, &status, 0) > 0);
    T(WEXITSTATUS(status));
    return 0;
}
