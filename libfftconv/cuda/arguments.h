/* What a launch of the fused kernel, or of its helpers, is told: shared by the host, in C, and the
 * kernels, in C++. */
#ifndef FFTCONV_CUDA_ARGUMENTS_H
#define FFTCONV_CUDA_ARGUMENTS_H

#include <stdint.h>

/* An array of the caller.  Element n of row (b, h) is at
 *     data + b stride[0] + h stride[1] + n stride[2],
 * counted in elements; data is NULL where there is no such operand.  The type is a fftconv_dtype:
 * float32, float16 or bfloat16, and float64 only for kernels whose arithmetic is in double. */
typedef struct Operand {
    void *data;
    int64_t stride[3];
    int32_t type;
    int32_t reserved;
} Operand;

/* What a pass over a row does.  The flags are carried out in this order; S stands for the row of
 * frequencies that goes from each to the next. */
enum {
    TRANSFORM = 1,  /* S = the transform of the input row; else there is no input */
    PUT = 2,        /* store S in `spectra`, in float32 */
    ADD = 4,        /* ... added to what stands there */
    PUT_TURNED = 8, /* ... multiplied by -i */
    KEEP = 16,      /* keep S for the block's next pass */
    SUM = 32,       /* add conj(what was kept) S to `sums` */
    MULTIPLY = 64,  /* S = S times the spectrum; without TRANSFORM, S = the spectrum */
    ADJOINT = 128,  /* ... times the spectrum's conjugate */
    TURNED = 256,   /* ... and times i */
    BACK = 512,     /* transform S back to v, and give v[n] to the sink */
};

/* What a sink does with v.  The block's own row is memory that lasts from one pass over a row to
 * the next. */
enum {
    /* p = v + skip z; y = act(p) mask out_gate */
    OUTPUT,
    /* p = v + skip z; dout_gate = dy mask act(p); own row = g = dy out_gate mask act'(p) */
    GRADIENT,
    /* dz = v + skip g; du = dz in_gate; din_gate = dz u; dskip += g z.  If Pass.own is set, g is
     * the own row; else it is dy out_gate mask. */
    SPREAD,
    /* own row = v */
    HOLD,
    /* y[n] = v[n], plus element n + Pass.add of the own row if add >= 0 */
    TAPS,
};

typedef struct Pass {
    int32_t flags, sink;
    int32_t from, to;           /* the input has elements at these places, and zeros at others */
    int32_t sink_from, sink_to; /* the sink wants these places */
    int32_t own, add;           /* own: the input is the block's own row; add: see TAPS */
    int32_t activation;         /* a fftconv_activation */
    int32_t reserved;
    Operand x, gate, scale; /* the input is x gate scale[b, h], where own is not set */
    Operand skip, mask;     /* skip[h], mask[b, h] */
    Operand u, in_gate, out_gate, dy;
    Operand y, dout_gate, du, din_gate;
} Pass;

enum { MOST_PASSES = 4, MOST_ROWS = 1 << 30 };

/* What a launch is for.  Each role is compiled as a kernel of its own, because none needs all
 * flags and sinks, and fewer of them leave more registers. */
enum {
    ROWS_FORWARD,  /* one pass: TRANSFORM | MULTIPLY | BACK, to OUTPUT */
    ROWS_BACKWARD, /* TRANSFORM, any of KEEP, SUM, MULTIPLY, ADJOINT, BACK, to GRADIENT, SPREAD */
    ROWS_SPECTRA,  /* TRANSFORM | PUT, and any of ADD, PUT_TURNED */
    ROWS_TAPS,     /* MULTIPLY | BACK, and TURNED or not, to HOLD and TAPS */
    ROLES
};

struct fftconv_cuda_rows {
    int64_t batch, channels; /* rows (b, h), at most MOST_ROWS of each */
    int64_t members, groups; /* channels that share a spectrum; groups of such channels */
    int64_t spectrum_batch;  /* 1: a group has one spectrum; else one for each batch row */
    int64_t chunks, per;     /* the batch, cut into chunks of `per` rows for a block each */
    int32_t passes, role;
    /* 1: convolve modulo t^2M - 1; 0: modulo t^M - i.  The tables are made for one of them. */
    int32_t even_odd, reserved;
    const void *tables;
    const void *spectrum;     /* M points for each kernel, in the order of Shape::point_of, */
    const int32_t *exponents; /* ... which are to be multiplied by 2^exponent */
    float *spectra;           /* for PUT: (batch, channels, M) complex numbers */
    float *sums;              /* for SUM: (channels, chunks, rows of a block, M) complex numbers */
    float *dskip;             /* for SPREAD: (channels, chunks) numbers, or NULL */
    float *own;               /* (blocks, rows of a block, M or even/odd 2 M) numbers */
    void *kept;               /* (blocks, rows of a block, M) points */
    Pass pass[MOST_PASSES];
};

/* A launch that adds up rows of complex numbers and rounds the sums to spectra.  Sum (i, j),
 * i < rows[0], j < rows[1], is that of the rows at
 *     from + i step[0] + j step[1] + m sum_step[0] + n sum_step[1],
 * m < count[0], n < count[1], in that order.  It is stored in `to` with an exponent, so that
 * 2^exponent times `to` is 2^shift times the sum; where `to` is NULL, it stays in the first of
 * its rows. */
struct fftconv_cuda_pack {
    int64_t rows[2], step[2], count[2], sum_step[2]; /* steps count complex numbers */
    int64_t points;                                  /* M, a multiple of 4 */
    float *from;                                     /* the first row of each sum is overwritten */
    void *to;
    int32_t *exponents;
    int32_t shift, reserved;
};

/* A launch that fills rows: to[b, h, n], n < length, is the sum of the `count` numbers
 * from[h count], from[h count + 1] ..., added in that order; where count is 0, it is zero. */
struct fftconv_cuda_fill {
    int64_t batch, channels, length, count;
    const float *from;
    Operand to;
};

#endif
