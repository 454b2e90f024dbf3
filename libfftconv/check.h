/* Checks of what a caller gives, shared by all calls. */
#ifndef FFTCONV_CHECK_H
#define FFTCONV_CHECK_H

#include "plan.h"

/* One operand of a call, as it must be. */
struct operand {
    const char *name;
    const fftconv_tensor *t;
    int64_t shape[3];
    unsigned dtypes;              /* those allowed, a DTYPE_BIT each */
    int is;                       /* of the flags below */
    const fftconv_tensor *of;     /* a gradient's: its operand, which must be given */
    const fftconv_tensor *may_be; /* an output's: the one input that it may be itself */
    const char *unless;           /* it must be absent, unless this, which is not the case */
};
enum { NEEDED = 1, OUTPUT = 2, FORWARD_ONLY = 4, BACKWARD_ONLY = 8, IGNORED = 16 };

#define DTYPE_BIT(dtype) (1u << (dtype))
/* The dtypes of kernels beside rows of this one: the same, and float32 beside 16 bits. */
unsigned kernel_dtypes(int dtype);
enum {
    REAL_DTYPES = DTYPE_BIT(FFTCONV_DTYPE_FLOAT64) | DTYPE_BIT(FFTCONV_DTYPE_FLOAT32) |
    DTYPE_BIT(FFTCONV_DTYPE_FLOAT16) | DTYPE_BIT(FFTCONV_DTYPE_BFLOAT16)
};

/* Each operand that takes part in the direction by itself; then that no output overlaps
 * another operand.  used[i]: whether row i takes part. */
int check_table(const struct operand *all, int count, bool backward, bool *used);

int check_number(const char *name, int64_t value, int64_t low, int64_t high, const char *allowed);
int check_activation(int activation);

#endif
