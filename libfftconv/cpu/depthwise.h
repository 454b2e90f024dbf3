/* Short convolutions of rows by themselves, tile by tile: struct depthwise_kernels. */

#include "depthwise_tiles.h"
#include "depthwise_sums.h"

/* ---- Forward, through a worker's buffers where need be ----------------------------------- */

/* Outputs [l0, l1) before their activation, to y.  Those whose windows leave x are made apart,
 * so that the others may read x where it is. */
static void N_(outputs)(const struct N_(band) * a, int64_t l0, int64_t l1, REAL *x_buffer, REAL *y,
                        int64_t y_step)
{
    const struct short_conv *c = a->c;
    const int64_t inner = max64(l0, min64(l1, c->left));
    int64_t outer = max64(inner, min64(l1, c->L - c->taps + 1 + c->left));
    if (!c->channels_last && outer < l1) /* whole vectors end in the tile */
        outer = max64(inner, min64(outer, l1 - W));
    const int64_t edges[] = {l0, inner, outer, l1};
    const bool split = c->channels_last || outer - inner >= 4 * W;
    for (int i = 0; i < (split ? 3 : 1); i++) {
        const int64_t from = split ? edges[i] : l0, to = split ? edges[i + 1] : l1;
        int64_t step;
        if (from >= to)
            continue;
        const REAL *x = N_(find_elements)(a, c->x, c->L, c->state, from - c->left,
                                          to - from + c->taps - 1, x_buffer, &step);
        N_(sum_tile)(a, c->w, (const REAL *)c->bias + a->h0, x, step, y + (from - l0) * y_step,
                     y_step, to - from);
    }
}

/* A tile of y, of any dtype and with any strides. */
static void N_(any_tile)(const struct short_conv *c, int64_t b, int64_t h0, int64_t h1, int64_t l0,
                         int64_t l1, void *work)
{
    const struct N_(band) a = N_(band_of)(c, b, h0, h1);
    REAL *x = N_(buffer)(c, work, TILE_X);
    const int64_t along_lanes = c->channels_last ? h1 - h0 : l1 - l0;
    const bool in_place = along_lanes >= W && c->y->dtype == REAL_DTYPE &&
                          c->y->stride[c->channels_last ? 1 : 2] == 1;
    if (in_place) {
        REAL *y = (REAL *)N_(elements_at)(&a, c->y, l0).data;
        const int64_t y_step = c->channels_last ? c->y->stride[2] : 1;
        N_(outputs)(&a, l0, l1, x, y, y_step);
        for (int64_t i = 0; i < (c->channels_last ? l1 - l0 : 1); i++)
            N_(activate)(c->activation, along_lanes, y + i * y_step);
        return;
    }
    REAL *y = N_(buffer)(c, work, TILE_OUT);
    N_(outputs)(&a, l0, l1, x, y, a.width);
    N_(activate)(c->activation, (l1 - l0) * a.width, y);
    N_(write_elements)(&a, c->y, l0, l1 - l0, y);
}

/* ---- Forward, uncopied --------------------------------------------------------------------- */

/* A vector's worth of outputs of a row from `from` on, some of whose windows leave the row.
 * They are summed from a copy of the elements with zeros around them. */
static void N_(vector_at_edge)(const struct N_(band) * a, int64_t from, char *work)
{
    const struct short_conv *c = a->c;
    const int64_t size = dtype_size(c->x->dtype), count = N_(elements_of_vector)(c->as);
    const int64_t elements = count + c->taps; /* sum_bfloat16_vectors may read one too many */
    const int64_t first = from - c->left;
    const int64_t in = max64(0, first), out = min64(c->L, first + elements);
    const int64_t bytes = (out - in) * size, vector = FFTCONV_VECTOR_BYTES;
    for (int64_t i = 0; i < elements * size; i += vector)
        N_(store_words)(false, work + i, (N_(words)){0});
    if (bytes > 0) {
        const char *x = N_(elements_at)(a, c->x, in).data;
        char *to = work + (in - first) * size;
        if (bytes >= vector && bytes <= 2 * vector) {
            const N_(words) last = N_(load_words)(x + bytes - vector);
            N_(store_words)(false, to, N_(load_words)(x));
            N_(store_words)(false, to + bytes - vector, last);
        } else
            memcpy(to, x, (size_t)bytes);
    }
    char *y = (char *)N_(elements_at)(a, c->y, from).data;
    N_(sum_uncopied_row)(c, a->h0, work, y, count);
    N_(activate)(c->activation, c->as == AS_REALS ? count : 0, (REAL *)y);
}

/* Outputs [l0, l1) of a band, whose windows are all in x.  [first, last): all such outputs of
 * a row. */
