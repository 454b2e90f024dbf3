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

#ifndef DEPTHWISE_STREAM
#define DEPTHWISE_STREAM
#ifdef __SSE2__
#include <emmintrin.h>
/* Copies past the caches: a line is written without being read. */
static inline void stream_bytes(char *to, const char *from, int64_t bytes)
{
    const int64_t head = min64(bytes, -(intptr_t)to & 63);
    memcpy(to, from, (size_t)head);
    int64_t i = head;
    for (; i + 64 <= bytes; i += 64)
        for (int part = 0; part < 64; part += 16)
            _mm_stream_si128((__m128i *)(to + i + part),
                             _mm_loadu_si128((const __m128i *)(from + i + part)));
    memcpy(to + i, from + i, (size_t)(bytes - i));
}
static inline void stream_end(void) { _mm_sfence(); }
#else
static inline void stream_bytes(char *to, const char *from, int64_t bytes)
{
    memcpy(to, from, (size_t)bytes);
}
static inline void stream_end(void) {}
#endif
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
static struct array N_(run_at)(const struct N_(band) *a, const fftconv_tensor *t, int64_t l)
{
    const int64_t at = a->b * t->stride[0] + a->d0 * t->stride[1] + l * t->stride[2];
    return (struct array){.data = (char *)t->data + at * dtype_size(t->dtype), .dtype = t->dtype,
                          .stride = t->stride[a->c->across ? 1 : 2]};
}

