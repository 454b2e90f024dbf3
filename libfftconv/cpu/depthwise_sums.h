/* The sums of short convolutions: vectors of outputs from rows that lie ready, of REALs, of
 * float16 or of bfloat16.
 *
 * A window is what the sum of an output reads, one element for each tap. */

#ifdef __SSE2__
#include <immintrin.h>
#endif

/* ---- Vectors from memory and to it ------------------------------------------------------- */

typedef uint32_t N_(words) __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias));
typedef uint32_t N_(words_unaligned)
    __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias, aligned(2)));

INLINE N_(words) N_(load_words)(const void *p) { return *(const N_(words_unaligned) *)p; }

/* streamed: past the caches.  A line that is written whole need not be read before. */
INLINE void N_(store_words)(bool streamed, void *p, N_(words) v)
{
#ifdef __AVX__
    typedef __m256i N_(stream_vector);
#define STREAM _mm256_stream_si256
#elif defined __SSE2__
    typedef __m128i N_(stream_vector);
#define STREAM _mm_stream_si128
#endif
#ifdef STREAM
    const union {
        N_(words) v;
        N_(stream_vector) at[sizeof v / sizeof(N_(stream_vector))];
    } all = {v};
    for (int i = 0; streamed && i < (int)(sizeof all / sizeof *all.at); i++)
        STREAM((N_(stream_vector) *)p + i, all.at[i]);
#undef STREAM
    if (streamed)
        return;
#endif
    *(N_(words_unaligned) *)p = v;
}

/* AVX2 and AVX-512 convert float16 by an instruction.  Without one AS_FLOAT16 is not used here,
 * and such rows pass through a worker's buffers. */
#if !IN_DOUBLE && defined(__F16C__) && FFTCONV_VECTOR_BYTES == 32
#define HAVE_FLOAT16 1
#define FLOAT16_LOAD(p) _mm256_cvtph_ps(_mm_loadu_si128(p))
#define FLOAT16_OF(v) _mm256_cvtps_ph(v, 0)
#define FLOAT16_STORE _mm_storeu_si128
#define FLOAT16_STREAM _mm_stream_si128
typedef __m128i N_(float16_vector);
#elif !IN_DOUBLE && defined(__AVX512F__) && FFTCONV_VECTOR_BYTES == 64
#define HAVE_FLOAT16 1
#define FLOAT16_LOAD(p) _mm512_cvtph_ps(_mm256_loadu_si256(p))
#define FLOAT16_OF(v) _mm512_cvtps_ph(v, 0)
#define FLOAT16_STORE _mm256_storeu_si256
#define FLOAT16_STREAM _mm256_stream_si256
typedef __m256i N_(float16_vector);
#else
#define HAVE_FLOAT16 0
#endif

/* W elements, REALs or float16. */
INLINE V N_(load_as)(int as, const void *p)
{
#if HAVE_FLOAT16
    if (as == AS_FLOAT16)
        return (V)FLOAT16_LOAD((const N_(float16_vector) *)p);
#endif
    (void)as;
    return *(const VU *)p;
}

INLINE void N_(store_as)(int as, bool streamed, void *p, V v)
{
#if HAVE_FLOAT16
    if (as == AS_FLOAT16) {
        if (streamed)
            FLOAT16_STREAM((N_(float16_vector) *)p, FLOAT16_OF(v));
        else
            FLOAT16_STORE((N_(float16_vector) *)p, FLOAT16_OF(v));
        return;
    }
#endif
    (void)as;
    N_(store_words)(streamed, p, (N_(words))v);
}

/* A bfloat16 is the upper half of a float.  A word of 32 bits holds two neighbours of a row,
 * x[n] in its lower half and x[n + 1] in its upper half, and one operation makes a float of
 * either.  So one vector load gives the even elements and the odd ones as two vectors, without
 * any widening or narrowing. */
INLINE V N_(even_elements)(N_(words) x) { return (V)(x << 16); }
INLINE V N_(odd_elements)(N_(words) x) { return (V)(x & 0xffff0000u); }

/* Rounds to nearest even in the upper half.  A NaN must stay one, so the lower half of each that
 * comes here is 0: x's were bfloat16, those that arise are the processor's own, and depthwise.c
 * replaces all others in its tables. */
