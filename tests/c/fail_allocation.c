/* Linked with the library's objects for the fuzzer, where --wrap makes every calloc,
 * posix_memalign and free of theirs one of these: they count what is allocated, and make one
 * allocation fail. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define EXPORTED __attribute__((visibility("default")))

void *__real_calloc(size_t count, size_t size);
int __real_posix_memalign(void **out, size_t alignment, size_t size);
void __real_free(void *p);
void *__wrap_calloc(size_t count, size_t size);
int __wrap_posix_memalign(void **out, size_t alignment, size_t size);
void __wrap_free(void *p);
EXPORTED void fail_allocation(long n);
EXPORTED long allocations_left(void);

static atomic_long countdown = -1, left;

/* After n more allocations one fails; n below 0: none does. */
void fail_allocation(long n) { countdown = n; }

/* Allocations that are not freed. */
long allocations_left(void) { return left; }

static int fails(void) { return countdown >= 0 && atomic_fetch_sub(&countdown, 1) == 0; }

void *__wrap_calloc(size_t count, size_t size)
{
    void *p = fails() ? NULL : __real_calloc(count, size);
    left += p != NULL;
    return p;
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t size)
{
    const int status = fails() ? ENOMEM : __real_posix_memalign(out, alignment, size);
    left += status == 0;
    return status;
}

void __wrap_free(void *p)
{
    left -= p != NULL;
    __real_free(p);
}
