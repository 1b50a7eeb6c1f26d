/* Fails or cuts system calls below one folder; loaded by LD_PRELOAD, steered by a file that all processes map.
 *
 * `harness/shim.py` has the same `struct state` and the names of kinds and actions. Whatever reaches the kernel by a
 * function of libc is seen: Python, Arrow, SQLite, safetensors (Rust), PyTorch; and stdio by `fopen`, `fdopen`,
 * `fwrite` and `fread` (FAISS, numpy), whose streams are made unbuffered so that an `fwrite` is a write. Not seen:
 * pages of a shared mapping as they are written, `fprintf` and `fputs`, io_uring.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN, CREATE, READ, MAP, WRITE, FSYNC, RENAME, LINK, UNLINK, MKDIR, RESIZE, LOCK, KINDS };
enum action { FAIL, CUT, KILL, TORN };

struct state {
    int64_t armed, kind, n, action, error, fired;
    int64_t counts[KINDS];
    char root[1024], where[1024];
};

static struct state *state;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("FAULTS_STATE");
    if (!name) return;
    int fd = syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *found = (void *)syscall(SYS_mmap, NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (found != MAP_FAILED) state = found;
}

static int active(void) { return state && state->armed; }

static int below(const char *path) {
    size_t length = strlen(state->root);
    return !strncmp(path, state->root, length) && (path[length] == '/' || !path[length]);
}

/* The absolute path of a descriptor; 0 if it is none below the folder. */
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, 1023);
    if (size < 0) return 0;
    path[size] = 0;
    return below(path);
}

static int resolved(int dir, const char *name, char *path) {
    if (!name) return 0;
    if (name[0] == '/') {
        if (strlen(name) > 1000) return 0;
        strcpy(path, name);
        size_t size = strlen(path);
        while (size > 1 && path[size - 1] == '/') path[--size] = 0;
        return below(path);
    }
    if (dir == AT_FDCWD) {
        if (syscall(SYS_getcwd, path, 1000) < 0) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, 1000);
        if (size < 0) return 0;
        path[size] = 0;
    }
    if (strlen(path) + strlen(name) > 1000) return 0;
    strcat(path, "/");
    strcat(path, name);
    return below(path);
}

/* Counts a call; 1 if it must fail now (errno is set), 2 if it must be cut in half. Kills where that is the fault. */
static int fault(enum kind kind, const char *path) {
    int saved = errno;
    if (!state->armed) return 0;
    int64_t count = __atomic_add_fetch(&state->counts[kind], 1, __ATOMIC_SEQ_CST);
    if (state->kind != kind || state->n != count) { errno = saved; return 0; }
    state->fired = 1;
    strncpy(state->where, path, sizeof state->where - 1);
    if (state->action == KILL) syscall(SYS_kill, getpid(), SIGKILL);
    if (state->action == CUT || state->action == TORN) return 2;
    errno = state->error;
    return 1;
}

static void torn(void) {
    if (state->action == TORN) syscall(SYS_kill, getpid(), SIGKILL);
}

/* ---- opening */

static int opened(int dir, const char *name, int flags, mode_t mode) {
    char path[1100];
    struct stat about;
    if (!active() || (flags & O_PATH) || !resolved(dir, name, path)) return syscall(SYS_openat, dir, name, flags, mode);
    int there = !syscall(SYS_newfstatat, AT_FDCWD, path, &about, 0), makes = (flags & O_CREAT) && !there;
    if (fault(makes ? CREATE : OPEN, path) == 1) return -1;
    return syscall(SYS_openat, dir, name, flags, mode);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); }

