// Directories: listing with buffers of every size, listing what changes meanwhile, working directories, making and removing.
#include "places.h"
#include <dirent.h>

struct entry {
    uint64_t inode;
    int64_t next;
    uint16_t length;
    uint8_t kind;
    char name[];
};

static int compare(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

// Lists a directory in pieces of this size; prints the names in order, with their types.
static void list(int fd, size_t size) {
    static char buffer[40000];
    static char names[3000][40];
    static char *order[3000];
    int count = 0, calls = 0;
    for (;;) {
        long got = syscall(SYS_getdents64, fd, buffer, size);
        calls++;
        if (got < 0) printf("getdents64: %s\n", check_error(errno));
        if (got <= 0) break;
        for (long at = 0; at < got;) {
            struct entry *entry = (void *)(buffer + at);
            if (count < 3000) {
                snprintf(names[count], 40, "%s/%d", entry->name, entry->kind);
                order[count] = names[count];
                count++;
            }
            if (entry->length % 8) printf("odd length\n");
            at += entry->length;
        }
    }
    qsort(order, count, sizeof *order, compare);
    printf("%d:", count);
    for (int i = 0; i < count && i < 30; i++) printf(" %s", order[i]);
    printf("\n");
}

static void suite(void) {
    int fd, other;
    struct stat s;
    char buffer[4096];
    SECTION("listing");
    T(mkdir("dir", 0755));
    KEEP(fd, open("dir", O_RDONLY | O_DIRECTORY));
    list(fd, 4096);
    T(syscall(SYS_getdents64, fd, buffer, 4096));
    make_file("dir/file", "x");
    T(mkdir("dir/sub", 0755));
    T(symlink("x", "dir/link"));
    T(mkfifo("dir/fifo", 0644));
    T(mknod("dir/socket", S_IFSOCK | 0644, 0));
    T(mkdir("dir/a name of some length that fills it", 0755));
    T(lseek(fd, 0, SEEK_SET));
    list(fd, 4096);
    T(lseek(fd, 0, SEEK_SET));
    list(fd, 64);
    T(lseek(fd, 0, SEEK_SET));
    T(syscall(SYS_getdents64, fd, buffer, 0));
    T(syscall(SYS_getdents64, fd, buffer, 23));
    T(syscall(SYS_getdents64, fd, buffer, 24));
    T(syscall(SYS_getdents64, fd, (void *)8, 4096));
    T(syscall(SYS_getdents64, -1, buffer, 4096));
    T(lseek(fd, 0, SEEK_SET));
    T(syscall(SYS_getdents, fd, buffer, 24));
    T(syscall(SYS_getdents, fd, buffer, 10));
    close(fd);
    KEEP(fd, open("dir/file", O_RDONLY));
    T(syscall(SYS_getdents64, fd, buffer, 4096));
    T(syscall(SYS_getdents, fd, buffer, 4096));
    close(fd);
    int p[2];
    T(pipe(p));
    T(syscall(SYS_getdents64, p[0], buffer, 4096));
    close(p[0]);
    close(p[1]);
    SECTION("many entries");
    T(mkdir("many", 0755));
    for (int i = 0; i < 2000; i++) {
        sprintf(buffer, "many/entry-%d", i);
        close(open(buffer, O_CREAT | O_WRONLY, 0644));
    }
    KEEP(fd, open("many", O_RDONLY));
    list(fd, 32768);
    T(lseek(fd, 0, SEEK_SET));
    list(fd, 50);
    close(fd);
    SECTION("positions");
    DIR *stream = opendir("many");
    char first[40], again[40];
    for (int i = 0; i < 500; i++) readdir(stream);
    long place = telldir(stream);
    strcpy(first, readdir(stream)->d_name);
    for (int i = 0; i < 700; i++) readdir(stream);
    seekdir(stream, place);
    strcpy(again, readdir(stream)->d_name);
    IS(!strcmp(first, again));
    rewinddir(stream);
    int count = 0;
    while (readdir(stream)) count++;
    T(count);
    closedir(stream);
    SECTION("changes meanwhile");
    // What is there from beginning to end is listed once; removing while listing finds everything.
    stream = opendir("many");
    struct dirent *entry;
    int removed = 0;
    while ((entry = readdir(stream))) {
        if (entry->d_name[0] == '.') continue;
        if (!unlinkat(dirfd(stream), entry->d_name, 0)) removed++;
    }
    T(removed);
    closedir(stream);
    T(rmdir("many"));
    T(mkdir("changing", 0755));
    for (int i = 0; i < 300; i++) {
        sprintf(buffer, "changing/stays-%d", i);
        close(open(buffer, O_CREAT | O_WRONLY, 0644));
    }
    KEEP(fd, open("changing", O_RDONLY));
    int stays = 0, calls = 0;
    char small[256];
    for (;;) {
        long got = syscall(SYS_getdents64, fd, small, sizeof small);
        if (got <= 0) break;
        for (long at = 0; at < got; at += ((struct entry *)(small + at))->length) stays += !strncmp(((struct entry *)(small + at))->name, "stays", 5);
        if (calls++ < 100) {
            sprintf(buffer, "changing/new-%d", calls);
            close(open(buffer, O_CREAT | O_WRONLY, 0644));
            sprintf(buffer, "changing/new-%d", calls - 1);
            unlink(buffer);
        }
    }
    T(stays);
    // A new listing sees what is new.
    T(lseek(fd, 0, SEEK_SET));
    T(unlink("changing/stays-0"));
    T(open("changing/fresh", O_CREAT | O_WRONLY, 0644) > 0);
    stays = 0;
    int fresh = 0;
    for (;;) {
        long got = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
        if (got <= 0) break;
        for (long at = 0; at < got; at += ((struct entry *)(buffer + at))->length) {
            stays += !strncmp(((struct entry *)(buffer + at))->name, "stays", 5);
            fresh += !strcmp(((struct entry *)(buffer + at))->name, "fresh");
        }
    }
    T(stays);
    T(fresh);
    close(fd);
    SECTION("numbers");
    KEEP(fd, open("dir", O_RDONLY));
    long got = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
    int same = 0, different = 0;
    for (long at = 0; at < got; at += ((struct entry *)(buffer + at))->length) {
        struct entry *e = (void *)(buffer + at);
        if (fstatat(fd, e->name, &s, AT_SYMLINK_NOFOLLOW)) continue;
        if (s.st_ino == e->inode) same++;
        else different++;
    }
    printf("%d same, %d different\n", same, different);
    close(fd);
    SECTION("links of directories");
    T(stat("dir", &s));
    IS(s.st_nlink == 4 || s.st_nlink == 1);
    T(mkdir("dir/third", 0755));
    T(rmdir("dir/third"));
    T(rmdir("dir"));
    T(mkdir("dir", 0755));
    T(mkdir("dir/x/y", 0755));
    T(mkdir("dir/file/y", 0755));
    SECTION("working directories");
    T(mkdir("here", 0755));
    T(chdir("here"));
    char cwd[4096] = "";
    T(syscall(SYS_getcwd, cwd, sizeof cwd) > 0);
    IS(strstr(cwd, "/conformance-directories/here"));
    T(syscall(SYS_getcwd, cwd, 0));
    T(syscall(SYS_getcwd, cwd, 1));
    T(syscall(SYS_getcwd, cwd, strlen(cwd)));
    T(syscall(SYS_getcwd, cwd, strlen(cwd) + 1) > 0);
    T(syscall(SYS_getcwd, 0, 100));
    T(syscall(SYS_getcwd, (void *)8, 100));
    T(rename("../here", "../there"));
    T(syscall(SYS_getcwd, cwd, sizeof cwd) > 0);
    IS(strstr(cwd, "/conformance-directories/there"));
    T(mkdir("inside", 0755));
    T(stat("../there/inside", &s));
    T(chdir("inside"));
    T(rename("../../there", "../../back"));
    T(syscall(SYS_getcwd, cwd, sizeof cwd) > 0);
    IS(strstr(cwd, "/conformance-directories/back/inside"));
    T(rmdir("../inside"));
    T(syscall(SYS_getcwd, cwd, sizeof cwd));
    T(stat(".", &s));
    T(s.st_nlink);
    T(stat("..", &s));
    T(open(".", O_RDONLY) > 0);
    T(open("x", O_CREAT | O_RDWR, 0644));
    T(mkdir("x", 0755));
    T(chdir("."));
    T(chdir(".."));
    T(syscall(SYS_getcwd, cwd, sizeof cwd) > 0);
    IS(strstr(cwd, "/conformance-directories/back"));
    KEEP(fd, open(".", O_RDONLY));
    T(chdir(".."));
    T(rmdir("back"));
    T(fchdir(fd));
    T(syscall(SYS_getcwd, cwd, sizeof cwd));
    close(fd);
    T(chdir("/"));
    char path[200];
    sprintf(path, "/proc/self/cwd");
    memset(cwd, 0, sizeof cwd);
    T(readlink(path, cwd, sizeof cwd));
    printf("%s\n", cwd);
    SECTION("chroot");
    T(chroot("/etc/passwd"));
    T(chroot("/none"));
    CHILD({
        T(chdir("/etc"));
        T(chroot("/usr"));
        // The working directory is outside now.
        memset(cwd, 0, sizeof cwd);
        T(syscall(SYS_getcwd, cwd, sizeof cwd) > 0);
        printf("%s\n", cwd);
        T(stat("passwd", &s));
        T(stat("../usr", &s));
        T(chdir("/"));
        T(stat("bin/env", &s));
        T(stat("../../bin/env", &s));
        T(stat("/etc/passwd", &s));
        T(syscall(SYS_getcwd, cwd, sizeof cwd));
        printf("%s\n", cwd);
    });
    AS_USER({
        T(chroot("/"));
        T(chroot("/none"));
    });
}

int main(void) {
    on_each_place("directories", suite);
    return 0;
}
