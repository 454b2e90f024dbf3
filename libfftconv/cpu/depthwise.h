/* Short convolutions of rows by themselves: struct correlation of internal.h.
 *
 * Work goes tile by tile: some outputs of one row, lanes along them, or, across, of a
 * band of channels that are neighbours in memory, lanes over those.  In REAL a tile is
 * [element] or [element][channel]; what a window reads at tap k lies k `step`s on:
 *
 *     y[j] = bias + sum_k w[k] x[j + k step]
 *
 * so that no vector is ever shifted.  Rows of the engine's own type are read where
 * they are; all else is converted to the worker's memory first. */

#ifdef __SSE2__
#include <immintrin.h>
#endif

/* ---- Tiles ------------------------------------------------------------------------ */

/* Channels [d0, d1) of row b of the batch. */
struct N_(band) {
    const struct correlation *c;
    int64_t b, d0, d1;
    int64_t width; /* reals from element to element of a tile in a worker's memory */
};

static struct N_(band) N_(band_of)(const struct correlation *c, int64_t b, int64_t d0, int64_t d1)
{
    return (struct N_(band)){c, b, d0, d1, c->across ? round_up(d1 - d0, W) : 1};
}

/* Element l, along the band: channels where those are neighbours, else elements. */
static struct array N_(run_at)(const struct N_(band) * a, const fftconv_tensor *t, int64_t l)
{
    const int64_t at = a->b * t->stride[0] + a->d0 * t->stride[1] + l * t->stride[2];
    return (struct array){.data = (char *)t->data + at * dtype_size(t->dtype),
                          .dtype = t->dtype,
                          .stride = t->stride[a->c->across ? 1 : 2]};
}

/* Elements [from, from + count) of a tensor, all there. */
static void N_(take_in)(const struct N_(band) * a, const fftconv_tensor *t, int64_t from,
                        int64_t count, REAL *to)
{
    const int64_t channels = a->d1 - a->d0;
    if (!a->c->across && count > 0) {
        const struct array run = N_(run_at)(a, t, from);
        N_(read)(&run, 0, count, to);
    }
    for (int64_t i = 0; a->c->across && i < count; i++, to += a->width) {
        const struct array run = N_(run_at)(a, t, from + i);
        /* rows far apart: nothing else foresees the next ones */
        const int size = dtype_size(t->dtype);
        const char *ahead = (const char *)run.data + t->stride[2] * 4 * size;
        for (int64_t at = 0; i + 4 < count && run.stride == 1 && at < channels * size; at += 64)
            __builtin_prefetch(ahead + at);
        N_(read)(&run, 0, channels, to);
        memset(to + channels, 0, (size_t)(a->width - channels) * sizeof(REAL));
    }
}

/* The same of a tensor of `length` elements, zeros around it; before element 0 what
 * `before` ends with. */
static void N_(take_padded)(const struct N_(band) * a, const fftconv_tensor *t, int64_t length,
                            const fftconv_tensor *before, int64_t from, int64_t count, REAL *to)
{
    const int64_t history = before ? before->shape[2] : 0;
    const int64_t edges[] = {from, -history, 0, length, from + count};
    int64_t at = from;
    for (int part = 0; part < 4; part++) {
        const int64_t end = max64(at, min64(edges[part + 1], from + count));
        REAL *place = to + (at - from) * a->width;
        if (part == 2)
            N_(take_in)(a, t, at, end - at, place);
        else if (part == 1 && history)
            N_(take_in)(a, before, at + history, end - at, place);
        else
            memset(place, 0, (size_t)((end - at) * a->width) * sizeof(REAL));
        at = end;
    }
    /* vectors read on behind the last element */
    memset(to + count * a->width, 0, (size_t)W * sizeof(REAL));
}

/* Where elements [from, from + count) lie as REALs, and how far apart: in the tensor
 * itself, or in `to`. */
static const REAL *N_(tile_of)(const struct N_(band) * a, const fftconv_tensor *t, int64_t length,
                               const fftconv_tensor *before, int64_t from, int64_t count, REAL *to,
                               int64_t *step)
{
    const bool whole = from >= 0 && from + count <= length &&
                       (a->c->across ? a->d1 - a->d0 : count - a->c->taps + 1) >= W;
    if (whole && t->dtype == REAL_DTYPE && t->stride[a->c->across ? 1 : 2] == 1) {
        *step = t->stride[2];
        return N_(run_at)(a, t, from).data;
    }
    N_(take_padded)(a, t, length, before, from, count, to);
    *step = a->width;
    return to;
}

