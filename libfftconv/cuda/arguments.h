/* What a launch is told: shared by the host, in C, and the kernels, in C++. */
#ifndef FFTCONV_CUDA_ARGUMENTS_H
#define FFTCONV_CUDA_ARGUMENTS_H

#include <stdint.h>

/* Rows of the caller, or data NULL: element n of row (b, h) is at
 * data + b stride[0] + h stride[1] + n stride[2].  type: an fftconv_dtype,
 * float32, float16 or bfloat16; float64 where the arithmetic is. */
typedef struct Operand {
    void *data;
    int64_t stride[3];
    int32_t type;
    int32_t reserved;
} Operand;

/* What one pass through the transform does with a spectrum, in this order. */
enum {
    TRANSFORM = 1,  /* of the input row; else there is none */
    PUT = 2,        /* put it to `spectra`, in float32 */
    ADD = 4,        /* ... added to what is there */
    PUT_TURNED = 8, /* ... times -i */
    KEEP = 16,      /* keep it for the next pass */
    SUM = 32,       /* add conj(kept) times it to `sums` */
    MULTIPLY = 64,  /* by the given spectrum (which it is where there is no other) */
    ADJOINT = 128,  /* ... its conjugate */
    TURNED = 256,   /* ... times i */
    BACK = 512,     /* and back to v[n], for the sink */
};

enum {
    OUTPUT,   /* p = v + skip z; y = act(p) mask out_gate */
    GRADIENT, /* p = v + skip z; g = dy out_gate mask act'(p), to the block's own
                 row; dout_gate = dy mask act(p) */
    SPREAD,   /* dz = v + skip g; du = dz in_gate, din_gate = dz u, dskip += g z,
                 g the block's own row if `own`, else dy out_gate mask */
    HOLD,     /* v to the block's own row */
    TAPS,     /* v, plus the own row's element n + add if add >= 0, to y */
};

typedef struct Pass {
    int32_t flags, sink;
    int32_t from, to;           /* places that hold input elements */
    int32_t sink_from, sink_to; /* places wanted */
    int32_t own, add;           /* own: the input is the block's own row */
    int32_t activation;         /* fftconv_activation */
    int32_t reserved;
    Operand x, gate, scale; /* else it is x gate scale[b, h] */
    Operand skip, mask;     /* [h], [b, h] */
    Operand u, in_gate, out_gate, dy;
    Operand y, dout_gate, du, din_gate;
} Pass;

enum { MOST_PASSES = 4, MOST_ROWS = 1 << 30 };

/* What a launch is for: a kernel each, as none needs all of the flags and sinks. */
enum {
    ROWS_FORWARD,  /* one pass, TRANSFORM | MULTIPLY | BACK, to OUTPUT */
    ROWS_BACKWARD, /* TRANSFORM, KEEP, SUM, MULTIPLY, ADJOINT and BACK, to
                      GRADIENT and SPREAD */
    ROWS_SPECTRA,  /* TRANSFORM | PUT, ADD and PUT_TURNED */
    ROWS_TAPS,     /* MULTIPLY | BACK, TURNED, to HOLD and TAPS */
    ROLES
};

struct fftconv_cuda_rows {
    int64_t batch, channels; /* rows (b, h), at most MOST_ROWS each */
    int64_t members, groups; /* channels that share a spectrum; such groups */
    int64_t spectrum_batch;  /* spectra are of (b, h / members); 1: of b = 0 */
    int64_t chunks, per;     /* the batch, in chunks of `per` rows */
    int32_t passes, role;
    int32_t even_odd, reserved; /* 1: modulo t^2M - 1, else t^M - i; so the tables */
    const void *tables;
    const void *spectrum;     /* M points each, in fragment order */
    const int32_t *exponents; /* ... times 2^exponent */
    float *spectra;           /* PUT: (batch, channels, M) complex */
    float *sums;              /* SUM: (channels, chunks, rows, M) complex */
    float *dskip;             /* SPREAD: (channels, chunks), or NULL */
    float *own;               /* (blocks, rows, M; even/odd 2 M): of each block */
    void *kept;               /* (blocks, rows, M) points */
    Pass pass[MOST_PASSES];
};

/* Sums of spectra, and a spectrum of them: row (i, j), i < rows[0], j < rows[1],
 * is 2^exponents times `to`, and 2^shift times the sum of the `count` rows
 * from + i step[0] + j step[1] + m sum_step[0] + n sum_step[1], in that order. */
struct fftconv_cuda_pack {
    int64_t rows[2], step[2], count[2], sum_step[2]; /* steps in complex numbers */
    int64_t points;                                  /* M, a multiple of 4 */
    float *from;                                     /* the first row of each sum is overwritten */
    void *to;
    int32_t *exponents;
    int32_t shift, reserved;
};

/* to[b, h, n], n < length: the sum of `count` numbers from[h count ...], in order;
 * of none, zeros. */
struct fftconv_cuda_fill {
    int64_t batch, channels, length, count;
    const float *from;
    Operand to;
};

/* The kernels of padded.h. */
enum {
    PADDED_LOAD,
    PADDED_PRODUCT,
    PADDED_SUM,
    PADDED_STORE,
    PADDED_SKIP,
    PADDED_PLACE,
    PADDED_TAKE,
    PADDED_KERNELS,
    PADDED_WARPS = 8, /* of a block */
};

/* Each takes what it needs.  Buffers are of float, or of double. */
struct fftconv_cuda_padded {
    int64_t points, pitch; /* of a buffer's row */
    int64_t stretch;       /* elements a warp takes at a time */
    int64_t rows;          /* of the buffer x */
    /* The tile: row (i, j), i < channels, j < batch, of channel h + i and batch
     * b + j, is number i batch + j of a buffer; its kernel (h + i) / members. */
    int64_t h, b, channels, batch, members;
    void *x;
    const void *from;      /* another buffer */
    const void *spectrum;  /* from the tile's first kernel on */
    int64_t spectrum_step; /* kernels from one j to the next */
    void *sums;            /* a buffer of a row for each kernel of the tile */
    int32_t begin, reversed;
    void *own; /* a row of own_pitch numbers for each of x */
    int64_t own_pitch;
    void *dskip; /* (channels, dskip_batch, stretches), or NULL */
    int64_t dskip_batch;
    /* Kernels b + j, g + i, j < kernel_batch, i < kernels: row j kernels + i of a
     * buffer, which begins with row `first`. */
    int64_t g, kernels, kernel_batch, first;
    int64_t count, rev_count; /* taps that act */
    int64_t turn, circle, length;
    double scale;
    Operand taps, rev_taps;
    Pass pass;
};

#endif