INLINE N_(words) N_(rounded)(V v)
{
    const N_(words) bits = (N_(words))v;
    return bits + (0x7fffu + ((bits >> 16) & 1));
}
INLINE N_(words) N_(bfloat16_words)(V even, V odd)
{
    return (N_(rounded)(even) >> 16) | (N_(rounded)(odd) & 0xffff0000u);
}

/* The elements that one vector load gives.  Sums of them take one vector, or two of bfloat16. */
INLINE int64_t N_(elements_of_vector)(int as) { return as == AS_BFLOAT16 ? 2 * W : W; }

/* x in every lane, by one instruction. */
INLINE V N_(broadcast)(REAL x) { return x - (V){0}; }

/* Elements [k, k + W) of a, and of b behind it, for 0 < k < 8. */
#define BEHIND(i, k) (((i) + (k)) % (2 * LANES))
INLINE V N_(shifted)(V a, V b, int k)
{
    switch (k) {
    case 1: return PICK(a, b, BEHIND, 1);
    case 2: return PICK(a, b, BEHIND, 2);
    case 3: return PICK(a, b, BEHIND, 3);
    case 4: return PICK(a, b, BEHIND, 4);
    case 5: return PICK(a, b, BEHIND, 5);
    case 6: return PICK(a, b, BEHIND, 6);
    default: return PICK(a, b, BEHIND, 7);
    }
}
#undef BEHIND

/* What lies `bytes` behind an address will be wanted; it need not be memory at all. */
INLINE void N_(prefetch_behind)(const void *address, int64_t bytes)
{
    __builtin_prefetch((const void *)((uintptr_t)address + (uintptr_t)bytes), 0, 2);
}

/* Calls with the usual numbers of taps as constants, for which the compiler unrolls the loops
 * over them.  FFTCONV_COMPACT asks for less to compile. */
#ifdef FFTCONV_COMPACT
#define FOR_TAPS(taps, call) call(taps);
#else
#define FOR_TAPS(taps, call) \
    switch (taps) { \
    case 2: call(2); break; \
    case 3: call(3); break; \
    case 4: call(4); break; \
    case 5: call(5); break; \
    case 7: call(7); break; \
    default: call(taps); \
    }
#endif

/* ---- Lanes along a row ------------------------------------------------------------------- */

/* `count` outputs of a row, in whole vectors.  The last vector overlaps the one before it, or
 * goes past the end of a row that is shorter than a vector.  Each vector of x is loaded once
 * where the taps are constants: the windows in between are cut from two of them. */
INLINE void N_(sum_row)(int as, int64_t taps, const REAL *restrict w, REAL bias, const char *x,
                        char *restrict y, int64_t count)
{
    const int64_t size = as == AS_FLOAT16 ? 2 : sizeof(REAL);
    int64_t j = 0;
    if (__builtin_constant_p(taps)) {
        V now = N_(load_as)(as, x);
        for (; j + 2 * W <= count + taps - 1 && j + W <= count; j += W) {
            const V next = N_(load_as)(as, x + (j + W) * size);
            V sum = N_(broadcast)(bias);
            UNROLL
            for (int k = 0; k < taps; k++)
                sum += w[k] * (k == 0  ? now
                               : k < W ? N_(shifted)(now, next, k)
                                       : N_(load_as)(as, x + (j + k) * size));
            N_(store_as)(as, false, y + j * size, sum);
            now = next;
        }
    }
    for (; j < count; j += W) {
        if (j + W > count && count >= W)
            j = count - W;
        V sum = N_(broadcast)(bias);
        for (int64_t k = 0; k < taps; k++)
            sum += w[k] * N_(load_as)(as, x + (j + k) * size);
        N_(store_as)(as, false, y + j * size, sum);
    }
}

/* `vectors` times 2 W outputs of bfloat16.  With F_s[i] = x[2i + s] the even outputs are
 * sum_k w[k] F_k, and the odd ones sum_k w[k] F_(k+1).  Where the number of taps is even, one
 * element behind the last window is read. */
INLINE void N_(sum_bfloat16_vectors)(int vectors, int64_t taps, const REAL *w, REAL bias,
                                     const uint16_t *x, uint16_t *y)
{
    V even[2], odd[2], now[2], next[2];
    N_(words) both[2];
    UNROLL
    for (int m = 0; m < vectors; m++) {
        even[m] = odd[m] = N_(broadcast)(bias);
        both[m] = N_(load_words)(x + m * 2 * W);
        now[m] = N_(even_elements)(both[m]);
    }
    for (int64_t k = 0; k < taps; k++) {
        UNROLL
        for (int m = 0; m < vectors; m++, now[m - 1] = next[m - 1]) {
            if (k % 2)
                both[m] = N_(load_words)(x + m * 2 * W + k + 1);
            next[m] = k % 2 ? N_(even_elements)(both[m]) : N_(odd_elements)(both[m]);
            even[m] += now[m] * w[k];
            odd[m] += next[m] * w[k];
        }
    }
    UNROLL
    for (int m = 0; m < vectors; m++)
        N_(store_words)(false, y + m * 2 * W, N_(bfloat16_words)(even[m], odd[m]));
}