/* Elements [from, from + count) from a tile. */
static void N_(give_out)(const struct N_(band) * a, const fftconv_tensor *t, int64_t from,
                         int64_t count, const REAL *v)
{
    const int64_t runs = a->c->across ? count : 1, n = a->c->across ? a->d1 - a->d0 : count;
    for (int64_t i = 0; i < runs; i++, v += a->width) {
        const struct array run = N_(run_at)(a, t, from + i);
        N_(write)(&run, 0, n, v);
    }
}

/* ---- Vectors from memory and to it --------------------------------------------------- */

typedef uint32_t N_(words) __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias));
typedef uint32_t N_(words_unaligned)
    __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias, aligned(2)));

INLINE N_(words) N_(load_words)(const void *p) { return *(const N_(words_unaligned) *)p; }

/* Past the caches where `far`: a line of which all is written need not be read. */
INLINE void N_(store_words)(bool far, void *p, N_(words) v)
{
#ifdef __AVX__
    typedef __m256i N_(streamed);
#define STREAM _mm256_stream_si256
#elif defined __SSE2__
    typedef __m128i N_(streamed);
#define STREAM _mm_stream_si128
#endif
#ifdef STREAM
    const union {
        N_(words) v;
        N_(streamed) part[sizeof v / sizeof(N_(streamed))];
    } all = {v};
    for (int i = 0; far && i < (int)(sizeof all / sizeof *all.part); i++)
        STREAM((N_(streamed) *)p + i, all.part[i]);
#undef STREAM
    if (far)
        return;
#endif
    *(N_(words_unaligned) *)p = v;
}

/* float16 has instructions of its own from AVX2 on; elsewhere it goes by rowio.h. */
#if !IN_DOUBLE && defined(__F16C__) && FFTCONV_VECTOR_BYTES == 32
#define HAVE_HALVES 1
#define HALVES_LOAD(p) _mm256_cvtph_ps(_mm_loadu_si128(p))
#define HALVES(v) _mm256_cvtps_ph(v, 0)
#define HALVES_STORE _mm_storeu_si128
#define HALVES_STREAM _mm_stream_si128
typedef __m128i N_(halves);
#elif !IN_DOUBLE && defined(__AVX512F__) && FFTCONV_VECTOR_BYTES == 64
#define HAVE_HALVES 1
#define HALVES_LOAD(p) _mm512_cvtph_ps(_mm256_loadu_si256(p))
#define HALVES(v) _mm512_cvtps_ph(v, 0)
#define HALVES_STORE _mm256_storeu_si256
#define HALVES_STREAM _mm256_stream_si256
typedef __m256i N_(halves);
#else
#define HAVE_HALVES 0
#endif

/* A vector's worth of elements, REALs or halves. */
INLINE V N_(load_as)(int as, const void *p)
{
#if HAVE_HALVES
    if (as == AS_HALVES)
        return (V)HALVES_LOAD((const N_(halves) *)p);
#endif
    (void)as;
    return *(const VU *)p;
}

INLINE void N_(store_as)(int as, bool far, void *p, V v)
{
#if HAVE_HALVES
    if (as == AS_HALVES) {
        if (far)
            HALVES_STREAM((N_(halves) *)p, HALVES(v));
        else
            HALVES_STORE((N_(halves) *)p, HALVES(v));
        return;
    }
#endif
    (void)as;
    N_(store_words)(far, p, (N_(words))v);
}

/* ---- Sums over taps ----------------------------------------------------------------- */

enum { N_(AT_ONCE) = 4 }; /* vectors of outputs that share a tap's load */

/* x in every lane, by one instruction */
INLINE V N_(everywhere)(REAL x) { return x - (V){0}; }

/* A row that will be wanted; it need not be there. */
INLINE void N_(foresee)(const void *row, int64_t bytes)
{
    __builtin_prefetch((const void *)((uintptr_t)row + (uintptr_t)bytes), 0, 2);
}

/* y[m y_step + 0 ... W) for m < outputs, taps wstep apart, the window's `step` */
INLINE void N_(window)(int outputs, int64_t taps, const REAL *w, int64_t wstep, const REAL *bias,
                       const REAL *x, int64_t step, REAL *y, int64_t y_step)
{
    V sum[N_(AT_ONCE)];
#pragma GCC unroll 4
    for (int m = 0; m < outputs; m++)
        sum[m] = *(const VU *)bias;
    for (int64_t k = 0; k < taps; k++) {
        const V f = *(const VU *)(w + k * wstep);
#pragma GCC unroll 4
        for (int m = 0; m < outputs; m++)
            sum[m] += f * *(const VU *)(x + (k + m) * step);
    }
#pragma GCC unroll 4
    for (int m = 0; m < outputs; m++)
        *(VU *)(y + m * y_step) = sum[m];
}

