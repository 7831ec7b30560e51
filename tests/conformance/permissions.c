// Rights: chmod(2), chown(2), umask(2), access(2), set-id bits that come and go, sticky and set-group-ID directories.
#include "places.h"

static void show_mode(const char *path) {
    struct stat s;
    if (lstat(path, &s)) printf("%s: %s\n", path, check_error(errno));
    else printf("%s: %o %d:%d\n", path, s.st_mode, s.st_uid, s.st_gid);
}

// A file with this mode and owner.
static void make(const char *path, int mode, int uid, int gid) {
    make_file(path, "x");
    if (chown(path, uid, gid) || chmod(path, mode)) printf("make %s: %s\n", path, check_error(errno));
}

// Whether this place is a volume. There the host itself applies some rules, to a wall that has no rights outside of its namespace.
static int on_volume(void) {
    char cwd[200] = "";
    return getcwd(cwd, sizeof cwd) && !strncmp(cwd, "/volume", 7);
}

static void suite(void) {
    int fd;
    SECTION("chmod");
    make("file", 0644, 0, 0);
    T(chmod("file", 07777));
    show_mode("file");
    T(chmod("file", 0170644));
    show_mode("file");
    T(chmod("file", 0));
    show_mode("file");
    T(chmod("none", 0644));
    T(symlink("file", "link"));
    T(chmod("link", 0600));
    show_mode("file");
    show_mode("link");
    T(fchmodat(AT_FDCWD, "file", 0644, 0));
    T(syscall(SYS_fchmodat, AT_FDCWD, "file", 0640, 0x100));
    show_mode("file");
    T(syscall(SYS_fchmodat2, AT_FDCWD, "link", 0600, AT_SYMLINK_NOFOLLOW));
    T(syscall(SYS_fchmodat2, AT_FDCWD, "file", 0600, AT_SYMLINK_NOFOLLOW));
    T(syscall(SYS_fchmodat2, AT_FDCWD, "file", 0600, 0x1));
    T(syscall(SYS_fchmodat2, AT_FDCWD, "", 0755, AT_EMPTY_PATH));
    T(syscall(SYS_fchmodat2, AT_FDCWD, "", 0755, 0));
    show_mode(".");
    KEEP(fd, open("file", O_RDONLY));
    T(fchmod(fd, 0604));
    show_mode("file");
    close(fd);
    T(fchmod(-1, 0));
    T(fchmod(999, 0));
    T(chmod("/proc/self/status", 0600));
    SECTION("chown");
    make("file", 06755, 0, 0);
    T(chown("file", 1000, -1));
    show_mode("file");
    make("file", 06755, 0, 0);
    T(chown("file", -1, 1000));
    show_mode("file");
    make("file", 06745, 0, 0);
    T(chown("file", 1, 1));
    show_mode("file");
    make("file", 06755, 0, 0);
    T(chown("file", -1, -1));
    show_mode("file");
    make("file", 06755, 0, 0);
    T(chown("file", 0, 0));
    show_mode("file");
    T(mkdir("dir", 0755));
    T(chmod("dir", 06755));
    T(chown("dir", 5, 5));
    show_mode("dir");
    T(chown("link", 7, 8));
    show_mode("file");
    show_mode("link");
    T(lchown("link", 9, 10));
    show_mode("link");
    T(fchownat(AT_FDCWD, "link", 11, 12, AT_SYMLINK_NOFOLLOW));
    show_mode("link");
    T(fchownat(AT_FDCWD, "link", 11, 12, 0x1));
    T(fchownat(AT_FDCWD, "", 13, 14, AT_EMPTY_PATH));
    show_mode(".");
    T(chown(".", 0, 0));
    T(chown("none", 0, 0));
    T(fchown(-1, 0, 0));
    T(chown("file", 0x7fffffff, 0x7ffffffe));
    show_mode("file");
    SECTION("set-id bits and writing");
    if (!on_volume()) {
        make("file", 06755, 0, 0);
        KEEP(fd, open("file", O_RDWR));
        T(write(fd, "x", 1));
        close(fd);
        show_mode("file");
    }
    make("file", 06755, 1000, 1000);
    chmod("file", 06777);
    AS_USER({
        KEEP(fd, open("file", O_RDWR));
        T(write(fd, "x", 1));
        show_mode("file");
        T(chmod("file", 06777));
        T(ftruncate(fd, 0));
        show_mode("file");
        T(chmod("file", 06777));
        T(truncate("file", 10));
        show_mode("file");
        T(chmod("file", 06777));
        T(open("file", O_RDWR | O_TRUNC) > 0);
        show_mode("file");
        T(chmod("file", 02767));
        T(write(fd, "x", 1));
        show_mode("file");
        T(chmod("file", 06777));
        T(write(fd, "", 0));
        show_mode("file");
        T(fallocate(fd, 0, 0, 1000));
        show_mode("file");
    });
    SECTION("a user's chmod and chown");
    make("file", 0644, 0, 0);
    make("own", 0600, 1000, 1000);
    make("theirs", 0600, 1000, 3000);
    AS_USER({
        T(chmod("file", 0666));
        T(chown("file", 1000, 1000));
        T(chown("file", -1, -1));
        T(chown("file", 0, 0));
        T(chmod("own", 0644));
        T(chown("own", 0, -1));
        T(chown("own", 1000, -1));
        T(chown("own", -1, 2000));
        show_mode("own");
        T(chown("own", 1000, 3000));
        T(chown("own", -1, 0));
        T(chmod("own", 02755));
        show_mode("own");
        T(chown("own", -1, 1000));
        show_mode("own");
        // A group that is not one's own takes the bit away.
        T(chmod("theirs", 02755));
        show_mode("theirs");
        T(chmod("theirs", 06755));
        show_mode("theirs");
        T(chown("theirs", -1, 3000));
        show_mode("theirs");
    });
    SECTION("umask");
    T(umask(0));
    T(umask(0777));
    T(open("masked", O_CREAT | O_RDWR, 0666) > 0);
    show_mode("masked");
    T(mkdir("masked-dir", 0777));
    show_mode("masked-dir");
    T(umask(01234567));
    T(umask(022));
    T(mknod("node", S_IFREG | 06666, 0));
    show_mode("node");
    T(mkdir("bits", 07777));
    show_mode("bits");
    T(mkfifo("fifo", 07777));
    show_mode("fifo");
    T(open("bits/file", O_CREAT | O_RDWR, 07777) > 0);
    show_mode("bits/file");
    SECTION("set-group-ID directories");
    T(mkdir("sgid", 0777));
    T(chown("sgid", 0, 3000));
    T(chmod("sgid", 02777));
    T(mkdir("sgid/dir", 0755));
    show_mode("sgid/dir");
    T(open("sgid/file", O_CREAT | O_RDWR, 02755) > 0);
    show_mode("sgid/file");
    T(symlink("x", "sgid/link"));
    show_mode("sgid/link");
    T(mkfifo("sgid/fifo", 0644));
    show_mode("sgid/fifo");
    AS_USER({
        T(mkdir("sgid/by-user", 0755));
        show_mode("sgid/by-user");
        // Not a member of the group: no set-group-ID executable of it.
        T(open("sgid/run", O_CREAT | O_RDWR, 02755) > 0);
        show_mode("sgid/run");
        T(open("sgid/locked", O_CREAT | O_RDWR, 02745) > 0);
        show_mode("sgid/locked");
        T(mknod("sgid/node", S_IFREG | 02755, 0));
        show_mode("sgid/node");
        T(open("sgid", O_TMPFILE | O_RDWR, 02755) > 0);
        T(mkdir("sgid/by-user/below", 02755));
        show_mode("sgid/by-user/below");
    });
    SECTION("sticky directories");
    T(mkdir("sticky", 0777));
    T(chmod("sticky", 01777));
    make("sticky/root", 0666, 0, 0);
    make("sticky/user", 0666, 1000, 1000);
    T(mkdir("theirs-dir", 0777));
    T(chmod("theirs-dir", 01777));
    T(chown("theirs-dir", 1000, 1000));
    make("theirs-dir/root", 0600, 0, 0);
    AS_USER({
        T(unlink("sticky/root"));
        T(unlink("sticky/user"));
        T(unlink("theirs-dir/root"));
        T(rmdir("sticky"));
        T(open("sticky/root", O_RDWR) > 0);
        T(open("sticky/new", O_CREAT | O_RDWR, 0644) > 0);
    });
    SECTION("access");
    make("r", 0444, 0, 0);
    make("w", 0222, 0, 0);
    make("x", 0111, 0, 0);
    make("none", 0, 0, 0);
    T(mkdir("closed", 0));
    T(access("r", R_OK | W_OK));
    T(access("none", R_OK | W_OK));
    T(access("none", X_OK));
    T(access("x", R_OK | W_OK | X_OK));
    T(access("closed", R_OK | W_OK | X_OK));
    T(access("r", 8));
    T(access("r", -1));
    T(access("nowhere", F_OK));
    T(access("nowhere", 8));
    T(syscall(SYS_faccessat2, AT_FDCWD, "r", R_OK, 0x1));
    T(syscall(SYS_faccessat2, AT_FDCWD, "link", F_OK, AT_SYMLINK_NOFOLLOW));
    T(syscall(SYS_faccessat2, AT_FDCWD, "link", W_OK | X_OK, AT_SYMLINK_NOFOLLOW));
    T(syscall(SYS_faccessat2, AT_FDCWD, "", R_OK, AT_EMPTY_PATH));
    T(syscall(SYS_faccessat2, -1, "", R_OK, AT_EMPTY_PATH));
    T(access("/proc/self/status", W_OK));
    T(access("/sys", W_OK));
    T(access("/conformance", W_OK));
    T(access("/conformance", R_OK | X_OK));
    T(access("/dev/null", W_OK | R_OK));
    T(access("/dev/null", X_OK));
    AS_USER({
        T(access("r", R_OK));
        T(access("r", W_OK));
        T(access("w", W_OK));
        T(access("w", R_OK | W_OK));
        T(access("x", X_OK));
        T(access("x", R_OK));
        T(access("none", F_OK));
        T(access("none", R_OK));
        T(access("closed", X_OK));
        T(access("closed/x", F_OK));
    });
    CHILD({
        // access(2) asks for the real user, whatever the effective one may.
        T(setresuid(1000, 0, 0));
        T(access("none", R_OK));
        T(syscall(SYS_faccessat2, AT_FDCWD, "none", R_OK, AT_EACCESS));
        T(open("none", O_RDONLY) > 0);
        T(setresuid(0, 1000, 0));
        T(access("none", R_OK));
        T(syscall(SYS_faccessat2, AT_FDCWD, "none", R_OK, AT_EACCESS));
        T(open("none", O_RDONLY));
    });
    CHILD({
        // The file-system user is the one that counts, and set-fsuid drops the rights over files.
        T(syscall(SYS_setfsuid, 1000));
        T(open("none", O_RDONLY));
        T(access("none", R_OK));
        T(syscall(SYS_setfsuid, 0));
        T(open("none", O_RDONLY) > 0);
    });
    SECTION("groups");
    make("by-group", 0070, 0, 2000);
    make("against-group", 0707, 0, 2000);
    AS_USER({
        T(open("by-group", O_RDWR) > 0);
        T(access("by-group", R_OK | W_OK | X_OK));
        T(open("against-group", O_RDONLY));
        T(access("against-group", R_OK));
        T(chmod("by-group", 0777));
    });
    SECTION("devices");
    if (!on_volume()) {
        T(mknod("null", S_IFCHR | 0666, 0x103));
        show_mode("null");
    }
    AS_USER({
        T(mknod("sticky/null", S_IFCHR | 0666, 0x103));
        T(mknod("sticky/block", S_IFBLK | 0666, 0x103));
        T(mkfifo("sticky/fifo", 0644));
        T(mknod("sticky/file", S_IFREG | 0644, 0));
        T(mknod("sticky/file2", 0644, 0));
        T(mknod("sticky/socket", S_IFSOCK | 0644, 0));
        T(mknod("sticky/dir", S_IFDIR | 0755, 0));
        T(mknod("sticky/link", S_IFLNK | 0755, 0));
        T(mknod("sticky/odd", 0170000 | 0755, 0));
    });
    T(mknod("dir-node", S_IFDIR | 0755, 0));
    T(mknod("odd", 0170000 | 0755, 0));
}

int main(void) {
    on_each_place("permissions", suite);
    return 0;
}