static void N_(uncopied_band)(const struct N_(band) * a, int64_t l0, int64_t l1, int64_t first,
                              int64_t last, void *work)
{
    const struct short_conv *c = a->c;
    const int64_t slice = N_(elements_of_vector)(c->as), beyond = c->H - c->first_slice;
    const int64_t n0 = a->h0 ? (a->h0 - c->first_slice) / slice : 0;
    const int64_t n1 = a->h1 < c->H ? (a->h1 - c->first_slice) / slice : ceil_div(c->H, slice);
    if (!c->streamed) {
        N_(sum_uncopied_slices)(a, n0, n1, l0, l1);
        for (int64_t l = l0; l < l1; l++)
            N_(activate)(c->activation, a->h1 - a->h0, (REAL *)N_(elements_at)(a, c->y, l).data);
        return;
    }
    /* The last slice of an element writes the first channels of the next element too.  So the
     * first channels of the first element are left over, and the last element, which no other
     * follows, ends with its last whole slice. */
    const int64_t end = l1 - (l1 == last), whole = min64(n1, beyond / slice);
    if (end > l0)
        N_(sum_uncopied_slices)(a, n0, n1, l0, end);
    if (end < l1)
        N_(sum_uncopied_slices)(a, n0, whole, end, l1);
    if (l0 == first && a->h0 == 0 && c->first_slice > 0)
        N_(any_tile)(c, a->b, 0, c->first_slice, l0, l0 + 1, work);
    if (l1 == last && a->h1 == c->H && whole * slice < beyond)
        N_(any_tile)(c, a->b, c->first_slice + whole * slice, c->H, l1 - 1, l1, work);
}

/* The outputs [inner, outer) of a tile have their windows in x.  The ends of a row go by
 * vectors of their own where that is enough, else through the worker's buffers. */
static void N_(depthwise)(const struct short_conv *c, const struct short_conv_tile *t, void *work)
{
    const int64_t vector = N_(elements_of_vector)(c->as), l0 = t->l0, l1 = t->l1;
    const bool reads_one_more = c->as == AS_BFLOAT16 && !c->channels_last;
    const int64_t last = c->L - c->taps + 1 + c->left - reads_one_more;
    int64_t inner = max64(l0, min64(l1, c->left));
    const int64_t outer = max64(inner, min64(l1, last));
    if (!c->uncopied || (c->as == AS_FLOAT16 && !HAVE_FLOAT16) ||
        outer - inner < (c->channels_last ? 1 : vector)) {
        N_(any_tile)(c, t->b, t->h0, t->h1, l0, l1, work);
        return;
    }
    const struct N_(band) a = N_(band_of)(c, t->b, t->h0, t->h1);
    if (inner > l0 && !c->channels_last && !c->state && inner - l0 <= vector) {
        N_(vector_at_edge)(&a, l0, work);
        inner = min64(l0 + vector, outer);
    } else if (inner > l0)
        N_(any_tile)(c, t->b, t->h0, t->h1, l0, inner, work);
    const bool vector_at_end = outer < l1 && !c->channels_last && l1 - outer <= vector;
    const int64_t end = vector_at_end ? max64(l1 - vector, inner) : outer;
    if (c->channels_last)
        N_(uncopied_band)(&a, inner, outer, max64(0, c->left), min64(c->Lout, last), work);
    else if (end - inner >= vector) {
        char *y = (char *)N_(elements_at)(&a, c->y, inner).data;
        const char *x = N_(elements_at)(&a, c->x, inner - c->left).data;
        N_(sum_uncopied_row)(c, t->h0, x, y, end - inner);
        N_(activate)(c->activation, c->as == AS_REALS ? end - inner : 0, (REAL *)y);
    } else if (end > inner)
        N_(vector_at_edge)(&a, min64(inner, l1 - vector), work);
    if (vector_at_end)
        N_(vector_at_edge)(&a, l1 - vector, work);
    else if (outer < l1)
        N_(any_tile)(c, t->b, t->h0, t->h1, outer, l1, work);
#ifdef __SSE2__
    if (c->streamed)
        _mm_sfence();
#endif
}

/* ---- Backward ------------------------------------------------------------------------------- */

/* g = dy act'(p) at the outputs [from, from + count), and zeros where there are none. */
static void N_(gradient_tile)(const struct N_(band) * a, int64_t from, int64_t count, REAL *g,
                              void *work)
{
    const struct short_conv *c = a->c;
    N_(read_padded)(a, c->dy, c->Lout, NULL, from, count, g);
    const int64_t l0 = max64(0, from), l1 = min64(c->Lout, from + count);
    if (c->activation == FFTCONV_ACTIVATION_IDENTITY || l0 >= l1)
        return;
    REAL *p = N_(buffer)(c, work, TILE_P), *at = g + (l0 - from) * a->width;
    const int64_t reals = (l1 - l0) * a->width;
    N_(outputs)(a, l0, l1, N_(buffer)(c, work, TILE_X), p, a->width);
    N_(slope)(c->activation, reals, p, p);
    for (int64_t i = 0; i < reals; i++)
        at[i] *= p[i];
}

