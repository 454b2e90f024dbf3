/* Tiles of short convolutions, and how they come into a worker's memory and out of it.
 *
 * A tile is [element] of one channel or, channels last, [element][channel] of a band.  Either
 * way the number that an output's window holds at tap k lies k times `step` behind the one it
 * holds at tap 0:
 *
 *     y[j] = bias + sum_k w[k] x[j + k step],
 *
 * and a vector of outputs is a sum of vectors that are loaded from there as they are.  Rows of
 * the engine's own numbers are read where they are; all others are converted to a buffer of
 * the worker first. */

/* The channels of a tile. */
struct N_(band) {
    const struct short_conv *c;
    int64_t b, h0, h1;
    int64_t width; /* numbers from one element of a buffer to the next */
};

static struct N_(band) N_(band_of)(const struct short_conv *c, int64_t b, int64_t h0, int64_t h1)
{
    return (struct N_(band)){c, b, h0, h1, c->channels_last ? round_up(h1 - h0, W) : 1};
}

/* A buffer of the worker's memory. */
static REAL *N_(buffer)(const struct short_conv *c, void *work, int which)
{
    return (REAL *)work + which * short_conv_buffer(c, LANES);
}

/* Element l of the band's first channel, and what a vector that begins there holds: the next
 * channels or, for a single channel, the next elements. */
static struct array N_(elements_at)(const struct N_(band) * a, const fftconv_tensor *t, int64_t l)
{
    const int64_t at = a->b * t->stride[0] + a->h0 * t->stride[1] + l * t->stride[2];
    return (struct array){.data = (char *)t->data + at * dtype_size(t->dtype),
                          .dtype = t->dtype,
                          .stride = t->stride[a->c->channels_last ? 1 : 2]};
}

/* Elements [from, from + count) of a tensor that has all of them, to a buffer. */
static void N_(read_elements)(const struct N_(band) * a, const fftconv_tensor *t, int64_t from,
                              int64_t count, REAL *to)
{
    const int64_t channels = a->h1 - a->h0;
    if (!a->c->channels_last && count > 0) {
        const struct array row = N_(elements_at)(a, t, from);
        N_(read)(&row, 0, count, to);
    }
    for (int64_t i = 0; a->c->channels_last && i < count; i++, to += a->width) {
        const struct array element = N_(elements_at)(a, t, from + i);
        /* The elements may lie far apart in memory, where no hardware prefetches them. */
        const int size = dtype_size(t->dtype);
        const char *soon = (const char *)element.data + t->stride[2] * 4 * size;
        for (int64_t at = 0; i + 4 < count && element.stride == 1 && at < channels * size; at += 64)
            __builtin_prefetch(soon + at);
        N_(read)(&element, 0, channels, to);
        memset(to + channels, 0, (size_t)(a->width - channels) * sizeof(REAL));
    }
}

/* Elements [from, from + count) of a tensor of `length` elements.  Around it are zeros; right
 * before element 0 is what `before` holds, where it is given. */
static void N_(read_padded)(const struct N_(band) * a, const fftconv_tensor *t, int64_t length,
                            const fftconv_tensor *before, int64_t from, int64_t count, REAL *to)
{
    enum { ZEROS_BEFORE, STATE, TENSOR, ZEROS_BEHIND, REGIONS };
    const int64_t history = before ? before->shape[2] : 0;
    const int64_t edges[] = {from, -history, 0, length, from + count};
    int64_t at = from;
    for (int region = 0; region < REGIONS; region++) {
        const int64_t end = max64(at, min64(edges[region + 1], from + count));
        REAL *place = to + (at - from) * a->width;
        if (region == TENSOR)
            N_(read_elements)(a, t, at, end - at, place);
        else if (region == STATE && history)
            N_(read_elements)(a, before, at + history, end - at, place);
        else
            memset(place, 0, (size_t)((end - at) * a->width) * sizeof(REAL));
        at = end;
    }
    /* The last vector of a row is read whole, past the last element. */
    memset(to + count * a->width, 0, (size_t)W * sizeof(REAL));
}

/* Where elements [from, from + count) lie as REALs, `step` apart: in the tensor itself where
 * that is possible, else in `to`, after a copy. */
static const REAL *N_(find_elements)(const struct N_(band) * a, const fftconv_tensor *t,
                                     int64_t length, const fftconv_tensor *before, int64_t from,
                                     int64_t count, REAL *to, int64_t *step)
{
    const int64_t along_lanes = a->c->channels_last ? a->h1 - a->h0 : count - a->c->taps + 1;
    const bool there = from >= 0 && from + count <= length && along_lanes >= W;
    if (there && t->dtype == REAL_DTYPE && t->stride[a->c->channels_last ? 1 : 2] == 1) {
        *step = t->stride[2];
        return N_(elements_at)(a, t, from).data;
    }
    N_(read_padded)(a, t, length, before, from, count, to);
    *step = a->width;
    return to;
}

/* Elements [from, from + count) from a buffer to a tensor. */
static void N_(write_elements)(const struct N_(band) * a, const fftconv_tensor *t, int64_t from,
                               int64_t count, const REAL *v)
{
    if (!a->c->channels_last) {
        const struct array row = N_(elements_at)(a, t, from);
        N_(write)(&row, 0, count, v);
        return;
    }
    for (int64_t i = 0; i < count; i++, v += a->width) {
        const struct array element = N_(elements_at)(a, t, from + i);
        N_(write)(&element, 0, a->h1 - a->h0, v);
    }
}