/* Elements [from, from + count) of a tensor, all there. */
static void N_(take_in)(const struct N_(band) *a, const fftconv_tensor *t, int64_t from,
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
static void N_(take_padded)(const struct N_(band) *a, const fftconv_tensor *t, int64_t length,
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
static const REAL *N_(tile_of)(const struct N_(band) *a, const fftconv_tensor *t, int64_t length,
                               const fftconv_tensor *before, int64_t from, int64_t count,
                               REAL *to, int64_t *step)
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

/* Elements [from, from + count) from a tile; spare holds as many. */
static void N_(give_out)(const struct N_(band) *a, const fftconv_tensor *t, int64_t from,
                         int64_t count, const REAL *v, REAL *spare)
{
    const int64_t runs = a->c->across ? count : 1, n = a->c->across ? a->d1 - a->d0 : count;
    for (int64_t i = 0; i < runs; i++, v += a->width) {
        struct array run = N_(run_at)(a, t, from + i);
        if (!a->c->stream || run.stride != 1) {
            N_(write)(&run, 0, n, v);
        } else {
            const struct array here = {.data = spare, .dtype = run.dtype, .stride = 1};
            if (run.dtype != REAL_DTYPE)
                N_(write)(&here, 0, n, v);
            stream_bytes((char *)run.data, (const char *)(run.dtype == REAL_DTYPE ? v : spare),
                         n * dtype_size(run.dtype));
        }
    }
}

/* ---- Sums over taps ----------------------------------------------------------------- */

enum { N_(AT_ONCE) = 4 }; /* vectors of outputs that share a tap's load */

/* x in every lane, by one instruction */
INLINE V N_(everywhere)(REAL x) { return x - (V){0}; }

/* A row that will be wanted; it need not be there. */
INLINE void N_(foresee)(const void *row, int64_t bytes)
{
    __builtin_prefetch((const void *)((uintptr_t)row + (uintptr_t)bytes));
}

/* y[m far + 0 ... W) for m < outputs, taps wstep apart, the window's `step` */
INLINE void N_(window)(int outputs, bool across, int64_t taps, const REAL *w, int64_t wstep,
                       const REAL *bias, const REAL *x, int64_t step, int64_t x_far, REAL *y,
                       int64_t y_far)
{
    V sum[N_(AT_ONCE)];
#pragma GCC unroll 4
    for (int m = 0; m < outputs; m++)
        sum[m] = across ? (V)*(const VU *)bias : N_(everywhere)(*bias);
    for (int64_t k = 0; k < taps; k++) {
        const V f = across ? (V)*(const VU *)(w + k * wstep) : N_(everywhere)(w[k]);
#pragma GCC unroll 4
        for (int m = 0; m < outputs; m++)
            sum[m] += f * *(const VU *)(x + k * step + m * x_far);
    }
#pragma GCC unroll 4
    for (int m = 0; m < outputs; m++)
        *(VU *)(y + m * y_far) = sum[m];
}

/* The usual numbers of taps are constants in the loops over them. */
#define FOR_TAPS(taps, call)        \
    switch (taps) {                 \
    case 2: call(2); break;         \
    case 3: call(3); break;         \
    case 4: call(4); break;         \
    case 5: call(5); break;         \
    case 7: call(7); break;         \
    default: call(taps);            \
    }

/* `count` elements of a row; the last vector overlaps the one before it, or goes on
 * behind a row of less than one. */
INLINE void N_(windows_along)(int64_t taps, const REAL *w, REAL bias, const REAL *x, REAL *y,
                              int64_t count)
{
    int64_t j = 0;
    for (; j + N_(AT_ONCE) * W <= count; j += N_(AT_ONCE) * W)
        N_(window)(N_(AT_ONCE), false, taps, w, 1, &bias, x + j, 1, W, y + j, W);
    for (; j < count; j += W) {
        if (j + W > count && count >= W)
            j = count - W;
        N_(window)(1, false, taps, w, 1, &bias, x + j, 1, W, y + j, W);
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
                N_(window)(N_(AT_ONCE), true, taps, w + c, wstep, bias + c, at, step, step,
                           y + i * y_step + c, y_step);
            else
                for (int64_t m = 0; m < count - i; m++)
                    N_(window)(1, true, taps, w + c, wstep, bias + c, at + m * step, step, step,
                               y + (i + m) * y_step + c, y_step);
        }
}

/* Both, with the band's taps; bias: of its channels. */
static void N_(windows)(const struct N_(band) *a, const void *w_, const REAL *bias, const REAL *x,
                        int64_t step, REAL *y, int64_t y_step, int64_t count)
{
    const int64_t taps = a->c->taps, wstep = round_up(a->c->D, W);
    const REAL *w = (const REAL *)w_ + (a->c->across ? a->d0 : a->d0 * taps);
#define ACROSS(K) \
    N_(windows_across)(K, w, wstep, bias, x, step, y, y_step, a->d1 - a->d0, count)
#define ALONG(K) N_(windows_along)(K, w, *bias, x, y, count)
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
static void N_(outputs)(const struct N_(band) *a, int64_t l0, int64_t l1, REAL *x_work, REAL *y,
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
        const REAL *x = N_(tile_of)(a, c->x, c->L, c->state, from - c->left, to - from + c->taps - 1,
                                    x_work, &step);
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
    const bool direct = !c->stream && n >= W && c->y->dtype == REAL_DTYPE &&
                        c->y->stride[c->across ? 1 : 2] == 1;
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
    N_(give_out)(&a, c->y, l0, l1 - l0, y, N_(piece)(c, work, 2));
    if (c->stream)
        stream_end();
}

#if !IN_DOUBLE

/* ---- bfloat16 in pairs -------------------------------------------------------------------
 *
 * A bfloat16 is a float's upper half.  So 32 bits of a row are two neighbours, x[n]
 * below and x[n+1] above, and one operation makes a float of each: no widening, no
 * narrowing, and two vectors of outputs, the even ones and the odd ones, at once. */

typedef uint32_t N_(words) __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias));
typedef uint32_t N_(words_unaligned)
    __attribute__((vector_size(FFTCONV_VECTOR_BYTES), may_alias, aligned(2)));

INLINE N_(words) N_(load_words)(const uint16_t *p) { return *(const N_(words_unaligned) *)p; }
INLINE V N_(lower)(N_(words) x) { return (V)(x << 16); }
INLINE V N_(upper)(N_(words) x) { return (V)(x & 0xffff0000u); }

/* Rounded to nearest even in the upper half; the NaN of a sum is quiet, and stays one
 * without. */
INLINE N_(words) N_(rounded)(V v)
{
    const N_(words) bits = (N_(words))v, number = (N_(words))(v == v);
    return bits + (number & (0x7fffu + ((bits >> 16) & 1)));
}
INLINE void N_(store_pairs)(uint16_t *p, V even, V odd)
{
    *(N_(words_unaligned) *)p =
        (N_(rounded)(even) >> 16) | (N_(rounded)(odd) & 0xffff0000u);
}

/* `count` >= 2 W elements of a row.  With F_s[i] = x[j + 2i + s], the even outputs are
 * sum_k w[k] F_k and the odd ones sum_k w[k] F_(k+1); an even number of taps reads one
 * element behind the last window. */
INLINE void N_(pairs_along)(int64_t taps, const REAL *w, REAL bias, const uint16_t *x,
                            uint16_t *y, int64_t count)
{
    for (int64_t j = 0; j < count; j += 2 * W) {
        j = min64(j, count - 2 * W);
        V even = N_(everywhere)(bias), odd = even;
        N_(words) both = N_(load_words)(x + j);
        V now = N_(lower)(both), next;
        for (int64_t k = 0; k < taps; k++, now = next) {
            if (k % 2)
                both = N_(load_words)(x + j + k + 1);
            next = k % 2 ? N_(lower)(both) : N_(upper)(both);
            even += now * w[k];
            odd += next * w[k];
        }
        N_(store_pairs)(y + j, even, odd);
    }
}

/* `rows` outputs of 2 W channels; w [tap][wstep], even channels first. */
INLINE void N_(pairs_block)(int rows, int64_t taps, const REAL *w, int64_t wstep, const REAL *bias,
                            const uint16_t *x, int64_t step, uint16_t *y, int64_t y_step)
{
    V even[N_(AT_ONCE)], odd[N_(AT_ONCE)];
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++)
        even[m] = N_(load)(bias), odd[m] = N_(load)(bias + W);
    for (int64_t k = 0; k < taps; k++) {
        const V e = N_(load)(w + k * wstep), o = N_(load)(w + k * wstep + W);
#pragma GCC unroll 4
        for (int m = 0; m < rows; m++) {
            const N_(words) both = N_(load_words)(x + (k + m) * step);
            even[m] += N_(lower)(both) * e;
            odd[m] += N_(upper)(both) * o;
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++)
        N_(store_pairs)(y + m * y_step, even[m], odd[m]);
}

/* Elements [0, count) of `channels` channels, a multiple of 2 W. */
INLINE void N_(pairs_across)(int64_t taps, const REAL *w, int64_t wstep, const REAL *bias,
                             const uint16_t *x, int64_t step, uint16_t *y, int64_t y_step,
                             int64_t channels, int64_t count)
{
    for (int64_t i = 0, n; i < count; i += n) {
        n = i + N_(AT_ONCE) <= count ? N_(AT_ONCE) : 1;
        for (int64_t c = 0; c < channels; c += 2 * W) {
            for (int64_t m = 0; c % (64 / (int)sizeof *x) == 0 && m < n; m++)
                N_(foresee)(x + i * step + c,
                            (taps - 1 + 2 * N_(AT_ONCE) + m) * step * (int)sizeof *x);
            if (n > 1)
                N_(pairs_block)(N_(AT_ONCE), taps, w + c, wstep, bias + c, x + i * step + c, step,
                                y + i * y_step + c, y_step);
            else
                N_(pairs_block)(1, taps, w + c, wstep, bias + c, x + i * step + c, step,
                                y + i * y_step + c, y_step);
        }
    }
}

static bool N_(is_paired)(const struct correlation *c, const fftconv_tensor *t)
{
    return t->dtype == FFTCONV_BFLOAT16 && t->stride[c->across ? 1 : 2] == 1;
}

/* What of a tile goes in pairs; the rest, at x's ends and of the last channels, as
 * anything else. */
static void N_(correlate)(const struct correlation *c, int64_t b, int64_t d0, int64_t d1,
                          int64_t l0, int64_t l1, void *work)
{
    const int64_t inner = max64(l0, min64(l1, c->left));
    const int64_t last = c->L - c->taps + 1 + c->left - (!c->across && c->taps % 2 == 0);
    const int64_t outer = max64(inner, min64(l1, last)), taps = c->taps;
    const int64_t paired = c->across ? (d1 - d0) / (2 * W) * 2 * W : 1, n = outer - inner;
    if (c->activation != FFTCONV_IDENTITY || !N_(is_paired)(c, c->x) || !N_(is_paired)(c, c->y) ||
        (c->across ? !paired || !n : n < 2 * W)) {
        N_(correlate_any)(c, b, d0, d1, l0, l1, work);
        return;
    }
    const struct N_(band) a = {c, b, d0, d0 + paired, c->across ? paired : 1};
    const uint16_t *x = N_(run_at)(&a, c->x, inner - c->left).data;
    uint16_t *y = (uint16_t *)N_(run_at)(&a, c->y, inner).data, *to = c->stream ? work : y;
    const int64_t step = c->x->stride[2], y_step = c->stream ? paired : c->y->stride[2];
    const int64_t wstep = round_up(c->D, 2 * W);
    const REAL *w = (const REAL *)c->w + d0 * taps, *bias = (const REAL *)c->bias + d0;
    if (c->across)
        w = (const REAL *)c->pairs + d0, bias = (const REAL *)c->pairs + taps * wstep + d0;
#define ACROSS(K) N_(pairs_across)(K, w, wstep, bias, x, step, to, y_step, paired, n)
#define ALONG(K) N_(pairs_along)(K, w, *bias, x, to, n)
    if (c->across)
        FOR_TAPS(taps, ACROSS)
    else
        FOR_TAPS(taps, ALONG)
#undef ACROSS
#undef ALONG
    for (int64_t i = 0; c->stream && i < (c->across ? n : 1); i++)
        stream_bytes((char *)(y + i * c->y->stride[2]), (const char *)(to + i * paired),
                     (c->across ? paired : n) * (int64_t)sizeof *y);
    if (inner > l0)
        N_(correlate_any)(c, b, d0, d1, l0, inner, work);
    if (l1 > outer)
        N_(correlate_any)(c, b, d0, d1, outer, l1, work);
    if (c->across && d0 + paired < d1)
        N_(correlate_any)(c, b, d0 + paired, d1, inner, outer, work);
    if (c->stream)
        stream_end();
}

#else

static void N_(correlate)(const struct correlation *c, int64_t b, int64_t d0, int64_t d1,
                          int64_t l0, int64_t l1, void *work)
{
    N_(correlate_any)(c, b, d0, d1, l0, l1, work);
}

#endif

/* ---- Backward -------------------------------------------------------------------------- */

/* g = dy act'(p) at outputs [from, from + count), zeros outside [0, Lout). */
static void N_(gradient_tile)(const struct N_(band) *a, int64_t from, int64_t count, REAL *g,
                              void *work)
{
    const struct correlation *c = a->c;
    N_(take_padded)(a, c->dy, c->Lout, NULL, from, count, g);
    const int64_t l0 = max64(0, from), l1 = min64(c->Lout, from + count);
    if (c->activation == FFTCONV_IDENTITY || l0 >= l1)
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
    static const REAL zeros[BAND + 16]; /* bias */
    REAL *g = N_(piece)(c, work, 0), *dx = N_(piece)(c, work, 3);
    N_(gradient_tile)(&a, l0 - (c->taps - 1 - c->left), l1 - l0 + c->taps - 1, g, work);
    N_(windows)(&a, flipped, zeros, g, a.width, dx, a.width, l1 - l0);
    const int64_t before = c->dstate ? c->taps - 1 : 0, split = max64(l0, min64(0, l1));
    if (c->dstate && split > l0)
        N_(give_out)(&a, c->dstate, l0 + before, split - l0, dx, N_(piece)(c, work, 1));
    if (c->dx && l1 > split)
        N_(give_out)(&a, c->dx, split, l1 - split, dx + (split - l0) * a.width,
                     N_(piece)(c, work, 1));
    if (c->stream)
        stream_end();
}

/* sum_j g[j] x[j], whole vectors */
INLINE REAL N_(dot)(const REAL *g, const REAL *x, int64_t count)
{
    V sum[N_(AT_ONCE)] = {0};
    int64_t j = 0;
    for (; j + N_(AT_ONCE) * W <= count; j += N_(AT_ONCE) * W)
#pragma GCC unroll 4
        for (int m = 0; m < N_(AT_ONCE); m++)
            sum[m] += *(const VU *)(g + j + m * W) * *(const VU *)(x + j + m * W);
    for (; j < count; j += W)
        sum[0] += *(const VU *)(g + j) * *(const VU *)(x + j);
    sum[0] += sum[1] + (sum[2] + sum[3]);
    REAL total = 0;
    for (int i = 0; i < LANES; i++)
        total += sum[0][i];
    return total;
}

static void N_(correlate_dw)(const struct correlation *c, int64_t b, int64_t d0, int64_t d1,
                             int64_t l0, int64_t l1, double *sums, void *work)
{
    const struct N_(band) a = N_(band_of)(c, b, d0, d1);
    const int64_t taps = c->taps, count = l1 - l0;
    REAL *g = N_(piece)(c, work, 0), *x = N_(piece)(c, work, 1);
    N_(gradient_tile)(&a, l0, count, g, work);
    N_(take_padded)(&a, c->x, c->L, c->state, l0 - c->left, count + taps - 1, x);
    if (!c->across) { /* zeros behind g's last element meet what follows x's */
        for (int64_t k = 0; k < taps; k++)
            sums[k] += (double)N_(dot)(g, x + k, count);
        for (int64_t j = 0; j < count; j++)
            sums[taps] += (double)g[j];
        return;
    }
    for (int64_t k = 0; k <= taps; k++)
        for (int64_t d = 0; d < d1 - d0; d += W) {
            V sum = {0};
            for (int64_t i = 0; i < count; i++) {
                const V f = *(const VU *)(g + i * a.width + d);
                const V by = k < taps ? (V)*(const VU *)(x + (i + k) * a.width + d) : SPLAT(1);
                sum += f * by;
            }
            for (int64_t j = 0; j < min64(W, d1 - d0 - d); j++)
                sums[(d + j) * (taps + 1) + k] += (double)sum[j];
        }
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
