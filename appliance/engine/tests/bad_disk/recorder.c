/*
 * Loaded into a process before its C library: writes down, in order, everything the process does to the
 * files below one folder, and can play a disk in trouble.
 *
 *   RECORD_ROOT     the folder; it must be empty at first, and named without symbolic links
 *   RECORD_LOG      where to write it down: struct record, then `length` bytes
 *   RECORD_TROUBLE  a file; while it begins with
 *                     'f'  every write answers ENOSPC
 *                     's'  every write of a kilobyte or more takes only half, the others answer ENOSPC
 *                     'y'  every sync answers EIO
 *
 * One lock is held around each call and its record, so the record has the order of the calls. Ways to
 * change a file that are not understood are recorded as such, and the reader of the log refuses it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, MKDIR, WRITE, SYNC, TRUNCATE, RENAME, UNLINK, NOT_UNDERSTOOD };

struct record {
    uint32_t kind;
    uint32_t synced; /* WRITE: durable when it returns */
    uint64_t file;   /* inode */
    uint64_t offset; /* WRITE: where; TRUNCATE: new length */
    uint64_t length; /* bytes that follow: data, or path, or old path, zero, new path */
};

#define FILES_MAX 65536
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t files[FILES_MAX];
static int file_count;
static dev_t device;
static const char *root, *trouble;
static int log_fd = -1;
static int ready;

static void prepare(void) {
    if (ready) return;
    ready = 1;
    root = getenv("RECORD_ROOT");
    trouble = getenv("RECORD_TROUBLE");
    const char *log = getenv("RECORD_LOG");
    struct stat st;
    if (!root || !log || stat(root, &st) != 0) { root = NULL; return; }
    device = st.st_dev;
    files[file_count++] = st.st_ino;
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) abort();
}

static void enter(void) { pthread_mutex_lock(&lock); prepare(); }
static void leave(void) { int kept = errno; pthread_mutex_unlock(&lock); errno = kept; }

static void put(const void *bytes, size_t length) {
    while (length > 0) {
        long done = syscall(SYS_write, log_fd, bytes, length);
        if (done < 0) { if (errno == EINTR) continue; abort(); }
        bytes = (const char *)bytes + done;
        length -= (size_t)done;
    }
}

static void note(uint32_t kind, uint32_t synced, uint64_t file, uint64_t offset, const void *bytes,
                 size_t length) {
    int kept = errno;
    struct record r = {kind, synced, file, offset, length};
    put(&r, sizeof r);
    put(bytes, length);
    errno = kept;
}

/* The inode behind a descriptor, or 0 if it is not ours. */
static uint64_t ours(int fd) {
    struct stat st;
    int kept = errno;
    uint64_t found = 0;
    if (root && fstat(fd, &st) == 0 && st.st_dev == device)
        for (int i = 0; i < file_count; i++)
            if (files[i] == st.st_ino) found = st.st_ino;
    errno = kept;
    return found;
}

static void adopt(uint64_t file) {
    if (file_count == FILES_MAX) abort();
    files[file_count++] = file;
}

static void forget(uint64_t file) {
    for (int i = 0; i < file_count; i++)
        if (files[i] == file) { files[i] = files[--file_count]; return; }
}

/* The whole path of a name, whatever folder it is relative to. */
static int whole(int folder, const char *name, char *path) {
    char link[64], base[PATH_MAX];
    if (name[0] == '/') return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n < 0) return 0;
        base[n] = 0;
    }
    return snprintf(path, PATH_MAX, "%s/%s", base, name) < PATH_MAX;
}

static int below(const char *path) {
    size_t n = root ? strlen(root) : 0;
    return n && strncmp(path, root, n) == 0 && path[n] == '/';
}

static char mood(void) {
    char c = 0;
    if (!trouble) return 0;
    int kept = errno;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, trouble, O_RDONLY | O_CLOEXEC, 0);
    if (fd >= 0) { if (syscall(SYS_read, fd, &c, 1) != 1) c = 0; syscall(SYS_close, fd); }
    errno = kept;
    return c;
}

