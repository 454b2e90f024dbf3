/* The vector vocabulary: the only place that knows how vectors are spelled.
 *
 * Included once per precision by engine.c, which sets REAL (float or double),
 * INT (the signed integer of its size) and N_(name), a prefix per precision;
 * FFTCONV_VECTOR_BYTES comes from the build.  GCC's and clang's vector
 * extensions do the rest, on x86, Arm or anything else. */

#define LANES ((int)(FFTCONV_VECTOR_BYTES / sizeof(REAL)))

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif

#define V N_(vector)
#define VU N_(vector_unaligned)
#define VI N_(vector_int)

typedef REAL V __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias));
typedef REAL VU
    __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias, aligned(__alignof__(REAL))));
typedef INT VI __attribute__((vector_size(FFTCONV_VECTOR_BYTES)));

INLINE V N_(splat)(REAL x)
{
    V v = {0};
    for (int i = 0; i < LANES; i++)
        v[i] = x;
    return v;
}
#define SPLAT N_(splat)

#if defined(__clang__)
/* clang's shuffle takes literal indices: the compiler folds these loops. */
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

/* One round of the transposition by halves: exchange the off-diagonal blocks
 * of edge `half` between two rows that far apart. */
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

/* The same within a segment of 128 bits, for which every instruction set has words that
 * interleave two rows, not blocks of them: a's lower half with b's, and the upper ones. */
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

/* One round of either for all rows. */
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

/* LANES x LANES, in place; `half` is a constant in each round */
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
