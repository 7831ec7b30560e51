// Where programs about files do their work: the same questions on the root file system (an overlay), in memory (tmpfs) and on a volume (a directory of
// the host's), as root and as a user without privileges.
#ifndef PLACES_H
#define PLACES_H
#include "check.h"
#include <grp.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

// Runs a function in a fresh directory of each file system.
static inline void on_each_place(const char *name, void (*suite)(void)) {
    const char *const bases[] = {"/var/tmp", "/dev/shm", "/volume"};
    for (int i = 0; i < 3; i++) {
        char path[200];
        snprintf(path, sizeof path, "%s/conformance-%s", bases[i], name);
        printf("== in %s\n", bases[i]);
        umask(022);
        if (mkdir(path, 0755) || chdir(path)) {
            printf("cannot enter %s: %s\n", path, check_error(errno));
            exit(1);
        }
        suite();
        if (chdir("/")) exit(1);
    }
}

// Becomes the user 1000, of group 1000 and of a second group, 2000.
static inline void become_user(void) {
    gid_t second = 2000;
    if (setgroups(1, &second) || setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000)) {
        printf("cannot become a user: %s\n", check_error(errno));
        _exit(1);
    }
}

// Runs statements as that user, in a child.
#define AS_USER(...) CHILD(become_user(); __VA_ARGS__)

// Makes a file with these bytes.
static inline void make_file(const char *path, const char *text) {
    int made = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (made < 0 || write(made, text, strlen(text)) != (ssize_t)strlen(text)) printf("cannot make %s: %s\n", path, check_error(errno));
    close(made);
}

// Prints a file's bytes up to the first 80.
static inline void show_file(const char *path) {
    char text[81] = "";
    int opened = open(path, O_RDONLY);
    ssize_t length = opened < 0 ? -1 : read(opened, text, 80);
    if (length < 0) printf("%s: %s\n", path, check_error(errno));
    else printf("%s: \"%.*s\"\n", path, (int)length, text);
    if (opened >= 0) close(opened);
}

// Prints what stat(2) promises about a file.
static inline void show_stat(const char *path) {
    struct stat s;
    if (lstat(path, &s)) printf("%s: %s\n", path, check_error(errno));
    else if (S_ISDIR(s.st_mode)) printf("%s: mode %o, owner %d:%d\n", path, s.st_mode, s.st_uid, s.st_gid);
    else printf("%s: mode %o, links %ld, owner %d:%d, size %ld\n", path, s.st_mode, (long)s.st_nlink, s.st_uid, s.st_gid, (long)s.st_size);
}
#endif