/* dx[m] = sum_k w[taps - 1 - k] g[m - (taps - 1 - left) + k] */
static void N_(depthwise_dx)(const struct short_conv *c, const struct short_conv_tile *t,
                             const void *flipped, void *work)
{
    const struct N_(band) a = N_(band_of)(c, t->b, t->h0, t->h1);
    static const REAL no_bias[BAND + 48]; /* the widest band in whole vectors */
    REAL *g = N_(buffer)(c, work, TILE_G), *dx = N_(buffer)(c, work, TILE_OUT);
    N_(gradient_tile)(&a, t->l0 - (c->taps - 1 - c->left), t->l1 - t->l0 + c->taps - 1, g, work);
    N_(sum_tile)(&a, flipped, no_bias, g, a.width, dx, a.width, t->l1 - t->l0);
    const int64_t history = c->dstate ? c->taps - 1 : 0, split = max64(t->l0, min64(0, t->l1));
    if (c->dstate && split > t->l0)
        N_(write_elements)(&a, c->dstate, t->l0 + history, split - t->l0, dx);
    if (c->dx && t->l1 > split)
        N_(write_elements)(&a, c->dx, split, t->l1 - split, dx + (split - t->l0) * a.width);
}

/* sums[k] += sum_i g[i] x[i + k tap] for k < taps, and *total += sum_i g[i], where i counts
 * vectors that are `step` apart.  Without channels_last the lanes are summed too; otherwise
 * each of the first `channels` lanes has its own sums, sums_step apart.  total may be NULL. */
INLINE void N_(inner_products)(bool channels_last, int64_t taps, const REAL *g, const REAL *x,
                               int64_t step, int64_t tap, int64_t count, int64_t channels,
                               double *sums, double *total, int64_t sums_step)
{
    V sum[8] = {0};
    for (int64_t i = 0; i < count; i++, g += step, x += step) {
        const V f = *(const VU *)g;
        UNROLL
        for (int64_t k = 0; k < taps; k++)
            sum[k] += f * *(const VU *)(x + k * tap);
        sum[taps] += f;
    }
    UNROLL
    for (int64_t k = 0; k <= taps; k++) {
        double *to = k < taps ? sums + k : total;
        for (int64_t i = 0; to && i < (channels_last ? channels : W); i++)
            to[channels_last ? i * sums_step : 0] += (double)sum[k][i];
    }
}

/* The inner products of a tile, `at_once` taps at a time. */
INLINE void N_(tile_products)(const struct N_(band) * a, int64_t at_once, const REAL *g,
                              const REAL *x, int64_t count, double *sums)
{
    const int64_t taps = a->c->taps, channels = a->h1 - a->h0, width = a->width;
    for (int64_t h = 0; h < channels; h += W, sums += W * (taps + 1))
        for (int64_t k = 0; k < taps; k += at_once) {
            double *total = k + at_once < taps ? NULL : sums + taps;
            if (a->c->channels_last)
                N_(inner_products)(true, at_once, g + h, x + h + k * width, width, width, count,
                                   min64(W, channels - h), sums + k, total, taps + 1);
            else /* behind its last element g is zero, so what follows x's does not count */
                N_(inner_products)(false, at_once, g, x + k, W, 1, ceil_div(count, W), 1, sums + k,
                                   total, 0);
        }
}

static void N_(depthwise_dweight)(const struct short_conv *c, const struct short_conv_tile *t,
                                  double *sums, void *work)
{
    const struct N_(band) a = N_(band_of)(c, t->b, t->h0, t->h1);
    const int64_t count = t->l1 - t->l0;
    REAL *g = N_(buffer)(c, work, TILE_G), *x = N_(buffer)(c, work, TILE_X);
    N_(gradient_tile)(&a, t->l0, count, g, work);
    N_(read_padded)(&a, c->x, c->L, c->state, t->l0 - c->left, count + c->taps - 1, x);
#define PRODUCTS(K) N_(tile_products)(&a, __builtin_constant_p(K) ? (K) : 1, g, x, count, sums)
    FOR_TAPS(c->taps, PRODUCTS)
#undef PRODUCTS
}

/* out[i] = act(in[i]), or act'(in[i]). */
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

#undef HAVE_FLOAT16