/* The usual numbers of taps are constants in the loops over them, unless
 * FFTCONV_COMPACT asks for less to compile. */
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

/* Elements [k, k + W) of a and b behind it. */
INLINE V N_(shifted)(V a, V b, int k)
{
    VI index = {0};
    for (int i = 0; i < LANES; i++)
        index[i] = i + k;
    return N_(pick)(a, b, index);
}

/* `count` elements of a row, whole vectors; the last one overlaps the one before it, or
 * goes on behind a row of less than one.  A vector of x is loaded once: windows between
 * two are cut from both. */
INLINE void N_(windows_along)(int as, int64_t taps, const REAL *restrict w, REAL bias,
                              const char *x, char *restrict y, int64_t count)
{
    const int64_t size = as == AS_HALVES ? 2 : sizeof(REAL);
    int64_t j = 0;
    if (__builtin_constant_p(taps)) {
        V now = N_(load_as)(as, x);
        for (; j + 2 * W <= count + taps - 1 && j + W <= count; j += W) {
            const V next = N_(load_as)(as, x + (j + W) * size);
            V sum = N_(everywhere)(bias);
#pragma GCC unroll 8
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
        V sum = N_(everywhere)(bias);
        for (int64_t k = 0; k < taps; k++)
            sum += w[k] * N_(load_as)(as, x + (j + k) * size);
        N_(store_as)(as, false, y + j * size, sum);
    }
}

/* `count` elements of `channels` channels: y [element][y_step] */
INLINE void N_(windows_across)(int64_t taps, const REAL *w, int64_t wstep, const REAL *bias,
                               const REAL *x, int64_t step, REAL *y, int64_t y_step,
                               int64_t channels, int64_t count)
{
    for (int64_t i = 0; i < count; i += N_(AT_ONCE))
        for (int64_t c = 0; c < channels; c += W) {
            if (c + W > channels && channels >= W)
                c = channels - W;
            const REAL *at = x + i * step + c;
            for (int64_t m = 0; c % (64 / (int)sizeof *x) == 0 && m < N_(AT_ONCE); m++)
                N_(foresee)(at, (taps - 1 + 2 * N_(AT_ONCE) + m) * step * (int)sizeof *x);
            if (i + N_(AT_ONCE) <= count)
                N_(window)(N_(AT_ONCE), taps, w + c, wstep, bias + c, at, step, y + i * y_step + c,
                           y_step);
            else
                for (int64_t m = 0; m < count - i; m++)
                    N_(window)(1, taps, w + c, wstep, bias + c, at + m * step, step,
                               y + (i + m) * y_step + c, y_step);
        }
}

/* Both, with the band's taps; bias: of its channels. */
static void N_(windows)(const struct N_(band) * a, const void *w_, const REAL *bias, const REAL *x,
                        int64_t step, REAL *y, int64_t y_step, int64_t count)
{
    const int64_t taps = a->c->taps, wstep = round_up(a->c->D, W);
    const REAL *w = (const REAL *)w_ + (a->c->across ? a->d0 : a->d0 * taps);
#define ACROSS(K) N_(windows_across)(K, w, wstep, bias, x, step, y, y_step, a->d1 - a->d0, count)
#define ALONG(K) N_(windows_along)(AS_REALS, K, w, *bias, (const char *)x, (char *)y, count)
    if (a->c->across)
        FOR_TAPS(taps, ACROSS)
    else
        FOR_TAPS(taps, ALONG)
#undef ACROSS
#undef ALONG
}

/* ---- Forward -------------------------------------------------------------------------- */

/* Outputs [l0, l1) before the activation, to y: those whose window leaves x by
 * themselves, so that the others may read where x is. */
static void N_(outputs)(const struct N_(band) * a, int64_t l0, int64_t l1, REAL *x_work, REAL *y,
                        int64_t y_step)
{
    const struct correlation *c = a->c;
    const int64_t inner = max64(l0, min64(l1, c->left));
    int64_t outer = max64(inner, min64(l1, c->L - c->taps + 1 + c->left));
    if (!c->across && outer < l1) /* whole vectors end in the tile */
        outer = max64(inner, min64(outer, l1 - W));
    const int64_t edges[] = {l0, inner, outer, l1};
    const bool split = c->across || outer - inner >= 4 * W;
    for (int part = 0; part < (split ? 3 : 1); part++) {
        const int64_t from = split ? edges[part] : l0, to = split ? edges[part + 1] : l1;
        int64_t step;
        if (from >= to)
            continue;
        const REAL *x = N_(tile_of)(a, c->x, c->L, c->state, from - c->left,
                                    to - from + c->taps - 1, x_work, &step);
        N_(windows)(a, c->w, (const REAL *)c->bias + a->d0, x, step, y + (from - l0) * y_step,
                    y_step, to - from);
    }
}

/* The four pieces of a worker's memory. */
static REAL *N_(piece)(const struct correlation *c, void *work, int i)
{
    return (REAL *)work + i * (correlation_work(c, LANES) / 4);
}

static void N_(correlate_any)(const struct correlation *c, int64_t b, int64_t d0, int64_t d1,
                              int64_t l0, int64_t l1, void *work)
{
    const struct N_(band) a = N_(band_of)(c, b, d0, d1);
    const int64_t n = (c->across ? d1 - d0 : l1 - l0);
    const bool direct = n >= W && c->y->dtype == REAL_DTYPE && c->y->stride[c->across ? 1 : 2] == 1;
    if (direct) {
        REAL *y = (REAL *)N_(run_at)(&a, c->y, l0).data;
        const int64_t y_step = c->across ? c->y->stride[2] : 1;
        N_(outputs)(&a, l0, l1, N_(piece)(c, work, 0), y, y_step);
        for (int64_t i = 0; i < (c->across ? l1 - l0 : 1); i++)
            N_(activate)(c->activation, n, y + i * y_step);
        return;
    }
    REAL *y = N_(piece)(c, work, 1);
    N_(outputs)(&a, l0, l1, N_(piece)(c, work, 0), y, a.width);
    N_(activate)(c->activation, (l1 - l0) * a.width, y);
    N_(give_out)(&a, c->y, l0, l1 - l0, y);
}

/* ---- Rows read and written as they are -------------------------------------------------
 *
 * Of REALs, or of bfloat16 in pairs.  A bfloat16 is a float's upper half: 32 bits of
 * a row are two neighbours, x[n] below and x[n+1] above, and one operation makes a
 * float of each: no widening, no narrowing, and two vectors of outputs, the even ones
 * and the odd ones, at once. */

#if !IN_DOUBLE

INLINE V N_(lower)(N_(words) x) { return (V)(x << 16); }
INLINE V N_(upper)(N_(words) x) { return (V)(x & 0xffff0000u); }

/* Rounded to nearest even in the upper half.  The lower half of a NaN is 0, be it an
 * input's or a sum's: depthwise.c lets no other into its tables. */
INLINE N_(words) N_(rounded)(V v)
{
    const N_(words) bits = (N_(words))v;
    return bits + (0x7fffu + ((bits >> 16) & 1));
}
INLINE N_(words) N_(pairs)(V even, V odd)
{
    return (N_(rounded)(even) >> 16) | (N_(rounded)(odd) & 0xffff0000u);
}

/* 2 W outputs, `times` over.  With F_s[i] = x[2i + s], the even ones are
 * sum_k w[k] F_k and the odd ones sum_k w[k] F_(k+1); an even number of taps reads one
 * element behind the last window. */
INLINE void N_(pairs_window)(int times, int64_t taps, const REAL *w, REAL bias, const uint16_t *x,
                             uint16_t *y)
{
    V even[2], odd[2], now[2], next[2];
    N_(words) both[2];
#pragma GCC unroll 2
    for (int m = 0; m < times; m++) {
        even[m] = odd[m] = N_(everywhere)(bias);
        both[m] = N_(load_words)(x + m * 2 * W);
        now[m] = N_(lower)(both[m]);
    }
    for (int64_t k = 0; k < taps; k++)
#pragma GCC unroll 2
        for (int m = 0; m < times; m++, now[m - 1] = next[m - 1]) {
            if (k % 2)
                both[m] = N_(load_words)(x + m * 2 * W + k + 1);
            next[m] = k % 2 ? N_(lower)(both[m]) : N_(upper)(both[m]);
            even[m] += now[m] * w[k];
            odd[m] += next[m] * w[k];
        }
#pragma GCC unroll 2
    for (int m = 0; m < times; m++)
        N_(store_words)(false, y + m * 2 * W, N_(pairs)(even[m], odd[m]));
}

/* `count` >= 2 W elements of a row. */
INLINE void N_(pairs_along)(int64_t taps, const REAL *restrict w, REAL bias, const uint16_t *x,
                            uint16_t *restrict y, int64_t count)
{
    int64_t j = 0;
    for (; j + 4 * W <= count; j += 4 * W)
        N_(pairs_window)(2, taps, w, bias, x + j, y + j);
    for (; j < count; j += 2 * W) {
        j = min64(j, count - 2 * W);
        N_(pairs_window)(1, taps, w, bias, x + j, y + j);
    }
}

#endif

/* A vector's worth of a row: its elements, and the vectors of sums it takes. */
INLINE int64_t N_(unit)(int as) { return as == AS_PAIRS ? 2 * W : W; }

/* `count` elements of a row, a vector's worth at least. */
static void N_(row)(const struct correlation *c, int64_t d, const char *x, char *y, int64_t count)
{
    const REAL *w = (const REAL *)c->w + d * c->taps, bias = ((const REAL *)c->bias)[d];
#if !IN_DOUBLE
#define PAIRS(K) N_(pairs_along)(K, w, bias, (const uint16_t *)x, (uint16_t *)y, count)
    if (c->as == AS_PAIRS) {
        FOR_TAPS(c->taps, PAIRS)
        return;
    }
#undef PAIRS
#endif
#if HAVE_HALVES
#define HALF(K) N_(windows_along)(AS_HALVES, K, w, bias, x, y, count)
    if (c->as == AS_HALVES) {
        FOR_TAPS(c->taps, HALF)
        return;
    }
#undef HALF
#endif
#define REALS(K) N_(windows_along)(AS_REALS, K, w, bias, x, y, count)
    FOR_TAPS(c->taps, REALS)
#undef REALS
}

/* A vector's worth of outputs from `from` on, whose windows leave the row: from a copy
 * with zeros around. */
static void N_(row_end)(const struct N_(band) * a, int64_t from, char *work)
{
    const struct correlation *c = a->c;
    const int64_t size = dtype_size(c->x->dtype), unit = N_(unit)(c->as);
    const int64_t window = unit + c->taps, first = from - c->left; /* one more: pairs */
    const int64_t in = max64(0, first), out = min64(c->L, first + window);
    const int64_t bytes = (out - in) * size, vector = FFTCONV_VECTOR_BYTES;
    for (int64_t i = 0; i < window * size; i += vector)
        N_(store_words)(false, work + i, (N_(words)){0});
    if (bytes > 0) {
        const char *x = N_(run_at)(a, c->x, in).data;
        char *to = work + (in - first) * size;
        if (bytes >= vector && bytes <= 2 * vector) {
            const N_(words) last = N_(load_words)(x + bytes - vector);
            N_(store_words)(false, to, N_(load_words)(x));
            N_(store_words)(false, to + bytes - vector, last);
        } else
            memcpy(to, x, (size_t)bytes);
    }
    char *y = (char *)N_(run_at)(a, c->y, from).data;
    N_(row)(c, a->d0, work, y, unit);
    N_(activate)(c->activation, c->as == AS_REALS ? unit : 0, (REAL *)y);
}

/* Row i of x to the sums of those of `rows` outputs whose windows it is in. */
INLINE void N_(row_to_sums)(int as, int rows, int64_t taps, int64_t i, const REAL *table,
                            const char *x, V *even, V *odd)
{
    const bool paired = as == AS_PAIRS;
    const int each = paired ? 2 : 1;
#if IN_DOUBLE
    const V lower = N_(load_as)(as, x), upper = lower;
#else
    const N_(words) both = paired ? N_(load_words)(x) : (N_(words)){0};
    const V lower = paired ? N_(lower)(both) : N_(load_as)(as, x), upper = N_(upper)(both);
#endif
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) {
        const int64_t k = i - m;
        if (k < 0 || k >= taps)
            continue;
        even[m] += lower * N_(load)(table + k * each * W);
        if (paired)
            odd[m] += upper * N_(load)(table + (2 * k + 1) * W);
    }
    /* taps again from the table: not all of them have a register */
    if (paired)
        __asm__ volatile("" : : : "memory");
}

