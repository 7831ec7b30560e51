// Scripts: what `#!` lines mean to execve(2), and how their interpreters are called.
#include "check.h"

static void put(const char *path, const char *text, int mode) {
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    write(fd, text, strlen(text));
    fchmod(fd, mode);
    close(fd);
}

#define RUN(path, ...) \
    do { \
        CHILD({ char *arguments[] = {__VA_ARGS__ __VA_OPT__(,) 0}; execve(path, arguments, environ); printf("%s\n", check_error(errno)); _exit(200); }); \
    } while (0)

static void script(const char *text) {
    put("s", text, 0755);
    char shown[64];
    snprintf(shown, 40, "%s", text);
    for (char *at = shown; *at; at++) if (*at == '\n' || *at == '\t') *at = '~';
    printf("%s: ", shown);
    RUN("./s", "zero", "one", "two");
}

int main(int argc, char **argv) {
    if (argc > 1 && getenv("TELL")) {
        for (int i = 0; i < argc; i++) printf("[%s]", argv[i]);
        char exe[64] = "", comm[32] = "";
        readlink("/proc/self/exe", exe, 63);
        int fd = open("/proc/self/comm", O_RDONLY);
        comm[read(fd, comm, 31) - 1] = 0;
        printf(" exe %s comm %s\n", exe, comm);
        return 5;
    }
    setenv("TELL", "1", 1);
    mkdir("/tmp/y", 0755);
    chdir("/tmp/y");
    char command[128];
    sprintf(command, "cp %s /tmp/y/t", argv[0]);
    system(command);
    SECTION("lines");
    script("#!/tmp/y/t\n");
    script("#!/tmp/y/t");
    script("#! /tmp/y/t\n");
    script("#! \t /tmp/y/t \t \n");
    script("#!/tmp/y/t -a\n");
    script("#!/tmp/y/t   -a b  c  \n");
    script("#!/tmp/y/t\t-a\tb\n");
    script("#!./t rel\n");
    script("#!t rel\n");
    script("#!nothing\n");
    script("#!/nonexistent\n");
    script("#!/tmp\n");
    script("#!/etc/passwd\n");
    script("#!/tmp/y/t/x\n");
    script("#!\n");
    script("#! \n");
    script("#!");
    script("#");
    script("");
    script("#!/tmp/y/t\r\n");
    script(" #!/tmp/y/t\n");
    script("#!/tmp/y/t \x01\n");
    static char line[1000];
    memset(line, 0, sizeof line);
    sprintf(line, "#!/tmp/y/t %0300d\n", 7);
    script(line);
    sprintf(line, "#!/tmp/y/t %0243d", 7);
    script(line);
    sprintf(line, "#!/tmp/y/t %0244d", 7);
    script(line);
    sprintf(line, "#!/tmp/y/t %0245d", 7);
    script(line);
    sprintf(line, "#!/%0252d", 7);
    script(line);
    sprintf(line, "#!/%0253d\n", 7);
    script(line);
    sprintf(line, "#!/%0300d\n", 7);
    script(line);
    sprintf(line, "#!%0240d/tmp/y/t arg that is cut somewhere here\n", 7);
    memset(line + 2, ' ', 240);
    script(line);
    memset(line, 0, sizeof line);
    sprintf(line, "#!%0260d/tmp/y/t\n", 7);
    memset(line + 2, ' ', 260);
    script(line);
    SECTION("interpreters that are scripts");
    put("i1", "#!/tmp/y/t one\n", 0755);
    put("i2", "#!/tmp/y/i1 two\n", 0755);
    put("i3", "#!/tmp/y/i2 three\n", 0755);
    put("i4", "#!/tmp/y/i3 four\n", 0755);
    put("i5", "#!/tmp/y/i4 five\n", 0755);
    put("i6", "#!/tmp/y/i5 six\n", 0755);
    RUN("/tmp/y/i1", "zero", "last");
    RUN("/tmp/y/i2", "zero", "last");
    RUN("/tmp/y/i4", "zero", "last");
    RUN("/tmp/y/i5", "zero", "last");
    RUN("/tmp/y/i6", "zero", "last");
    put("self", "#!/tmp/y/self\n", 0755);
    RUN("/tmp/y/self", "zero");
    put("plain", "#!/tmp/y/t one\n", 0644);
    put("s", "#!/tmp/y/plain\n", 0755);
    RUN("/tmp/y/s", "zero");
    put("text", "no program\n", 0755);
    put("s", "#!/tmp/y/text\n", 0755);
    RUN("/tmp/y/s", "zero");
    SECTION("whose name is whose");
    put("s", "#!/tmp/y/t\n", 0755);
    symlink("s", "l");
    RUN("l", "zero");
    RUN("../y/s", "zero");
    RUN("/tmp/./y//s", "zero");
    chdir("/");
    RUN("tmp/y/s", "zero");
    chdir("/tmp/y");
    CHILD({ char *none[] = {0}; execve("./s", none, environ); printf("%s\n", check_error(errno)); });
    put("s", "#!/bin/sh\necho $0 $#\n", 0711);
    CHILD({ setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); RUN("./s", "zero", "one"); });
    put("s", "#!/bin/sh\necho $0 $#\n", 0755);
    RUN("./s", "zero", "one");
    CHILD({ setenv("PATH", "/tmp/y:/bin:/usr/bin", 1); execlp("s", "s", "a", (char *)0); });
    // The C library runs a text without a first line by the shell.
    put("noline", "echo by the shell $1\n", 0755);
    CHILD({ setenv("PATH", "/tmp/y", 1); execlp("noline", "noline", "a", (char *)0); });
    SECTION("set-user-ID scripts");
    put("s", "#!/usr/bin/id -u\n", 04755);
    chown("s", 1234, 1234);
    chmod("s", 04755);
    put("s2", "#!/bin/sh\nid -u; id -ru\n", 04755);
    chown("s2", 1234, 1234);
    chmod("s2", 06755);
    CHILD({ setresgid(1000, 1000, 1000); setresuid(1000, 1000, 1000); RUN("./s2", "zero"); });
    return 0;
}
