/* Preloaded by fuzz.py: counts what the library allocates, and makes one allocation fail.
 *
 * It stands between the whole process and malloc.  An allocation is the library's where the code
 * that asks for it is, so that those of Python and of NumPy always succeed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES = 1 << 16, PROBES = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long countdown = -1;  /* successes before the failure; below 0: none fails */
static void *owned[PLACES];  /* what the library has and has not freed, in a hash table */
static long lost;            /* allocations that found no place in it */

/* The next allocation but n fails; n below 0: none. */
void fail_allocation(long n) { countdown = n; }

long allocations_left(void)
{
    long count = lost;
    for (int i = 0; i < PLACES; i++)
        count += owned[i] != NULL;
    return count;
}

/* The place of p, or a free one where p is NULL; NULL where there is none. */
static void **place_of(const void *p, const void *wanted)
{
    const uintptr_t hash = ((uintptr_t)p >> 4) * 2654435761u;
    for (uintptr_t i = 0; i < PROBES; i++)
        if (owned[(hash + i) % PLACES] == wanted)
            return &owned[(hash + i) % PLACES];
    return NULL;
}

static int is_library(const void *code)
{
    Dl_info info;
    return dladdr(code, &info) && info.dli_fname && strstr(info.dli_fname, "libfftconv.so");
}

static int may_fail(void)
{
    pthread_mutex_lock(&lock);
    const int fails = countdown == 0;
    countdown -= countdown >= 0;
    pthread_mutex_unlock(&lock);
    return fails;
}

static void keep(void *p)
{
    pthread_mutex_lock(&lock);
    void **place = place_of(p, NULL);
    if (place)
        *place = p;
    else
        lost++;
    pthread_mutex_unlock(&lock);
}

void *calloc(size_t count, size_t size)
{
    static void *(*next)(size_t, size_t);
    if (!next)
        next = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc");
    const int ours = is_library(__builtin_return_address(0));
    void *p = ours && may_fail() ? NULL : next(count, size);
    if (ours && p)
        keep(p);
    return p;
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    static int (*next)(void **, size_t, size_t);
    if (!next)
        next = (int (*)(void **, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
    const int ours = is_library(__builtin_return_address(0));
    const int status = ours && may_fail() ? ENOMEM : next(out, alignment, size);
    if (ours && status == 0)
        keep(*out);
    return status;
}

void free(void *p)
{
    static void (*next)(void *);
    if (!next)
        next = (void (*)(void *))dlsym(RTLD_NEXT, "free");
    if (p) {
        pthread_mutex_lock(&lock);
        void **place = place_of(p, p);
        if (place)
            *place = NULL;
        pthread_mutex_unlock(&lock);
    }
    next(p);
}