/* `rows` outputs of a vector's worth of channels; table: [tap, at last the bias], each
 * a vector, or two, the even channels before the odd ones. */
INLINE void N_(block)(int as, bool far, int rows, int64_t taps, const REAL *table, const char *x,
                      int64_t step, char *y, int64_t y_step)
{
    const int each = as == AS_PAIRS ? 2 : 1;
    V even[N_(AT_ONCE)], odd[N_(AT_ONCE)];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) {
        even[m] = N_(load)(table + taps * each * W);
        odd[m] = N_(load)(table + (taps * each + each - 1) * W);
    }
    if (__builtin_constant_p(taps)) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < taps + rows - 1; i++)
            N_(row_to_sums)(as, rows, taps, i, table, x + i * step, even, odd);
    } else {
        for (int64_t i = 0; i < taps + rows - 1; i++)
            N_(row_to_sums)(as, rows, taps, i, table, x + i * step, even, odd);
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++)
#if !IN_DOUBLE
        if (as == AS_PAIRS)
            N_(store_words)(far, y + m * y_step, N_(pairs)(even[m], odd[m]));
        else
#endif
            N_(store_as)(as, far, y + m * y_step, even[m]);
}

/* The first channel of block n.  Where y goes past the caches, blocks start at a line
 * of y's and go on into the next row; else the last one overlaps its neighbour. */
