// The links of /proc/self: fd, cwd, root, exe. What they show, and what opening them opens.
#include "places.h"
#include <sys/prctl.h>
#include <sys/socket.h>

static void shows(const char *path) {
    char text[400] = "";
    ssize_t length = readlink(path, text, sizeof text - 1);
    if (length < 0) printf("%s: %s\n", path, check_error(errno));
    else printf("-> %s\n", text);
}

static void shows_fd(int fd) {
    char path[50], text[400] = "";
    sprintf(path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, text, sizeof text - 1);
    if (length < 0) printf("fd: %s\n", check_error(errno));
    else printf("fd -> %s\n", text);
}

static void suite(void) {
    int fd, other;
    char self[50], byte;
    struct stat s, t;
    make_file("file", "text of the file");
    SECTION("what is shown");
    KEEP(fd, open("file", O_RDWR));
    shows_fd(fd);
    T(rename("file", "renamed"));
    shows_fd(fd);
    T(unlink("renamed"));
    shows_fd(fd);
    sprintf(self, "/proc/self/fd/%d", fd);
    T(lstat(self, &s));
    printf("mode %o\n", s.st_mode);
    T(stat(self, &s));
    T(s.st_nlink);
    char name[300];
    snprintf(name, sizeof name, "fil\xff\n");
    close(fd);
    make_file(name, "x");
    KEEP(fd, open(name, O_RDONLY));
    shows_fd(fd);
    close(fd);
    T(mkdir("dir", 0755));
    T(mkdir("dir/sub", 0755));
    KEEP(fd, open("dir/sub", O_RDONLY));
    shows_fd(fd);
    T(rename("dir", "dir2"));
    shows_fd(fd);
    T(rmdir("dir2/sub"));
    shows_fd(fd);
    close(fd);
    T(chdir("dir2"));
    shows("/proc/self/cwd");
    T(rmdir("../dir2"));
    shows("/proc/self/cwd");
    T(stat("/proc/self/cwd", &s));
    T(stat("/proc/self/cwd/..", &s));
    T(open("/proc/self/cwd/x", O_CREAT | O_RDWR, 0644));
    T(chdir(".."));
    shows("/proc/self/root");
    shows("/proc/self/exe");
    SECTION("opening");
    make_file("file", "text of the file");
    KEEP(fd, open("file", O_RDONLY));
    sprintf(self, "/proc/self/fd/%d", fd);
    T(read(fd, &byte, 1));
    KEEP(other, open(self, O_RDONLY));
    T(lseek(other, 0, SEEK_CUR));
    close(other);
    // A description for reading is opened for writing where the file allows it.
    KEEP(other, open(self, O_RDWR | O_APPEND));
    T(write(other, "+", 1));
    T(fcntl(other, F_GETFL));
    close(other);
    show_file("file");
    T(open(self, O_NOFOLLOW));
    T(open(self, O_NOFOLLOW | O_PATH) > 0);
    T(open(self, O_DIRECTORY));
    T(open(self, O_CREAT | O_EXCL | O_RDWR, 0644));
    KEEP(other, open(self, O_CREAT | O_RDWR | O_TRUNC, 0644));
    close(other);
    show_stat("file");
    T(unlink("file"));
    KEEP(other, open(self, O_RDWR));
    T(write(other, "gone", 4));
    close(other);
    T(stat(self, &s));
    T(s.st_size);
    T(truncate(self, 2));
    T(chmod(self, 0600));
    T(chown(self, 1, 1));
    T(utimensat(AT_FDCWD, self, 0, 0));
    T(access(self, R_OK));
    T(fstat(fd, &s));
    printf("mode %o, owner %d:%d, size %ld\n", s.st_mode, s.st_uid, s.st_gid, (long)s.st_size);
    T(link(self, "hard"));
    T(lstat("hard", &s));
    T(rename(self, "x"));
    T(unlink(self));
    T(rmdir(self));
    T(mkdir(self, 0755));
    close(fd);
    SECTION("O_PATH");
    make_file("file", "text");
    KEEP(fd, open("file", O_PATH));
    sprintf(self, "/proc/self/fd/%d", fd);
    KEEP(other, open(self, O_RDONLY));
    T(read(other, &byte, 1));
    close(other);
    shows_fd(fd);
    close(fd);
    T(symlink("file", "link"));
    KEEP(fd, open("link", O_PATH | O_NOFOLLOW));
    sprintf(self, "/proc/self/fd/%d", fd);
    shows_fd(fd);
    T(open(self, O_RDONLY));
    T(open(self, O_PATH) > 0);
    T(stat(self, &s));
    T(S_ISLNK(s.st_mode));
    close(fd);
    KEEP(fd, open(".", O_PATH | O_DIRECTORY));
    sprintf(self, "/proc/self/fd/%d/file", fd);
    T(stat(self, &s));
    sprintf(self, "/proc/self/fd/%d/../conformance-magic_links/file", fd);
    T(stat(self, &s));
    sprintf(self, "/proc/self/fd/%d/", fd);
    T(lstat(self, &s));
    T(S_ISDIR(s.st_mode));
    sprintf(self, "/proc/self/fd/%d", fd);
    T(chdir(self));
    close(fd);
    T(open(self, O_RDONLY));
    T(stat(self, &s));
    SECTION("rights");
    make_file("secret", "x");
    chmod("secret", 0600);
    KEEP(fd, open("secret", O_RDONLY));
    sprintf(self, "/proc/self/fd/%d", fd);
    AS_USER({
        prctl(4 /* PR_SET_DUMPABLE */, 1);
        T(read(fd, &byte, 1));
        T(open(self, O_RDONLY));
        T(access(self, R_OK));
    });
    close(fd);
    chmod("secret", 0644);
    KEEP(fd, open("secret", O_RDONLY));
    sprintf(self, "/proc/self/fd/%d", fd);
    AS_USER({
        prctl(4, 1);
        T(open(self, O_RDONLY) > 0);
        T(open(self, O_RDWR));
    });
    close(fd);
    // A directory that cannot be searched stands in nobody's way.
    T(mkdir("closed", 0700));
    make_file("closed/file", "x");
    KEEP(fd, open("closed/file", O_RDONLY));
    sprintf(self, "/proc/self/fd/%d", fd);
    AS_USER({
        prctl(4, 1);
        T(open("closed/file", O_RDONLY));
        T(open(self, O_RDONLY) > 0);
    });
    close(fd);
}

