/* What every file of the library uses: sizes, errors, memory, threads. */
#ifndef FFTCONV_COMMON_H
#define FFTCONV_COMMON_H

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "fftconv.h"

#include <stdbool.h>

enum { ALIGNMENT = 64 }; /* bytes: a cache line, and the widest vector */

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
/* For b > 0. */
static inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }

/* ---- Sizes ------------------------------------------------------------------------------- */

/* Every size that grows with the number of rows, channels, kernels or states is computed by
 * these functions.  Their arguments and results are 0 or more.  A result that does not fit is
 * INT64_MAX and stays so, whatever is added to it: a layout is computed plainly, and looked at
 * once, by check_bytes.  The elements of one row, and the points of its transform, are at most
 * 2^ROW_BITS and a small multiple of that, so that they need no such care. */
enum { SIZE_BITS = 58, ROW_BITS = 40 }; /* of an array's elements, and of a row's */

static inline int64_t size_add(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}
static inline int64_t size_mul(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}
static inline int64_t round_up(int64_t a, int64_t b) { return size_mul(ceil_div(a, b), b); }
/* Where share i begins when n things are cut into `shares` shares: n i / shares, for any n. */
static inline int64_t share_begin(int64_t n, int64_t i, int64_t shares)
{
    return n / shares * i + n % shares * i / shares;
}
/* Reserves bytes at the cursor, rounded up to ALIGNMENT; returns where they begin. */
static inline int64_t take_bytes(int64_t *cursor, int64_t bytes)
{
    const int64_t at = *cursor;
    *cursor = size_add(at, round_up(bytes, ALIGNMENT));
    return at;
}
/* INVALID where a call would need more bytes than any machine can have.  The format says which
 * arguments ask for them: "u has shape (...)". */
int check_bytes(int64_t bytes, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- status.c ---------------------------------------------------------------------------- */

enum { MESSAGE_BYTES = 512 };
/* Keeps the message for fftconv_last_error() of this thread, and returns `status`. */
int fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3), cold));
int fail_memory(int64_t bytes);
/* The name of a fftconv_dtype and the bytes of an element; NULL and 0 for a number that is
 * none. */
const char *dtype_name(int dtype);
static inline int dtype_size(int dtype)
{
    static const signed char size[] = {0, 8, 4, 2, 2, 16, 8};
    return dtype > 0 && dtype < (int)sizeof size ? size[dtype] : 0;
}
static inline bool is_complex(int dtype) { return dtype >= FFTCONV_DTYPE_COMPLEX128; }
/* Memory aligned to ALIGNMENT; NULL where there is none. */
void *aligned_new(int64_t bytes);
void aligned_free(void *p);

/* ---- threads.c --------------------------------------------------------------------------- */

enum { MAX_THREADS = 255 };
typedef int task_fn(void *context, int64_t index, int worker);
/* Calls fn(context, i, worker) once for each i in [0, n), where worker is in [0, threads),
 * and returns when all are done.  Once a task has returned a status other than OK, no more
 * are begun; that status is returned, and its message is then the calling thread's.
 *
 * In a task denormal numbers are zeros and rounding is to nearest; the floating-point state of the
 * calling thread is what it was when this returns.  So arithmetic on data belongs into tasks. */
int parallel_for(int threads, int64_t n, task_fn *fn, void *context);

/* ---- processors.c ------------------------------------------------------------------------ */

/* The processors that this process may run on at once: by its affinity and its container's
 * quota. */
int processors(void);
/* The quota of the control groups, versions 1 and 2, whose files lie below `root`, in processors
 * rounded up; 0 where there is none. */
int quota_processors(const char *root);
/* The first number of a list such as "4,2"; 0 if the text is NULL or begins with none from 1. */
int threads_of_text(const char *text);

#endif
