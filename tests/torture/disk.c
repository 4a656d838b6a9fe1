/* A disk between a program and its folder: it records every write, or refuses some.

Loaded with LD_PRELOAD. Watches the folder EDGEMEM_DISK_FOLDER. Where EDGEMEM_DISK_LOG names a file,
each change of a watched file is appended to it, in the order in which changes were made:

    kind (char), file (int32), offset (int64), length (int32), and that many bytes

    O  opened: file is the number of this opening, offset 1 where it made the file; bytes: its name
    W  written; T  cut or grown to offset; S  synced (a folder, where its name is ".")
    U  name removed; R  renamed: both names, each with a 0 behind it

disk_refuse(after, code, kind) lets so many more calls through and refuses those that follow, until
it is called again with -1. kind 'w': whatever needs space (the first write that is refused is
written in half, as on a disk that fills up); 's': syncs. disk_left() is how many are left;
disk_refused() counts what was refused since. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096
#define REAL(name) ((__typeof__(&name))real(#name))

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static const char *folder;
static size_t folder_length;
static int log_file = -1, openings;
static int opening[FILES]; /* by descriptor; 0 is none of ours */
static long left = -1, refused;
static int refusal;
static char refused_kind;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void)
{
    const char *log = getenv("EDGEMEM_DISK_LOG");
    folder = getenv("EDGEMEM_DISK_FOLDER");
    folder_length = folder ? strlen(folder) : 0;
    if (folder && log)
        log_file = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

void disk_refuse(long after, int code, char kind)
{
    pthread_mutex_lock(&turn);
    left = after, refusal = code, refused_kind = kind, refused = 0;
    pthread_mutex_unlock(&turn);
}

long disk_refused(void) { return refused; }
long disk_left(void) { return left; }

/* Whether this call is refused; those before it use up what is left. */
static int refuse(char kind)
{
    if (left < 0 || kind != refused_kind)
        return 0;
    if (left > 0) {
        left--;
        return 0;
    }
    refused++;
    errno = refusal;
    return 1;
}

static const char *name_of(const char *path)
{
    if (!folder || strncmp(path, folder, folder_length))
        return NULL;
    if (!path[folder_length])
        return ".";
    return path[folder_length] == '/' ? path + folder_length + 1 : NULL;
}

static int ours(int file) { return file >= 0 && file < FILES ? opening[file] : 0; }

static void record(char kind, int32_t file, int64_t offset, const void *bytes, int32_t length)
{
    struct iovec parts[] = {
        {&kind, 1}, {&file, 4}, {&offset, 8}, {&length, 4}, {(void *)bytes, length},
    };
    if (log_file >= 0 && writev(log_file, parts, 5) != 17 + length)
        abort(); /* a log with a hole would prove nothing */
}

static int opened(const char *path, int flags, mode_t mode)
{
    const char *name = name_of(path);
    int found, made;
    if (!name) {
        found = REAL(open64)(path, flags, mode);
        if (found >= 0 && found < FILES)
            opening[found] = 0;
        return found;
    }
    pthread_mutex_lock(&turn);
    made = (flags & O_CREAT) && REAL(access)(path, F_OK) != 0;
    found = made && refuse('w') ? -1 : REAL(open64)(path, flags, mode);
    if (found >= FILES)
        abort();
    if (found >= 0) {
        opening[found] = ++openings;
        record('O', openings, made, name, strlen(name));
        if (flags & O_TRUNC)
            record('T', openings, 0, "", 0);
    }
    pthread_mutex_unlock(&turn);
    return found;
}

#define OPEN(name)                                   \
    int name(const char *path, int flags, ...)       \
    {                                                \
        va_list more;                                \
        mode_t mode = 0;                             \
        va_start(more, flags);                       \
        if (flags & (O_CREAT | O_TMPFILE))           \
            mode = va_arg(more, mode_t);             \
        va_end(more);                                \
        return opened(path, flags, mode);            \
    }
OPEN(open)
OPEN(open64)

int close(int file)
{
    if (ours(file))
        opening[file] = 0;
    return REAL(close)(file);
}

static ssize_t written(int file, const void *bytes, size_t length, off64_t offset)
{
    ssize_t done = -1;
    pthread_mutex_lock(&turn);
    if (!refuse('w'))
        done = REAL(pwrite64)(file, bytes, length, offset);
    else if (refused == 1 && length > 1)
        done = REAL(pwrite64)(file, bytes, length / 2, offset);
    if (done > 0)
        record('W', ours(file), offset, bytes, done);
    pthread_mutex_unlock(&turn);
    return done;
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset)
{
    if (!ours(file))
        return REAL(pwrite64)(file, bytes, length, offset);
    return written(file, bytes, length, offset);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset)
{
    return pwrite64(file, bytes, length, offset);
}

ssize_t write(int file, const void *bytes, size_t length)
{
    off64_t offset;
    ssize_t done;
    if (!ours(file))
        return REAL(write)(file, bytes, length);
    offset = lseek64(file, 0, fcntl(file, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    done = written(file, bytes, length, offset);
    if (done > 0)
        lseek64(file, offset + done, SEEK_SET);
    return done;
}

int ftruncate64(int file, off64_t length)
{
    int done = -1;
    if (!ours(file))
        return REAL(ftruncate64)(file, length);
    pthread_mutex_lock(&turn);
    if (length <= lseek64(file, 0, SEEK_END) || !refuse('w'))
        done = REAL(ftruncate64)(file, length);
    if (!done)
        record('T', ours(file), length, "", 0);
    pthread_mutex_unlock(&turn);
    return done;
}

int ftruncate(int file, off_t length) { return ftruncate64(file, length); }

#define SYNC(name)                                 \
    int name(int file)                             \
    {                                              \
        int done = -1;                             \
        if (!ours(file))                           \
            return REAL(name)(file);               \
        pthread_mutex_lock(&turn);                 \
        if (!refuse('s'))                          \
            done = REAL(name)(file);               \
        if (!done)                                 \
            record('S', ours(file), 0, "", 0);     \
        pthread_mutex_unlock(&turn);               \
        return done;                               \
    }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path)
{
    const char *name = name_of(path);
    int done;
    pthread_mutex_lock(&turn);
    done = REAL(unlink)(path);
    if (!done && name)
        record('U', 0, 0, name, strlen(name));
    pthread_mutex_unlock(&turn);
    return done;
}

int rename(const char *from, const char *to)
{
    const char *name = name_of(to);
    char both[2 * PATH_MAX];
    int done;
    pthread_mutex_lock(&turn);
    done = REAL(rename)(from, to);
    if (!done && name && name_of(from)) {
        size_t first = strlen(name_of(from)) + 1, second = strlen(name) + 1;
        memcpy(both, name_of(from), first);
        memcpy(both + first, name, second);
        record('R', 0, 0, both, first + second);
    }
    pthread_mutex_unlock(&turn);
    return done;
}