/* `count` outputs of a row of bfloat16, at least 2 W. */
INLINE void N_(sum_bfloat16_row)(int64_t taps, const REAL *restrict w, REAL bias, const uint16_t *x,
                                 uint16_t *restrict y, int64_t count)
{
    int64_t j = 0;
    for (; j + 4 * W <= count; j += 4 * W)
        N_(sum_bfloat16_vectors)(2, taps, w, bias, x + j, y + j);
    for (; j < count; j += 2 * W) {
        j = min64(j, count - 2 * W);
        N_(sum_bfloat16_vectors)(1, taps, w, bias, x + j, y + j);
    }
}

/* `count` outputs of channel h where x and y lie in the caller's memory, as one dtype: at least
 * a vector of them, all of whose windows are there. */
static void N_(sum_uncopied_row)(const struct short_conv *c, int64_t h, const char *x, char *y,
                                 int64_t count)
{
    const REAL *w = (const REAL *)c->w + h * c->taps, bias = ((const REAL *)c->bias)[h];
#define BFLOAT16(K) N_(sum_bfloat16_row)(K, w, bias, (const uint16_t *)x, (uint16_t *)y, count)
#define FLOAT16(K) N_(sum_row)(AS_FLOAT16, K, w, bias, x, y, count)
#define REALS(K) N_(sum_row)(AS_REALS, K, w, bias, x, y, count)
    if (!IN_DOUBLE && c->as == AS_BFLOAT16) {
        FOR_TAPS(c->taps, BFLOAT16)
    } else if (HAVE_FLOAT16 && c->as == AS_FLOAT16) {
        FOR_TAPS(c->taps, FLOAT16)
    } else {
        FOR_TAPS(c->taps, REALS)
    }
#undef BFLOAT16
#undef FLOAT16
#undef REALS
}

/* ---- Lanes across channels, by whole tiles ----------------------------------------------- */

enum { N_(OUTPUTS) = 4 }; /* vectors of outputs that are summed at once, and share a tap's load */

/* Outputs 0 ... outputs - 1 of W channels, y_step apart; taps are w_step apart, elements of x
 * `step`. */
INLINE void N_(sum_vectors)(int outputs, int64_t taps, const REAL *w, int64_t w_step,
                            const REAL *bias, const REAL *x, int64_t step, REAL *y, int64_t y_step)
{
    V sum[N_(OUTPUTS)];
    UNROLL
    for (int m = 0; m < outputs; m++)
        sum[m] = *(const VU *)bias;
    for (int64_t k = 0; k < taps; k++) {
        const V f = *(const VU *)(w + k * w_step);
        UNROLL
        for (int m = 0; m < outputs; m++)
            sum[m] += f * *(const VU *)(x + (k + m) * step);
    }
    UNROLL
    for (int m = 0; m < outputs; m++)
        *(VU *)(y + m * y_step) = sum[m];
}

/* `count` outputs of `channels` channels. */
INLINE void N_(sum_band)(int64_t taps, const REAL *w, int64_t w_step, const REAL *bias,
                         const REAL *x, int64_t step, REAL *y, int64_t y_step, int64_t channels,
                         int64_t count)
{
    for (int64_t i = 0; i < count; i += N_(OUTPUTS))
        for (int64_t c = 0; c < channels; c += W) {
            if (c + W > channels && channels >= W)
                c = channels - W;
            const REAL *at = x + i * step + c;
            for (int64_t m = 0; c % (64 / (int)sizeof *x) == 0 && m < N_(OUTPUTS); m++)
                N_(prefetch_behind)(at, (taps - 1 + 2 * N_(OUTPUTS) + m) * step * (int)sizeof *x);
            if (i + N_(OUTPUTS) <= count)
                N_(sum_vectors)(N_(OUTPUTS), taps, w + c, w_step, bias + c, at, step,
                                y + i * y_step + c, y_step);
            else
                for (int64_t m = 0; m < count - i; m++)
                    N_(sum_vectors)(1, taps, w + c, w_step, bias + c, at + m * step, step,
                                    y + (i + m) * y_step + c, y_step);
        }
}