INLINE int64_t N_(block_at)(const struct correlation *c, bool far, int64_t n, int64_t unit)
{
    return far ? c->first + n * unit : min64(n * unit, c->D - unit);
}

static void N_(correlate_blocks)(const struct correlation *c, void *to)
{
    const int64_t unit = N_(unit)(c->as), wstep = round_up(c->D, W);
    REAL *v = to;
    for (int64_t n = 0; n * unit < c->D; n++)
        for (int64_t k = 0; k <= c->taps; k++, v += unit) {
            const REAL *from = (const REAL *)(k < c->taps ? c->w : c->bias) +
                               (k < c->taps ? k * wstep : 0);
            const int64_t at = N_(block_at)(c, c->far, n, unit);
            for (int64_t i = 0; i < unit; i++) {
                const int64_t d = at + (c->as == AS_PAIRS ? 2 * (i % W) + i / W : i);
                v[i] = from[d < c->D ? d : d - c->D];
            }
        }
}

/* Blocks [n0, n1) of `rows` rows, x and y at channel 0. */
INLINE void N_(blocks)(int as, bool far, int rows, int64_t taps, const struct correlation *c,
                       int64_t n0, int64_t n1, const char *x, char *y)
{
    const int size = dtype_size(c->x->dtype);
    const int64_t unit = N_(unit)(as), reals = (taps + 1) * unit;
    const int64_t step = c->x->stride[2] * size, y_step = c->y->stride[2] * size;
    for (int64_t n = n0; n < n1; n++) {
        const int64_t at = N_(block_at)(c, far, n, unit) * size;
        /* rows apart: nothing else foresees the next ones */
        for (int m = 0; (!far || n * unit * size % 64 == 0) && m < rows; m++) {
            N_(foresee)(x + at, (taps - 1 + rows + m) * step);
            if (!far)
                N_(foresee)(y + at, (rows + m) * y_step);
        }
        N_(block)(as, far, rows, taps, (const REAL *)c->blocks + n * reals, x + at, step, y + at,
                  y_step);
    }
}