static int opened(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    struct stat st;
    enter();
    int mine = root && whole(folder, name, path) && below(path);
    int was = mine && stat(path, &st) == 0;
    int fd = (int)syscall(SYS_openat, folder, name, flags, mode);
    if (mine && fd >= 0 && fstat(fd, &st) == 0) {
        if (!was) { adopt(st.st_ino); note(CREATE, 0, st.st_ino, 0, path, strlen(path)); }
        else if ((flags & O_TRUNC) && S_ISREG(st.st_mode)) note(TRUNCATE, 0, st.st_ino, 0, "", 0);
    }
    leave();
    return fd;
}

#define OPENED(folder, name) \
    mode_t mode = 0; \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
    return opened(folder, name, flags, mode)

int open(const char *name, int flags, ...) { OPENED(AT_FDCWD, name); }
int open64(const char *name, int flags, ...) { OPENED(AT_FDCWD, name); }
int openat(int folder, const char *name, int flags, ...) { OPENED(folder, name); }
int openat64(int folder, const char *name, int flags, ...) { OPENED(folder, name); }

/* One write of several parts, at `at` or, if that is negative, where the descriptor stands. */
static ssize_t written(int fd, const struct iovec *parts, int count, off_t at) {
    enter();
    uint64_t file = ours(fd);
    if (!file) {
        leave();
        return at < 0 ? syscall(SYS_writev, fd, parts, count)
                      : syscall(SYS_pwritev, fd, parts, count, (long)at, 0L);
    }
    size_t total = 0;
    for (int i = 0; i < count; i++) total += parts[i].iov_len;
    char *joined = malloc(total ? total : 1);
    if (!joined) abort();
    size_t filled = 0;
    for (int i = 0; i < count; i++) {
        memcpy(joined + filled, parts[i].iov_base, parts[i].iov_len);
        filled += parts[i].iov_len;
    }
    int flags = fcntl(fd, F_GETFL);
    off_t place = at;
    if (at < 0) {
        struct stat st;
        place = (flags & O_APPEND) && fstat(fd, &st) == 0 ? st.st_size : lseek(fd, 0, SEEK_CUR);
    }
    char now = mood();
    ssize_t done;
    if (now == 'f' || (now == 's' && total < 1024)) {
        errno = ENOSPC;
        done = -1;
    } else {
        size_t wanted = now == 's' ? total / 2 : total;
        done = at < 0 ? syscall(SYS_write, fd, joined, wanted)
                      : syscall(SYS_pwrite64, fd, joined, wanted, (long)at);
    }
    if (done > 0) note(WRITE, (flags & O_DSYNC) != 0, file, (uint64_t)place, joined, (size_t)done);
    int kept = errno;
    free(joined);
    errno = kept;
    leave();
    return done;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct iovec part = {(void *)bytes, length};
    return written(fd, &part, 1, -1);
}
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    struct iovec part = {(void *)bytes, length};
    return written(fd, &part, 1, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    struct iovec part = {(void *)bytes, length};
    return written(fd, &part, 1, at);
}
ssize_t writev(int fd, const struct iovec *parts, int count) { return written(fd, parts, count, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    return written(fd, parts, count, at);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    return written(fd, parts, count, at);
}

static int synced(int fd, long call) {
    enter();
    uint64_t file = ours(fd);
    int done;
    if (file && mood() == 'y') { errno = EIO; done = -1; }
    else done = (int)syscall(call, fd);
    if (file && done == 0) note(SYNC, 0, file, 0, "", 0);
    leave();
    return done;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }
/* sync_file_range is not wrapped: it promises nothing that survives a power cut. */

static int truncated(int fd, off64_t length) {
    enter();
    uint64_t file = ours(fd);
    int done = (int)syscall(SYS_ftruncate, fd, (long)length);
    if (file && done == 0) note(TRUNCATE, 0, file, (uint64_t)length, "", 0);
    leave();
    return done;
}
int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncated(fd, length); }