/* `count` outputs of a tile, with taps and bias from these tables; x as find_elements gives it.
 * bias: of the band's channels. */
static void N_(sum_tile)(const struct N_(band) * a, const void *taps_table, const REAL *bias,
                         const REAL *x, int64_t step, REAL *y, int64_t y_step, int64_t count)
{
    const int64_t taps = a->c->taps, w_step = round_up(a->c->H, W);
    const REAL *w = (const REAL *)taps_table + (a->c->channels_last ? a->h0 : a->h0 * taps);
#define BAND_OF(K) N_(sum_band)(K, w, w_step, bias, x, step, y, y_step, a->h1 - a->h0, count)
#define ROW_OF(K) N_(sum_row)(AS_REALS, K, w, *bias, (const char *)x, (char *)y, count)
    if (a->c->channels_last) {
        FOR_TAPS(taps, BAND_OF)
    } else {
        FOR_TAPS(taps, ROW_OF)
    }
#undef BAND_OF
#undef ROW_OF
}

/* ---- Lanes across channels, by slices -------------------------------------------------------
 *
 * A slice is the channels that one vector of x holds in the caller's memory.  Its taps and its
 * bias stand together in c->slices: [tap, and the bias last], each as one vector, or for
 * bfloat16 as two, of the even channels and of the odd ones. */

/* Adds element i of x to the sums of those outputs whose windows it is in. */
INLINE void N_(add_element)(int as, int outputs, int64_t taps, int64_t i, const REAL *table,
                            const char *x, V *even, V *odd)
{
    const bool paired = !IN_DOUBLE && as == AS_BFLOAT16;
    const int each = paired ? 2 : 1;
    const N_(words) both = paired ? N_(load_words)(x) : (N_(words)){0};
    const V lower = paired ? N_(even_elements)(both) : N_(load_as)(as, x);
    const V upper = N_(odd_elements)(both);
    UNROLL
    for (int m = 0; m < outputs; m++) {
        const int64_t k = i - m;
        if (k < 0 || k >= taps)
            continue;
        even[m] += lower * N_(load)(table + k * each * W);
        if (paired)
            odd[m] += upper * N_(load)(table + (2 * k + 1) * W);
    }
    /* There are not registers enough for all taps: this makes the compiler load them again for
     * each element instead of keeping copies of them on the stack. */
    if (paired)
        __asm__ volatile("" : : : "memory");
}

/* Outputs 0 ... outputs - 1 of one slice; the steps are in bytes. */
INLINE void N_(sum_slice)(int as, bool streamed, int outputs, int64_t taps, const REAL *table,
                          const char *x, int64_t step, char *y, int64_t y_step)
{
    const bool paired = !IN_DOUBLE && as == AS_BFLOAT16;
    const int each = paired ? 2 : 1;
    V even[N_(OUTPUTS)], odd[N_(OUTPUTS)];
    UNROLL
    for (int m = 0; m < outputs; m++) {
        even[m] = N_(load)(table + taps * each * W);
        odd[m] = N_(load)(table + (taps * each + each - 1) * W);
    }
    if (__builtin_constant_p(taps)) {
        UNROLL
        for (int64_t i = 0; i < taps + outputs - 1; i++)
            N_(add_element)(as, outputs, taps, i, table, x + i * step, even, odd);
    } else {
        for (int64_t i = 0; i < taps + outputs - 1; i++)
            N_(add_element)(as, outputs, taps, i, table, x + i * step, even, odd);
    }
    UNROLL
    for (int m = 0; m < outputs; m++)
        if (paired)
            N_(store_words)(streamed, y + m * y_step, N_(bfloat16_words)(even[m], odd[m]));
        else
            N_(store_as)(as, streamed, y + m * y_step, even[m]);
}

/* The first channel of slice n.  Where y is streamed, slices begin with a cache line of y, and
 * the last one goes on into the next element; otherwise the last one overlaps its neighbour. */
INLINE int64_t N_(channel_of_slice)(const struct short_conv *c, bool streamed, int64_t n,
                                    int64_t channels)
{
    return streamed ? c->first_slice + n * channels : min64(n * channels, c->H - channels);
}