/* Rows [0, count) of blocks [n0, n1). */
INLINE void N_(blocks_down)(int as, bool far, int64_t taps, const struct correlation *c, int64_t n0,
                            int64_t n1, const char *x, char *y, int64_t count)
{
    enum { ROWS = N_(AT_ONCE) };
    const int size = dtype_size(c->x->dtype);
    const int64_t step = c->x->stride[2] * size, y_step = c->y->stride[2] * size;
    int64_t i = 0;
    for (; i + ROWS <= count; i += ROWS)
        N_(blocks)(as, far, ROWS, taps, c, n0, n1, x + i * step, y + i * y_step);
    for (; i < count; i++)
        N_(blocks)(as, far, 1, taps, c, n0, n1, x + i * step, y + i * y_step);
}

/* Outputs [l0, l1) of blocks [n0, n1). */
static void N_(down)(const struct N_(band) * a, int64_t n0, int64_t n1, int64_t l0, int64_t l1)
{
    const struct correlation *c = a->c;
    const int64_t back = a->d0 * dtype_size(c->x->dtype), n = l1 - l0;
    const char *x = (const char *)N_(run_at)(a, c->x, l0 - c->left).data - back;
    char *y = (char *)N_(run_at)(a, c->y, l0).data - back;
#define DOWN(as, K) \
    if (c->far) \
        N_(blocks_down)(as, true, K, c, n0, n1, x, y, n); \
    else \
        N_(blocks_down)(as, false, K, c, n0, n1, x, y, n)
#if !IN_DOUBLE
#define PAIRS(K) DOWN(AS_PAIRS, K)
    if (c->as == AS_PAIRS) {
        FOR_TAPS(c->taps, PAIRS)
        return;
    }
#undef PAIRS
#endif
#if HAVE_HALVES
#define HALF(K) DOWN(AS_HALVES, K)
    if (c->as == AS_HALVES) {
        FOR_TAPS(c->taps, HALF)
        return;
    }
#undef HALF
#endif
#define REALS(K) DOWN(AS_REALS, K)
    FOR_TAPS(c->taps, REALS)
#undef REALS
#undef DOWN
}

