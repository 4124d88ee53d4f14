/* Counts the calls that change files under one folder, and makes the n-th of them fail.
 *
 *   cc -shared -fPIC -O1 -o shim.so shim.c -ldl      LD_PRELOAD=shim.so python …
 *
 * `shim_arm(folder, n, fault)` starts counting anew: `fault` is an errno, of which ENOSPC lasts (the disk stays full
 * until `shim_arm` is called again) and is preceded by a short write, others strike once; or -1, which kills the
 * process, half-way through where it writes. `n` = 0 only counts. `shim_count()` says how many calls there were.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PASS, FAIL, HALF };
static char root[PATH_MAX];
static size_t length;
static long strike;
static int fault;
static atomic_long calls;

void shim_arm(const char *folder, long n, int what)
{
    strncpy(root, folder, sizeof root - 1);
    length = strlen(root);
    strike = n;
    fault = what;
    atomic_store(&calls, 0);
}

long shim_count(void) { return atomic_load(&calls); }

static int under(const char *path)
{
    return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static int ours(int fd)
{
    char link[64], path[PATH_MAX];
    if (!length)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return under(path);
}

static int ours_at(int folder, const char *path)
{
    return length && (path[0] == '/' ? under(path) : folder != AT_FDCWD && ours(folder));
}

/* What is to become of a call: `grows` where it takes room on the disk, `writes` where it can be done by half. */
static int fate(int mine, int grows, int writes)
{
    if (!mine)
        return PASS;
    int before = errno;
    long now = atomic_fetch_add(&calls, 1) + 1;
    errno = before;
    if (!strike || now < strike || (now > strike && (fault != ENOSPC || !grows)))
        return PASS;
    if (writes && now == strike && (fault == -1 || fault == ENOSPC))
        return HALF;
    if (fault == -1)
        kill(getpid(), SIGKILL);
    errno = fault;
    return FAIL;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define WRITE(name, more, given) \
    ssize_t name(int fd, const void *data, size_t size more) \
    { \
        REAL(name); \
        int is = fate(ours(fd), 1, size > 1); \
        if (is == FAIL) \
            return -1; \
        ssize_t done = real(fd, data, is == HALF ? size / 2 : size given); \
        if (is == HALF && fault == -1) \
            kill(getpid(), SIGKILL); \
        return done; \
    }
#define COMMA ,
WRITE(write, , )
WRITE(pwrite, COMMA off_t at, COMMA at)
WRITE(pwrite64, COMMA off64_t at, COMMA at)

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    return fate(ours(fd), 1, 0) ? -1 : real(fd, parts, count);
}

#define ON_FD(name) \
    int name(int fd) \
    { \
        REAL(name); \
        return fate(ours(fd), 1, 0) ? -1 : real(fd); \
    }
ON_FD(fsync)
ON_FD(fdatasync)

#define TRUNCATE(name, type) \
    int name(int fd, type size) \
    { \
        REAL(name); \
        return fate(ours(fd), 0, 0) ? -1 : real(fd, size); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return flags & O_CREAT && fate(under(path), 1, 0) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPEN_AT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return flags & O_CREAT && fate(ours_at(folder, path), 1, 0) ? -1 : real(folder, path, flags, mode); \
    }
OPEN_AT(openat)
OPEN_AT(openat64)

#define ON_PATH(name, grows, more, given) \
    int name(const char *path more) \
    { \
        REAL(name); \
        return fate(under(path), grows, 0) ? -1 : real(path given); \
    }
ON_PATH(unlink, 0, , )
ON_PATH(rmdir, 0, , )
ON_PATH(mkdir, 1, COMMA mode_t mode, COMMA mode)
ON_PATH(rename, 0, COMMA const char *to, COMMA to)
ON_PATH(link, 1, COMMA const char *to, COMMA to)

int renameat(int from, const char *path, int folder, const char *to)
{
    REAL(renameat);
    return fate(ours_at(from, path), 0, 0) ? -1 : real(from, path, folder, to);
}

int unlinkat(int folder, const char *path, int flags)
{
    REAL(unlinkat);
    return fate(ours_at(folder, path), 0, 0) ? -1 : real(folder, path, flags);
}
