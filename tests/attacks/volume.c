// Races for the way out of a volume, from inside, while the host renames directories and swaps links in it.
//
// The host keeps a canary beside the volume, in a directory that the volume's links name, and into which it moves directories of the volume and back.
// Readers walk every way that might lead there; swappers change what they walk over. A reader that sees the canary has escaped.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct counts {
    volatile long escaped, inside, tries;
};
static struct counts *counts;
// Until then, or, on a busy machine, until enough was tried; and no longer than until the latest.
static time_t end, latest;

static int goes_on(void) {
    time_t now = time(0);
    return now < end || (now < latest && (counts->inside <= 100 || counts->tries <= 1000));
}

static void look(int fd) {
    char text[64] = "";
    __sync_fetch_and_add(&counts->tries, 1);
    if (fd < 0) return;
    ssize_t length = read(fd, text, sizeof text - 1);
    if (length > 0 && strstr(text, "canary")) {
        char path[50], shown[300] = "";
        sprintf(path, "/proc/self/fd/%d", fd);
        if (readlink(path, shown, sizeof shown - 1) < 0) shown[0] = 0;
        printf("escaped by %s\n", shown);
        __sync_fetch_and_add(&counts->escaped, 1);
    }
    if (length > 0 && strstr(text, "inside")) __sync_fetch_and_add(&counts->inside, 1);
    close(fd);
}

// What stands above a directory must be known here.
static void look_up(int directory, const char *path) {
    int above = openat(directory, path, O_RDONLY | O_DIRECTORY);
    if (above < 0) return;
    look(openat(above, "canary", O_RDONLY));
    close(above);
}

static void reader(void) {
    static const char *const paths[] = {
        "/volume/swap/file",         "/volume/swap/canary",        "/volume/swap/../canary",   "/volume/moves/../canary",
        "/volume/moves/deep/../../canary", "/volume/moves/file",   "/volume/moves/deep/file",  "/volume/moves/deep/../../../canary",
        "/volume/absolute/canary",   "/volume/absolute",           "/volume/relative",         "/volume/moves/link/canary",
        "/volume/inner/swap/canary", "/volume/inner/swap/../../canary", "/volume/../canary",   "/proc/self/cwd/../canary",
        "/proc/self/cwd/../../canary",
    };
    for (unsigned i = 0; goes_on(); i++) {
        look(open(paths[i % (sizeof paths / sizeof *paths)], O_RDONLY));
        int moves = open("/volume/moves/deep", O_RDONLY | O_DIRECTORY);
        if (moves >= 0) {
            // The directory may be outside by now: what is in it is its own, what is above it is not.
            look(openat(moves, "file", O_RDONLY));
            look_up(moves, "..");
            look_up(moves, "../..");
            look_up(moves, "../../..");
            look(openat(moves, "../../canary", O_RDONLY));
            look(openat(moves, "../canary", O_RDONLY));
            struct open_how how = {O_RDONLY, 0, RESOLVE_IN_ROOT};
            look(syscall(SYS_openat2, moves, "/../../canary", &how, sizeof how));
            if (!fchdir(moves)) {
                look(open("../canary", O_RDONLY));
                look(open("../../canary", O_RDONLY));
                if (!chdir("..") && !chdir("..")) look(open("canary", O_RDONLY));
                if (chdir("/volume")) return;
            }
            char path[60];
            sprintf(path, "/proc/self/fd/%d/../../canary", moves);
            look(open(path, O_RDONLY));
            close(moves);
        }
        // What is made, cut, linked, renamed and removed must not be outside either: the host looks at that.
        int made = open("/volume/swap/made", O_CREAT | O_RDWR, 0644);
        if (made >= 0 && write(made, "made", 4) == 4) close(made);
        int cut = open("/volume/swap/canary", O_WRONLY | O_TRUNC);
        if (cut >= 0) close(cut);
        if (!truncate("/volume/inner/swap/canary", 0)) {}
        if (!chmod("/volume/swap/canary", 0777)) {}
        if (!mkdir("/volume/swap/made-dir", 0755)) {}
        if (!rename("/volume/inner/file", "/volume/swap/renamed")) {}
        if (!rename("/volume/swap/canary", "/volume/taken")) {}
        if (!link("/volume/swap/canary", "/volume/linked")) {}
        if (!unlink("/volume/swap/canary")) {}
        look(open("/volume/taken", O_RDONLY));
        look(open("/volume/linked", O_RDONLY));
        unlink("/volume/taken");
        unlink("/volume/linked");
    }
}

// Exchanges a directory and a link that leads out, and moves directories about.
static void swapper(void) {
    for (unsigned i = 0; goes_on(); i++) {
        syscall(SYS_renameat2, AT_FDCWD, "/volume/inner/swap", AT_FDCWD, "/volume/inner/out", 2);
        rename("/volume/inner/x", "/volume/moves/x");
        rename("/volume/moves/x", "/volume/inner/x");
        symlink(i % 2 ? ".." : "../..", "/volume/inner/turn");
        look(open("/volume/inner/turn/canary", O_RDONLY));
        unlink("/volume/inner/turn");
    }
}

int main(int count, char **arguments) {
    counts = mmap(0, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    end = time(0) + (count > 1 ? atoi(arguments[1]) : 5);
    latest = end + 120;
    for (int i = 0; i < 5; i++) {
        if (fork() == 0) {
            if (i < 3) reader();
            else swapper();
            _exit(0);
        }
    }
    while (wait(0) > 0) {}
    printf("escaped %ld, %s, %s\n", counts->escaped, counts->inside > 100 ? "read what is inside" : "read nothing", counts->tries > 1000 ? "tried" : "hardly tried");
    return 0;
}