/* Outputs [l0, l1) of a band, windows within x; those rows of all are [first, last). */
static void N_(band_down)(const struct N_(band) * a, int64_t l0, int64_t l1, int64_t first,
                          int64_t last, void *work)
{
    const struct correlation *c = a->c;
    const int64_t unit = N_(unit)(c->as);
    const int64_t n0 = a->d0 ? (a->d0 - c->first) / unit : 0;
    const int64_t n1 = a->d1 < c->D ? (a->d1 - c->first) / unit : ceil_div(c->D, unit);
    if (!c->far) {
        N_(down)(a, n0, n1, l0, l1);
        for (int64_t l = l0; l < l1; l++)
            N_(activate)(c->activation, a->d1 - a->d0, (REAL *)N_(run_at)(a, c->y, l).data);
        return;
    }
    /* The row before writes a row's first channels, but not the first row's; and no
     * row is behind the last. */
    const int64_t end = l1 - (l1 == last), whole = min64(n1, (c->D - c->first) / unit);
    if (end > l0)
        N_(down)(a, n0, n1, l0, end);
    if (end < l1)
        N_(down)(a, n0, whole, end, l1);
    if (l0 == first && a->d0 == 0 && c->first > 0)
        N_(correlate_any)(c, a->b, 0, c->first, l0, l0 + 1, work);
    if (l1 == last && a->d1 == c->D && c->first + whole * unit < c->D)
        N_(correlate_any)(c, a->b, c->first + whole * unit, c->D, l1 - 1, l1, work);
}

static void N_(correlate)(const struct correlation *c, int64_t b, int64_t d0, int64_t d1,
                          int64_t l0, int64_t l1, void *work)
{
    /* [inner, outer): windows stay within x */
    const int64_t unit = N_(unit)(c->as);
    int64_t inner = max64(l0, min64(l1, c->left));
    const int64_t last = c->L - c->taps + 1 + c->left - (c->as == AS_PAIRS && !c->across);
    int64_t outer = max64(inner, min64(l1, last));
    if (!c->direct || (c->as == AS_HALVES && !HAVE_HALVES) ||
        outer - inner < (c->across ? 1 : unit)) {
        N_(correlate_any)(c, b, d0, d1, l0, l1, work);
        return;
    }
    const struct N_(band) a = N_(band_of)(c, b, d0, d1);
    if (inner > l0 && !c->across && !c->state && inner - l0 <= unit) {
        N_(row_end)(&a, l0, work);
        inner = min64(l0 + unit, outer);
    } else if (inner > l0)
        N_(correlate_any)(c, b, d0, d1, l0, inner, work);
    const bool end = outer < l1 && !c->across && l1 - outer <= unit;
    const int64_t to = end ? max64(l1 - unit, inner) : outer;
    if (c->across)
        N_(band_down)(&a, inner, outer, max64(0, c->left), min64(c->Lout, last), work);
    else if (to - inner >= unit) {
        char *y = (char *)N_(run_at)(&a, c->y, inner).data;
        N_(row)(c, d0, N_(run_at)(&a, c->x, inner - c->left).data, y, to - inner);
        N_(activate)(c->activation, c->as == AS_REALS ? to - inner : 0, (REAL *)y);
    } else if (to > inner)
        N_(row_end)(&a, min64(inner, l1 - unit), work);
    if (end)
        N_(row_end)(&a, l1 - unit, work);
    else if (outer < l1)
        N_(correlate_any)(c, b, d0, d1, outer, l1, work);
#ifdef __SSE2__
    if (c->far)
        _mm_sfence();
#endif
}

/* ---- Backward -------------------------------------------------------------------------- */

/* g = dy act'(p) at outputs [from, from + count), zeros outside [0, Lout). */
static void N_(gradient_tile)(const struct N_(band) * a, int64_t from, int64_t count, REAL *g,
                              void *work)
{
    const struct correlation *c = a->c;
    N_(take_padded)(a, c->dy, c->Lout, NULL, from, count, g);
    const int64_t l0 = max64(0, from), l1 = min64(c->Lout, from + count);
    if (c->activation == FFTCONV_ACTIVATION_IDENTITY || l0 >= l1)
        return;
    REAL *p = N_(piece)(c, work, 2), *at = g + (l0 - from) * a->width;
    const int64_t reals = (l1 - l0) * a->width;
    N_(outputs)(a, l0, l1, N_(piece)(c, work, 1), p, a->width);
    N_(slope)(c->activation, reals, p, p);
    for (int64_t i = 0; i < reals; i++)
        at[i] *= p[i];
}