int main(void) {
    on_each_place("magic_links", suite);
    SECTION("objects without names");
    int p[2], fd;
    char self[50], byte;
    struct stat s, t;
    T(pipe(p));
    sprintf(self, "/proc/self/fd/%d", p[0]);
    T(lstat(self, &s));
    printf("mode %o\n", s.st_mode);
    T(stat(self, &s));
    printf("mode %o\n", s.st_mode);
    T(fstat(p[0], &t));
    IS(s.st_ino == t.st_ino);
    KEEP(fd, open(self, O_WRONLY));
    T(write(fd, "x", 1));
    T(read(p[0], &byte, 1));
    close(fd);
    KEEP(fd, open(self, O_RDONLY | O_NONBLOCK));
    T(read(fd, &byte, 1));
    close(fd);
    KEEP(fd, open(self, O_RDWR));
    close(fd);
    T(open(self, O_RDONLY | O_DIRECTORY));
    T(truncate(self, 0));
    T(access(self, R_OK | W_OK));
    int pair[2];
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    sprintf(self, "/proc/self/fd/%d", pair[0]);
    T(open(self, O_RDWR));
    T(stat(self, &s));
    printf("mode %o\n", s.st_mode);
    SECTION("numbers");
    T(readlink("/proc/self/fd/999", &byte, 1));
    T(open("/proc/self/fd/-1", O_RDONLY));
    T(open("/proc/self/fd/+1", O_RDONLY));
    T(open("/proc/self/fd/01", O_RDONLY));
    T(open("/proc/self/fd/x", O_RDONLY));
    T(open("/proc/self/fd/1x", O_RDONLY));
    T(stat("/dev/fd/0", &s));
    T(stat("/dev/stdin", &s));
    T(mkdir("/proc/self/fd/new", 0755));
    T(open("/proc/self/fd/777", O_CREAT | O_RDWR, 0644));
    return 0;
}