int open(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int openat(int dir, const char *name, int flags, ...) { MODE(flags) return opened(dir, name, flags, mode); }
int openat64(int dir, const char *name, int flags, ...) { MODE(flags) return opened(dir, name, flags, mode); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* ---- stdio: its own calls of open and write do not pass by the functions above */

static FILE *opened_stream(const char *function, const char *name, const char *mode) {
    FILE *(*real)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, function);
    char path[1100];
    struct stat about;
    if (!active() || !resolved(AT_FDCWD, name, path)) return real(name, mode);
    int writes = !!strpbrk(mode, "wa+"), there = !stat(path, &about), makes = writes && !there;
    if (fault(makes ? CREATE : OPEN, path) == 1) return NULL;
    FILE *file = real(name, mode);
    if (file && writes) setvbuf(file, NULL, _IONBF, 0);
    return file;
}

FILE *fopen(const char *name, const char *mode) { return opened_stream("fopen", name, mode); }
FILE *fopen64(const char *name, const char *mode) { return opened_stream("fopen64", name, mode); }

FILE *fdopen(int fd, const char *mode) {
    static FILE *(*real)(int, const char *);
    if (!real) real = (FILE * (*)(int, const char *)) dlsym(RTLD_NEXT, "fdopen");
    char path[1100];
    FILE *file = real(fd, mode);
    if (file && active() && strpbrk(mode, "wa+") && path_of(fd, path)) setvbuf(file, NULL, _IONBF, 0);
    return file;
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    static size_t (*real)(const void *, size_t, size_t, FILE *);
    if (!real) real = (size_t (*)(const void *, size_t, size_t, FILE *))dlsym(RTLD_NEXT, "fwrite");
    char path[1100];
    if (!active() || fileno(file) < 3 || !path_of(fileno(file), path)) return real(data, size, count, file);
    int what = fault(WRITE, path);
    if (what == 1) return 0;
    if (what == 2) {
        size_t done = real(data, 1, size * count / 2, file);
        torn();
        errno = ENOSPC;
        return size ? done / size : 0;
    }
    return real(data, size, count, file);
}

size_t fread(void *data, size_t size, size_t count, FILE *file) {
    static size_t (*real)(void *, size_t, size_t, FILE *);
    if (!real) real = (size_t (*)(void *, size_t, size_t, FILE *))dlsym(RTLD_NEXT, "fread");
    char path[1100];
    if (active() && fileno(file) > 2 && path_of(fileno(file), path) && fault(READ, path) == 1) return 0;
    return real(data, size, count, file);
}

/* ---- reading and mapping */

#define READING(call) \
    char path[1100]; \
    if (active() && path_of(fd, path) && fault(READ, path) == 1) return -1; \
    return call;

ssize_t read(int fd, void *data, size_t size) { READING(syscall(SYS_read, fd, data, size)) }
ssize_t pread(int fd, void *data, size_t size, off_t at) { READING(syscall(SYS_pread64, fd, data, size, at)) }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) { READING(syscall(SYS_pread64, fd, data, size, at)) }
ssize_t readv(int fd, const struct iovec *parts, int count) { READING(syscall(SYS_readv, fd, parts, count)) }