/* dx[m] = sum_k w[taps - 1 - k] g[m - (taps - 1 - left) + k] */
static void N_(correlate_dx)(const struct correlation *c, const void *flipped, int64_t b,
                             int64_t d0, int64_t d1, int64_t l0, int64_t l1, void *work)
{
    const struct N_(band) a = N_(band_of)(c, b, d0, d1);
    static const REAL zeros[BAND + 48]; /* bias */
    REAL *g = N_(piece)(c, work, 0), *dx = N_(piece)(c, work, 3);
    N_(gradient_tile)(&a, l0 - (c->taps - 1 - c->left), l1 - l0 + c->taps - 1, g, work);
    N_(windows)(&a, flipped, zeros, g, a.width, dx, a.width, l1 - l0);
    const int64_t before = c->dstate ? c->taps - 1 : 0, split = max64(l0, min64(0, l1));
    if (c->dstate && split > l0)
        N_(give_out)(&a, c->dstate, l0 + before, split - l0, dx);
    if (c->dx && l1 > split)
        N_(give_out)(&a, c->dx, split, l1 - split, dx + (split - l0) * a.width);
}

/* sums[k] += sum_i g[i] x[i + k tap] for k < taps, and sum_i g[i] to `total`, of
 * vectors i, `step` apart: over all lanes, or, across, n of them by themselves. */
INLINE void N_(inner_products)(bool across, int64_t taps, const REAL *g, const REAL *x,
                               int64_t step, int64_t tap, int64_t count, int64_t n, double *sums,
                               double *total, int64_t lane_step)
{
    V sum[8] = {0};
    for (int64_t i = 0; i < count; i++, g += step, x += step) {
        const V f = *(const VU *)g;
#pragma GCC unroll 8
        for (int64_t k = 0; k < taps; k++)
            sum[k] += f * *(const VU *)(x + k * tap);
        sum[taps] += f;
    }
#pragma GCC unroll 8
    for (int64_t k = 0; k <= taps; k++) {
        double *to = k < taps ? sums + k : total;
        for (int64_t lane = 0; to && lane < (across ? n : W); lane++)
            to[across ? lane * lane_step : 0] += (double)sum[k][lane];
    }
}

/* Those of a tile with the gradients of `count` outputs, `each` taps at a time. */
INLINE void N_(tile_products)(const struct N_(band) * a, int64_t each, const REAL *g, const REAL *x,
                              int64_t count, double *sums)
{
    const int64_t taps = a->c->taps, channels = a->d1 - a->d0, width = a->width;
    for (int64_t d = 0; d < channels; d += W, sums += W * (taps + 1))
        for (int64_t k = 0; k < taps; k += each) {
            double *total = k + each < taps ? NULL : sums + taps;
            if (a->c->across)
                N_(inner_products)(true, each, g + d, x + d + k * width, width, width, count,
                                   min64(W, channels - d), sums + k, total, taps + 1);
            else /* zeros behind g's last element meet what follows x's */
                N_(inner_products)(false, each, g, x + k, W, 1, ceil_div(count, W), 1, sums + k,
                                   total, 0);
        }
}

static void N_(correlate_dw)(const struct correlation *c, int64_t b, int64_t d0, int64_t d1,
                             int64_t l0, int64_t l1, double *sums, void *work)
{
    const struct N_(band) a = N_(band_of)(c, b, d0, d1);
    REAL *g = N_(piece)(c, work, 0), *x = N_(piece)(c, work, 1);
    N_(gradient_tile)(&a, l0, l1 - l0, g, work);
    N_(take_padded)(&a, c->x, c->L, c->state, l0 - c->left, l1 - l0 + c->taps - 1, x);
#define PRODUCTS(K) N_(tile_products)(&a, __builtin_constant_p(K) ? (K) : 1, g, x, l1 - l0, sums)
    FOR_TAPS(c->taps, PRODUCTS)
#undef PRODUCTS
}

/* out[i] = act(in[i]) or act'(in[i]) */
static void N_(apply)(int activation, bool slope, int64_t count, const void *in, void *out)
{
    if (slope) {
        N_(slope)(activation, count, in, out);
        return;
    }
    if (in != out)
        memcpy(out, in, (size_t)count * sizeof(REAL));
    N_(activate)(activation, count, out);
}
#undef HAVE_HALVES
#undef HALVES_LOAD
#undef HALVES
#undef HALVES_STORE
#undef HALVES_STREAM