static void N_(pack_slices)(const struct short_conv *c, void *slices)
{
    const int64_t channels = N_(elements_of_vector)(c->as), w_step = round_up(c->H, W);
    REAL *v = slices;
    for (int64_t n = 0; n * channels < c->H; n++)
        for (int64_t k = 0; k <= c->taps; k++, v += channels) {
            const REAL *from = (const REAL *)(k < c->taps ? c->w : c->bias) +
                               (k < c->taps ? k * w_step : 0);
            const int64_t at = N_(channel_of_slice)(c, c->streamed, n, channels);
            for (int64_t i = 0; i < channels; i++) {
                const int64_t h = at + (c->as == AS_BFLOAT16 ? 2 * (i % W) + i / W : i);
                v[i] = from[h < c->H ? h : h - c->H];
            }
        }
}

/* Outputs 0 ... outputs - 1 of slices [n0, n1); x and y are at channel 0. */
INLINE void N_(sum_slices)(int as, bool streamed, int outputs, int64_t taps,
                           const struct short_conv *c, int64_t n0, int64_t n1, const char *x,
                           char *y)
{
    const int size = dtype_size(c->x->dtype);
    const int64_t channels = N_(elements_of_vector)(as), reals = (taps + 1) * channels;
    const int64_t step = c->x->stride[2] * size, y_step = c->y->stride[2] * size;
    for (int64_t n = n0; n < n1; n++) {
        const int64_t at = N_(channel_of_slice)(c, streamed, n, channels) * size;
        /* The elements may lie far apart in memory, where no hardware prefetches them. */
        for (int m = 0; (!streamed || n * channels * size % 64 == 0) && m < outputs; m++) {
            N_(prefetch_behind)(x + at, (taps - 1 + outputs + m) * step);
            if (!streamed)
                N_(prefetch_behind)(y + at, (outputs + m) * y_step);
        }
        N_(sum_slice)(as, streamed, outputs, taps, (const REAL *)c->slices + n * reals, x + at,
                      step, y + at, y_step);
    }
}

/* `count` outputs of slices [n0, n1), some at once. */
INLINE void N_(sum_all_of_slices)(int as, bool streamed, int64_t taps, const struct short_conv *c,
                                  int64_t n0, int64_t n1, const char *x, char *y, int64_t count)
{
    const int size = dtype_size(c->x->dtype);
    const int64_t step = c->x->stride[2] * size, y_step = c->y->stride[2] * size;
    int64_t i = 0;
    for (; i + N_(OUTPUTS) <= count; i += N_(OUTPUTS))
        N_(sum_slices)(as, streamed, N_(OUTPUTS), taps, c, n0, n1, x + i * step, y + i * y_step);
    for (; i < count; i++)
        N_(sum_slices)(as, streamed, 1, taps, c, n0, n1, x + i * step, y + i * y_step);
}

/* Outputs [l0, l1) of slices [n0, n1) where x and y lie in the caller's memory. */
static void N_(sum_uncopied_slices)(const struct N_(band) * a, int64_t n0, int64_t n1, int64_t l0,
                                    int64_t l1)
{
    const struct short_conv *c = a->c;
    const int64_t to_channel_0 = a->h0 * dtype_size(c->x->dtype), count = l1 - l0;
    const char *x = (const char *)N_(elements_at)(a, c->x, l0 - c->left).data - to_channel_0;
    char *y = (char *)N_(elements_at)(a, c->y, l0).data - to_channel_0;
#define SLICES(as, K) \
    if (c->streamed) \
        N_(sum_all_of_slices)(as, true, K, c, n0, n1, x, y, count); \
    else \
        N_(sum_all_of_slices)(as, false, K, c, n0, n1, x, y, count)
#define BFLOAT16(K) SLICES(AS_BFLOAT16, K)
#define FLOAT16(K) SLICES(AS_FLOAT16, K)
#define REALS(K) SLICES(AS_REALS, K)
    if (!IN_DOUBLE && c->as == AS_BFLOAT16) {
        FOR_TAPS(c->taps, BFLOAT16)
    } else if (HAVE_FLOAT16 && c->as == AS_FLOAT16) {
        FOR_TAPS(c->taps, FLOAT16)
    } else {
        FOR_TAPS(c->taps, REALS)
    }
#undef BFLOAT16
#undef FLOAT16
#undef REALS
#undef SLICES
}
#undef FLOAT16_LOAD
#undef FLOAT16_OF
#undef FLOAT16_STORE
#undef FLOAT16_STREAM
