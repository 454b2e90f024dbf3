/* What a launch of the padded engine's kernels (padded.h) is told: shared by the host, in C,
 * and the kernels, in C++.
 *
 * A call's rows pass through buffers a tile at a time.  A tile is made of some kernels and of
 * rows that they serve.  Its row (i, j), i < channels, j < batch, is that of channel h + i and
 * batch row b + j, and stands in row i batch + j of a buffer.  Its kernel (j, i),
 * j < kernel_batch, i < kernels, is that of batch row kernel_b + j and number g + i, and
 * stands in row j kernels + i of a buffer of kernels. */
#ifndef FFTCONV_CUDA_PADDED_ARGUMENTS_H
#define FFTCONV_CUDA_PADDED_ARGUMENTS_H

#include "arguments.h"

/* The steps that a call is made of, each a kernel. */
enum {
    PADDED_LOAD,    /* rows of the caller to x */
    PADDED_PRODUCT, /* x = K from, or conj(K) from */
    PADDED_SUM,     /* sums of conj(Z) G over the rows of each kernel */
    PADDED_STORE,   /* x to the rows that the caller wants */
    PADDED_SKIP,    /* dskip from the parts that PADDED_STORE left */
    PADDED_PLACE,   /* taps to x */
    PADDED_TAKE,    /* x to the gradients of taps */
    PADDED_KERNELS,
    PADDED_WARPS = 8, /* of a block */
};

/* A step reads the fields it needs.  A buffer is of float, or of double for float64. */
struct fftconv_cuda_padded {
    int64_t points, pitch; /* a buffer's row: its real points, and its complex numbers in all */
    int64_t stretch;       /* elements of a row that a warp takes at a time */
    int64_t x_rows;        /* load, place: rows of x; those behind the tile's are zeros */

    int64_t h, b, channels, batch; /* the tile's rows */
    int64_t members;               /* channels that share a kernel */
    Pass pass;                     /* load, product, store: what is done with them */
    void *x;                       /* the buffer that a step writes, or takes its rows from */
    const void *from;              /* product: the buffer of the factors, which may be x */
    void *own;                     /* load, store: rows kept from one pass to the next, */
    int64_t own_pitch;             /* ... of so many numbers each */

    int64_t g, kernel_b, kernels, kernel_batch; /* the tile's kernels */
    int64_t first_kernel;                       /* place: of these kernels, the one in row 0 of x */
    const void *spectrum;  /* product: the spectra, from the tile's first kernel on */
    int64_t spectrum_step; /* ... from one batch row's kernel to the next's */

    /* sum: while `join` is not set, conj(Z) G is summed over rows_per_sum rows at a time, Z in z
     * and G in x, and each sum replaces the first of its rows of Z.  Then, with `join` set, these
     * sums are added up, and the result goes to row q of `sums` for the tile's kernel q; it is
     * added to what stands there unless first_tile is set. */
    void *z, *sums;
    int64_t rows_per_sum;
    int32_t join, first_tile;

    void *dskip;         /* store, skip: (channels, dskip_batch, stretches of a row), or NULL */
    int64_t dskip_batch; /* the plan's batch */
    int64_t dskip_parts; /* skip: numbers in dskip for each channel */
    Operand dskip_out;

    Operand k, k_rev; /* place */
    Operand dk;       /* take: the gradient of k, or of k_rev where `reversed` is set */
    int32_t reversed;
    int64_t dk_length, dk_used; /* take: its taps, and how many of them act */
    int64_t k_length;           /* the taps of k */
    int64_t k_used, rev_used;   /* of k and k_rev, the taps that act at lags s and -s */
    /* Where a circle of fft_size is padded, tap s >= wrapped_from has lag s - fft_size too. */
    int64_t wrapped_from, fft_size;
    double scale; /* 1 / points */
};

#endif
