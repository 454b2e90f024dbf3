/* Vectors of REAL, and what is done with them: the only file that depends on how the
 * compiler writes vectors.  The vector extensions of GCC and clang compile to the vector
 * instructions of x86, Arm or any other processor.
 *
 * LANES is the number of REALs in a vector, and W the same number for index arithmetic.
 * V is the type of a vector at an aligned address, VU of one at any address, and VI of a
 * vector of integers of the same size, which comparisons give; bits are computed in VB, whose
 * integers have no sign and may overflow. */

#define LANES (FFTCONV_VECTOR_BYTES / (IN_DOUBLE ? 8 : 4))
#define W ((int64_t)LANES)

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))

/* Before a loop of at most 20 rounds whose number the compiler knows: it is unrolled wholly, so
 * that arrays of vectors stay in registers.  clang needs a word of its own, because with a number
 * it leaves some of these loops as they are. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 20")
#endif
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

/* Lane i of PICK(a, b, lane, k) is lane lane(i, k) of a, or, where that is LANES or more, lane
 * lane(i, k) - LANES of b.  `lane` is a macro and k a literal, because clang's shuffle takes only
 * literals; from a vector of indices that a loop fills, clang makes an instruction for each lane. */
#if defined(__clang__)
#define PICK(a, b, lane, k) __builtin_shufflevector(a, b, EACH_LANE(lane, k))
#else
#define PICK(a, b, lane, k) __builtin_shuffle(a, b, (VI){EACH_LANE(lane, k)})
#endif
#define LANES_2(lane, k, i) lane(i, k), lane(i + 1, k)
#define LANES_4(lane, k, i) LANES_2(lane, k, i), LANES_2(lane, k, i + 2)
#define LANES_8(lane, k, i) LANES_4(lane, k, i), LANES_4(lane, k, i + 4)
#define LANES_16(lane, k, i) LANES_8(lane, k, i), LANES_8(lane, k, i + 8)
#if LANES == 2
#define EACH_LANE(lane, k) LANES_2(lane, k, 0)
#elif LANES == 4
#define EACH_LANE(lane, k) LANES_4(lane, k, 0)
#elif LANES == 8
#define EACH_LANE(lane, k) LANES_8(lane, k, 0)
#elif LANES == 16
#define EACH_LANE(lane, k) LANES_16(lane, k, 0)
#endif

/* A vector of LANES rows is transposed in rounds of half = LANES / 2, ..., 2, 1.  A round
 * takes the rows in pairs that are `half` apart, and exchanges the upper right and the lower
 * left corner of every 2 x 2 square whose corners have `half` x `half` elements.
 *
 * For corners within a segment of 128 bits, a round may interleave the elements of the two
 * rows instead: those of the lower halves of a segment, and those of the upper halves.  Every
 * instruction set has instructions that do so, and after all the rounds the result is the
 * same. */
#define SEGMENT (IN_DOUBLE ? 2 : 4)
#define INTERLEAVED(i) ((i) / SEGMENT * SEGMENT + (i) % SEGMENT / 2 + (i) % 2 * LANES)
#define LOWER(i, half) \
    ((half) < SEGMENT ? INTERLEAVED(i) : (i) & (half) ? LANES + (i) - (half) : (i))
#define UPPER(i, half) \
    ((half) < SEGMENT ? INTERLEAVED(i) + SEGMENT / 2 : (i) & (half) ? LANES + (i) : (i) + (half))
#define ROUND(v, half) \
    do { \
        UNROLL \
        for (int i = 0; i < LANES; i++) { \
            if (i & (half)) \
                continue; \
            const V a = (v)[i], b = (v)[i + (half)]; \
            (v)[i] = PICK(a, b, LOWER, half); \
            (v)[i + (half)] = PICK(a, b, UPPER, half); \
        } \
    } while (0)

/* LANES rows, in place. */
INLINE void N_(transpose)(V *v)
{
#if LANES > 8
    ROUND(v, 8);
#endif
#if LANES > 4
    ROUND(v, 4);
#endif
#if LANES > 2
    ROUND(v, 2);
#endif
    ROUND(v, 1);
}
#undef ROUND
#undef UPPER
#undef LOWER
#undef INTERLEAVED
#undef SEGMENT
#define TRANSPOSE N_(transpose)
