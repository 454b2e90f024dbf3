/* The message of the last error, memory, and what the library says of itself. */
#include "common.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, MOST_BYTES_BITS = 62 };

static _Thread_local char message[MESSAGE_BYTES];

int fail(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return status;
}

int fail_memory(int64_t bytes)
{
    return fail(FFTCONV_STATUS_NO_MEMORY, "out of memory: %lld bytes could not be allocated",
                (long long)bytes);
}

int check_bytes(int64_t bytes, const char *format, ...)
{
    char arguments[MESSAGE_BYTES / 2];
    va_list args;
    if (bytes <= (int64_t)1 << MOST_BYTES_BITS)
        return FFTCONV_STATUS_OK;
    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    return fail(FFTCONV_STATUS_INVALID,
                "%s, must be smaller: a call would need more than 2^%d bytes of memory", arguments,
                MOST_BYTES_BITS);
}

const char *dtype_name(int dtype)
{
    static const char *const name[] = {NULL,       "float64",    "float32",  "float16",
                                       "bfloat16", "complex128", "complex64"};
    return dtype >= FFTCONV_DTYPE_FLOAT64 && dtype <= FFTCONV_DTYPE_COMPLEX64 ? name[dtype] : NULL;
}

/* A stage reads and writes many rows that lie far apart.  With small pages each step would miss
 * the TLB, so large memory is in pages of HUGE_PAGE bytes where the system has them. */
void *aligned_new(int64_t bytes)
{
    void *p = NULL;
    const bool huge = bytes >= HUGE_PAGE;
    if (bytes > (int64_t)1 << MOST_BYTES_BITS ||
        posix_memalign(&p, huge ? HUGE_PAGE : ALIGNMENT, (size_t)max64(bytes, ALIGNMENT)))
        return NULL;
#ifdef MADV_HUGEPAGE
    if (huge)
        (void)madvise(p, (size_t)bytes, MADV_HUGEPAGE); /* only advice, which may be refused */
#endif
    return p;
}

void aligned_free(void *p) { free(p); }

const char *fftconv_last_error(void) { return message; }

const char *fftconv_version(void) { return PACKAGE_VERSION; }

int fftconv_abi(void) { return FFTCONV_ABI; }