static void *map(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    char path[1100];
    if (active() && fd >= 0 && !(flags & MAP_ANONYMOUS) && path_of(fd, path)) {
        if (fault(MAP, path) == 1) return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    return map(at, size, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
    return map(at, size, protection, flags, fd, offset);
}

/* ---- writing */

static ssize_t written(int fd, const void *data, size_t size, int64_t at) {
    char path[1100];
    int known = active() && path_of(fd, path), what = known ? fault(WRITE, path) : 0;
    if (what == 1) return -1;
    if (what == 2) size = size > 1 ? size / 2 : size;
    ssize_t done = at < 0 ? syscall(SYS_write, fd, data, size) : syscall(SYS_pwrite64, fd, data, size, at);
    if (what == 2) torn();
    return done;
}

ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return written(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return written(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[1100];
    if (!active() || !path_of(fd, path)) return syscall(SYS_writev, fd, parts, count);
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        if (!parts[i].iov_len) continue;
        ssize_t done = written(fd, parts[i].iov_base, parts[i].iov_len, -1);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

static ssize_t sent(int to, int from, off_t *at, size_t size) {
    char path[1100];
    if (!active() || !path_of(to, path)) return syscall(SYS_sendfile, to, from, at, size);
    int what = fault(WRITE, path);
    if (what == 1) return -1;
    ssize_t done = syscall(SYS_sendfile, to, from, at, what == 2 && size > 1 ? 4096 : size);
    if (what == 2) torn();
    return done;
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) { return sent(to, from, at, size); }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { return sent(to, from, at, size); }

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
    char path[1100];
    if (!active() || !path_of(to, path)) return syscall(SYS_copy_file_range, from, from_at, to, to_at, size, flags);
    if (fault(WRITE, path) == 1) return -1;
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, size, flags);
}

static int resized(int fd, const char *name, int64_t size, int64_t allocated) {
    char path[1100];
    int known = active() && (name ? resolved(AT_FDCWD, name, path) : path_of(fd, path));
    if (known && fault(RESIZE, path) == 1) return -1;
    return name ? syscall(SYS_truncate, name, size)
        : allocated ? syscall(SYS_fallocate, fd, 0, size, allocated) : syscall(SYS_ftruncate, fd, size);
}
int ftruncate(int fd, off_t size) { return resized(fd, NULL, size, 0); }
int ftruncate64(int fd, off64_t size) { return resized(fd, NULL, size, 0); }
int truncate(const char *name, off_t size) { return resized(-1, name, size, 0); }
int truncate64(const char *name, off64_t size) { return resized(-1, name, size, 0); }
int posix_fallocate(int fd, off_t at, off_t size) { return resized(fd, NULL, at, size) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t size) { return resized(fd, NULL, at, size) ? errno : 0; }

static int synced(int fd, long call) {
    char path[1100];
    if (!active() || !path_of(fd, path)) return syscall(call, fd);
    if (fault(FSYNC, path) == 1) return -1;
    /* Nobody pulls the plug, and the disk of a test need not be busy. */
    return 0;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

/* ---- names */

static int renamed(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char old[1100], new[1100];
    int known = active() && (resolved(to_dir, to, new) & resolved(from_dir, from, old));
    if (known && fault(RENAME, new) == 1) return -1;
    return syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return renamed(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return renamed(a, from, b, to, flags); }

static int linked(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char old[1100], new[1100];
    int known = active() && (resolved(to_dir, to, new) & resolved(from_dir, from, old));
    if (known && fault(LINK, new) == 1) return -1;
    return syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}
int link(const char *from, const char *to) { return linked(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int a, const char *from, int b, const char *to, int flags) { return linked(a, from, b, to, flags); }

static int removed(int dir, const char *name, int flags) {
    char path[1100];
    int known = active() && resolved(dir, name, path);
    if (known && fault(UNLINK, path) == 1) return -1;
    return syscall(SYS_unlinkat, dir, name, flags);
}
int unlink(const char *name) { return removed(AT_FDCWD, name, 0); }
int unlinkat(int dir, const char *name, int flags) { return removed(dir, name, flags); }
int rmdir(const char *name) { return removed(AT_FDCWD, name, AT_REMOVEDIR); }

static int made(int dir, const char *name, mode_t mode) {
    char path[1100];
    struct stat about;
    int known = active() && resolved(dir, name, path);
    if (known && syscall(SYS_newfstatat, AT_FDCWD, path, &about, 0) && fault(MKDIR, path) == 1) return -1;
    return syscall(SYS_mkdirat, dir, name, mode);
}
int mkdir(const char *name, mode_t mode) { return made(AT_FDCWD, name, mode); }
int mkdirat(int dir, const char *name, mode_t mode) { return made(dir, name, mode); }

/* ---- locks */

int flock(int fd, int how) {
    char path[1100];
    if (active() && path_of(fd, path) && fault(LOCK, path) == 1) return -1;
    return syscall(SYS_flock, fd, how);
}

static int controlled(int fd, int command, void *argument) {
    char path[1100];
    int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    if (locks && active() && path_of(fd, path) && fault(LOCK, path) == 1) return -1;
    return syscall(SYS_fcntl, fd, command, argument);
}
#define ARGUMENT va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
int fcntl(int fd, int command, ...) { ARGUMENT return controlled(fd, command, argument); }
int fcntl64(int fd, int command, ...) { ARGUMENT return controlled(fd, command, argument); }
