/* Vectors of REAL, and what is done with them: the only file that depends on how the
 * compiler writes vectors.  The vector extensions of GCC and clang compile to the vector
 * instructions of x86, Arm or any other processor.
 *
 * LANES is the number of REALs in a vector, and W the same number for index arithmetic.
 * V is the type of a vector at an aligned address, VU of one at any address, and VI of a
 * vector of integers of the same size, which comparisons give; bits are computed in VB, whose
 * integers have no sign and may overflow. */

#define LANES ((int)(FFTCONV_VECTOR_BYTES / sizeof(REAL)))
#define W ((int64_t)LANES)

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

#define V N_(vector)
#define VU N_(vector_unaligned)
#define VI N_(vector_int)
#define VB N_(vector_bits)

typedef REAL V __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias));
typedef REAL VU
    __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias, aligned(__alignof__(REAL))));
typedef INT VI __attribute__((vector_size(FFTCONV_VECTOR_BYTES)));
typedef BITS VB __attribute__((vector_size(FFTCONV_VECTOR_BYTES)));

INLINE V N_(load)(const REAL *p) { return *(const V *)p; }
INLINE void N_(store)(REAL *p, V v) { *(V *)p = v; }

/* (r + i im) *= (c + i s) */
#define MULTIPLY(r, im, c, s) \
    do { \
        V t_ = (r) * (c) - (im) * (s); \
        (im) = (r) * (s) + (im) * (c); \
        (r) = t_; \
    } while (0)

/* x in every lane. */
INLINE V N_(splat)(REAL x)
{
    V v = {0};
    for (int i = 0; i < LANES; i++)
        v[i] = x;
    return v;
}
#define SPLAT N_(splat)

/* Lane i of the result is lane index[i] of a, or, where that is LANES or more, lane
 * index[i] - LANES of b. */
#if defined(__clang__)
/* The shuffle of clang accepts only literal indices, but clang turns this loop into it. */
INLINE V N_(pick)(V a, V b, VI index)
{
    V v = {0};
    for (int i = 0; i < LANES; i++)
        v[i] = index[i] < LANES ? a[index[i] & (LANES - 1)] : b[index[i] & (LANES - 1)];
    return v;
}
#else
INLINE V N_(pick)(V a, V b, VI index) { return __builtin_shuffle(a, b, index); }
#endif

/* A vector of LANES rows is transposed in rounds of half = LANES / 2, ..., 2, 1.  A round
 * takes the rows in pairs that are `half` apart, and exchanges the upper right and the lower
 * left corner of every 2 x 2 square whose corners have `half` x `half` elements. */
INLINE void N_(exchange)(V *a, V *b, int half)
{
    VI low = {0}, high = {0};
    for (int i = 0; i < LANES; i++) {
        low[i] = i & half ? LANES + i - half : i;
        high[i] = i & half ? LANES + i : i + half;
    }
    V t = N_(pick)(*a, *b, low);
    *b = N_(pick)(*a, *b, high);
    *a = t;
}

/* For corners within a segment of 128 bits, a round may interleave the elements of the two
 * rows instead: those of the lower halves of a segment, and those of the upper halves.  Every
 * instruction set has instructions that do so, and after all the rounds the result is the
 * same. */
enum { N_(SEGMENT) = 16 / sizeof(REAL) };
INLINE void N_(interleave)(V *a, V *b)
{
    VI low = {0}, high = {0};
    for (int i = 0; i < LANES; i++) {
        const int at = i / N_(SEGMENT) * N_(SEGMENT) + i % N_(SEGMENT) / 2 + i % 2 * LANES;
        low[i] = at;
        high[i] = at + N_(SEGMENT) / 2;
    }
    V t = N_(pick)(*a, *b, low);
    *b = N_(pick)(*a, *b, high);
    *a = t;
}

/* One round, for all rows. */
INLINE void N_(round)(V *v, int half)
{
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        if (!(i & half)) {
            if (half < N_(SEGMENT))
                N_(interleave)(&v[i], &v[i + half]);
            else
                N_(exchange)(&v[i], &v[i + half], half);
        }
}

/* LANES rows, in place.  In each round `half` is a constant, so that the compiler sees which
 * shuffle it is. */
INLINE void N_(transpose)(V *v)
{
    if (LANES > 8)
        N_(round)(v, 8);
    if (LANES > 4)
        N_(round)(v, 4);
    if (LANES > 2)
        N_(round)(v, 2);
    N_(round)(v, 1);
}
#define TRANSPOSE N_(transpose)