static int renamed(int from, const char *old, int to, const char *new, unsigned flags) {
    char paths[2 * PATH_MAX + 1], target[PATH_MAX];
    struct stat st;
    enter();
    int mine = root && whole(from, old, paths) && whole(to, new, target) && below(paths);
    uint64_t replaced = mine && stat(target, &st) == 0 ? st.st_ino : 0;
    int done = (int)syscall(SYS_renameat2, from, old, to, new, flags);
    if (mine && done == 0) {
        size_t n = strlen(paths);
        memcpy(paths + n + 1, target, strlen(target));
        note(flags ? NOT_UNDERSTOOD : RENAME, 0, 0, 0, paths, n + 1 + strlen(target));
        if (replaced) forget(replaced);
    }
    leave();
    return done;
}
int rename(const char *old, const char *new) { return renamed(AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int from, const char *old, int to, const char *new) {
    return renamed(from, old, to, new, 0);
}
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    return renamed(from, old, to, new, flags);
}

static int unlinked(int folder, const char *name, int flags) {
    char path[PATH_MAX];
    struct stat st;
    enter();
    int mine = root && whole(folder, name, path) && below(path) && lstat(path, &st) == 0;
    int done = (int)syscall(SYS_unlinkat, folder, name, flags);
    if (mine && done == 0) {
        note(UNLINK, 0, st.st_ino, 0, path, strlen(path));
        forget(st.st_ino);
    }
    leave();
    return done;
}
int unlink(const char *name) { return unlinked(AT_FDCWD, name, 0); }
int unlinkat(int folder, const char *name, int flags) { return unlinked(folder, name, flags); }
int rmdir(const char *name) { return unlinked(AT_FDCWD, name, AT_REMOVEDIR); }

static int made(int folder, const char *name, mode_t mode) {
    char path[PATH_MAX];
    struct stat st;
    enter();
    int done = (int)syscall(SYS_mkdirat, folder, name, mode);
    if (done == 0 && root && whole(folder, name, path) && below(path) && stat(path, &st) == 0) {
        adopt(st.st_ino);
        note(MKDIR, 0, st.st_ino, 0, path, strlen(path));
    }
    leave();
    return done;
}
int mkdir(const char *name, mode_t mode) { return made(AT_FDCWD, name, mode); }
int mkdirat(int folder, const char *name, mode_t mode) { return made(folder, name, mode); }

/* What would change a file past us. LMDB's lock file is rebuilt at every opening and need not be seen. */
static void unseen(int fd, const char *how) {
    char link[64], path[PATH_MAX];
    enter();
    uint64_t file = ours(fd);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = file ? readlink(link, path, sizeof path - 1) : -1;
    if (n > 0) {
        path[n] = 0;
        const char *name = strrchr(path, '/');
        if (!name || strcmp(name, "/lock.mdb") != 0)
            note(NOT_UNDERSTOOD, 0, file, 0, how, strlen(how));
    }
    leave();
}
void *mmap64(void *at, size_t length, int access, int flags, int fd, off64_t offset) {
    if (fd >= 0 && (access & PROT_WRITE) && (flags & MAP_SHARED)) unseen(fd, "mmap");
    return (void *)syscall(SYS_mmap, at, length, access, flags, fd, offset);
}
void *mmap(void *at, size_t length, int access, int flags, int fd, off_t offset) {
    return mmap64(at, length, access, flags, fd, offset);
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    unseen(fd, "fallocate");
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}
int fallocate(int fd, int mode, off_t offset, off_t length) {
    return fallocate64(fd, mode, offset, length);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags) {
    unseen(out, "copy_file_range");
    return syscall(SYS_copy_file_range, in, from, out, to, length, flags);
}
ssize_t sendfile64(int out, int in, off64_t *from, size_t length) {
    unseen(out, "sendfile");
    return syscall(SYS_sendfile, out, in, from, length);
}
