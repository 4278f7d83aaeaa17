/* A file system that fails when it is told to: loaded in front of the C library by LD_PRELOAD.

   Every call that changes something in a folder is counted, whoever makes it, Python or SQLite. `faulty_arm` says what
   the n-th of them does: fail, find the disk full, or be the last thing the process group does. All others go through.
   Linux. No privilege is needed, unlike for ptrace. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum action {
    FAIL, /* this call fails, and does nothing */
    FULL, /* a write writes half of what it should, and everything after it fails */
    KILL, /* SIGKILL of the process group before the call */
    TEAR, /* SIGKILL after it, and a write writes only half */
};

static char folder[4096];
static enum action action;
static int error;
static long nth, count;

void faulty_arm(const char *path, long at, int what, int with) {
    snprintf(folder, sizeof folder, "%s", path);
    nth = at, action = what, error = with, count = 0;
}

long faulty_disarm(void) { /* how many calls there were */
    folder[0] = 0;
    return count;
}

static int within(const char *path) {
    size_t length = strlen(folder);
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int of(int fd) { /* descriptors are asked where they lead: nobody needs to keep account of them */
    char link[64], path[4096];
    if (!folder[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return within(path);
}

static void die(void) {
    kill(0, SIGKILL);
    for (;;)
        pause();
}

/* Whether this is a call that something happens to. One that fails has set errno; one that is torn dies in `after`. */
enum fate { GOES_ON, FAILS, HALF, LAST };

static enum fate fate(int is_write) {
    if (++count < nth || (count > nth && action != FULL))
        return GOES_ON;
    if (action == KILL)
        die();
    if (action == TEAR)
        return LAST;
    if (action == FULL && is_write && count == nth)
        return HALF;
    errno = error;
    return FAILS;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* A call that either is done or not. */
#define ALL_OR_NOTHING(concerned, call)                                                                                \
    enum fate now = (concerned) ? fate(0) : GOES_ON;                                                                   \
    if (now == FAILS)                                                                                                  \
        return -1;                                                                                                     \
    int result = call;                                                                                                 \
    if (now == LAST)                                                                                                   \
        die();                                                                                                         \
    return result;

/* A call that may be done by half. */
#define WRITES(fd, size, call, half)                                                                                   \
    enum fate now = of(fd) ? fate(1) : GOES_ON;                                                                        \
    if (now == GOES_ON)                                                                                                \
        return call;                                                                                                   \
    if (now == FAILS)                                                                                                  \
        return -1;                                                                                                     \
    ssize_t result = half;                                                                                             \
    if (now == LAST)                                                                                                   \
        die();                                                                                                         \
    return result;

ssize_t write(int fd, const void *data, size_t size) {
    WRITES(fd, size, REAL(write)(fd, data, size), REAL(write)(fd, data, size / 2))
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    WRITES(fd, size, REAL(pwrite)(fd, data, size, at), REAL(pwrite)(fd, data, size / 2, at))
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    WRITES(fd, size, REAL(pwrite64)(fd, data, size, at), REAL(pwrite64)(fd, data, size / 2, at))
}

int fsync(int fd) { ALL_OR_NOTHING(of(fd), REAL(fsync)(fd)) }
int fdatasync(int fd) { ALL_OR_NOTHING(of(fd), REAL(fdatasync)(fd)) }
int ftruncate(int fd, off_t size) { ALL_OR_NOTHING(of(fd), REAL(ftruncate)(fd, size)) }
int ftruncate64(int fd, off64_t size) { ALL_OR_NOTHING(of(fd), REAL(ftruncate64)(fd, size)) }
int fchmod(int fd, mode_t mode) { ALL_OR_NOTHING(of(fd), REAL(fchmod)(fd, mode)) }
int fchown(int fd, uid_t user, gid_t group) { ALL_OR_NOTHING(of(fd), REAL(fchown)(fd, user, group)) }
int unlink(const char *path) { ALL_OR_NOTHING(within(path), REAL(unlink)(path)) }
int link(const char *path, const char *to) { ALL_OR_NOTHING(within(to), REAL(link)(path, to)) }
int rename(const char *path, const char *to) { ALL_OR_NOTHING(within(to), REAL(rename)(path, to)) }

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;                                                      \
        va_end(more);                                                                                                  \
        ALL_OR_NOTHING((flags & O_CREAT) && within(path), REAL(name)(path, flags, mode))                               \
    }
OPENS(open)
OPENS(open64)
