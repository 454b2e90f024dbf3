/* Short depthwise convolutions: their operands are checked, the taps put into tables, and the
 * tiles of the output shared out to threads.  The sums are made in cpu/depthwise.h. */
#include "call.h"
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROW_TILE = 2048,           /* outputs of one channel: x, y and what lies between stay in L1 */
    BAND_TILE = 64,            /* outputs of a band of channels */
    TASK_BYTES = 64 << 10,     /* of x in a task: its tiles are neighbours, for the prefetcher */
    CACHE_LINE = 64,           /* bytes */
    STREAMED_BYTES = 16 << 20, /* from this size on y leaves the caches before it is used */
    WEIGHT_TASKS = 64,         /* of dweight, at least, where B permits so many chunks */
};

struct depthwise {
    const fftconv_depthwise_desc *o;
    const struct engine *engine;
    struct short_conv conv;
    int64_t B, H, K;
    void *flipped;    /* w with its taps in reverse */
    int64_t from, to; /* outputs, or elements of x, that tiles are made of */
    int64_t bands;    /* of a row of the batch */
    int64_t tiles_per_channel;
    int64_t tile_count, tiles_per_task;
    char *work;
    int64_t work_bytes; /* of each worker */
    int64_t chunks;     /* of the batch, each of which has sums of its own */
    double *sums;       /* [chunk][H][K + 1] */
    int64_t sum_bytes;
};

/* ---- Checks ------------------------------------------------------------------------------ */

/* The operands whose shapes all others follow from, by themselves. */
static int check_sizes(const fftconv_depthwise_desc *o, bool backward)
{
    const char *name = backward ? "dy" : "y";
    const fftconv_tensor *out = backward ? &o->dy : &o->y;
    if (!o->x.data || !o->weight.data || !out->data)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given",
                    !o->x.data        ? "x"
                    : !o->weight.data ? "weight"
                                      : name);
    const int64_t *shape = o->x.shape, K = o->weight.shape[2], row = (int64_t)1 << ROW_BITS;
    if (shape[0] < 1 || shape[1] < 1 || shape[2] < 1 || shape[2] > row)
        return fail(FFTCONV_STATUS_INVALID,
                    "x has shape (%lld, %lld, %lld), must have axes of at least 1, and a length of "
                    "at most 2^40",
                    (long long)shape[0], (long long)shape[1], (long long)shape[2]);
    if (K < 1 || K > row)
        return fail(FFTCONV_STATUS_INVALID, "weight has %lld taps, must have 1 ... 2^40",
                    (long long)K);
    if (out->shape[2] < 1 || out->shape[2] > 2 * row)
        return fail(FFTCONV_STATUS_INVALID, "%s has length %lld, must have 1 ... 2^41", name,
                    (long long)out->shape[2]);
    if ((o->state.data || o->next_state.data || o->dstate.data) && o->left != K - 1)
        return fail(FFTCONV_STATUS_INVALID,
                    "left is %lld, must be %lld, the taps less one, where there is a state",
                    (long long)o->left, (long long)(K - 1));
    return check_number("left", o->left, -2 * row, 2 * row, "-2^41 ... 2^41");
}

static int check(const fftconv_depthwise_desc *o, bool backward)
{
    int status;
    if (!o)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (o->size != sizeof *o)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", o->size, sizeof *o);
    if ((status = check_activation(o->activation)) ||
        (status = check_number("threads", o->threads, 0, MAX_THREADS, "0 (all) ... 255")) ||
        (status = check_sizes(o, backward)))
        return status;
    const int64_t B = o->x.shape[0], H = o->x.shape[1], L = o->x.shape[2];
    const int64_t K = o->weight.shape[2], Lout = (backward ? &o->dy : &o->y)->shape[2];
    const int no_state = K == 1 ? IGNORED : 0; /* of K - 1 = 0 elements */
    const int gradient = BACKWARD_ONLY | OUTPUT;
#define X {B, H, L}, REAL_DTYPES
#define Y {B, H, Lout}, REAL_DTYPES
#define WEIGHT {1, H, K}, REAL_DTYPES
#define BIAS {1, H, 1}, REAL_DTYPES
#define STATE {B, H, K - 1}, REAL_DTYPES
    const struct operand all[] = {
        {"x", &o->x, X, .is = NEEDED},
        {"weight", &o->weight, WEIGHT, .is = NEEDED},
        {"bias", &o->bias, BIAS, .is = 0},
        {"state", &o->state, STATE, .is = no_state},
        {"y", &o->y, Y, .is = FORWARD_ONLY | NEEDED | OUTPUT},
        {"next_state", &o->next_state, STATE, .is = FORWARD_ONLY | OUTPUT | no_state,
         .may_be = &o->state},
        {"dy", &o->dy, Y, .is = BACKWARD_ONLY | NEEDED},
        {"dx", &o->dx, X, .is = gradient, .of = &o->x},
        {"dweight", &o->dweight, WEIGHT, .is = gradient, .of = &o->weight},
        {"dbias", &o->dbias, BIAS, .is = gradient, .of = &o->bias},
        {"dstate", &o->dstate, STATE, .is = gradient | no_state, .of = &o->state},
    };
#undef X
#undef Y
#undef WEIGHT
#undef BIAS
#undef STATE
    enum { COUNT = sizeof all / sizeof *all };
    bool used[COUNT];
    return check_table(all, COUNT, backward, used);
}

/* ---- Tables of taps ---------------------------------------------------------------------- */

static struct array behind(struct array a, int64_t elements)
{
    a.data = (const char *)a.data + elements * dtype_size(a.dtype);
    return a;
}

static int own_dtype(const struct engine *engine)
{
    return engine->real_bytes == 8 ? FFTCONV_DTYPE_FLOAT64 : FFTCONV_DTYPE_FLOAT32;
}

/* A table of the engine's own numbers, from number i on. */
static struct array numbers_at(const struct depthwise *d, void *table, int64_t i)
{
    return behind((struct array){.data = table, .stride = 1, .dtype = own_dtype(d->engine)}, i);
}

static void copy(const struct depthwise *d, struct array from, struct array to, int64_t count)
{
    d->engine->rows.write_product(0, count, &from, false, 0, &(struct array){0}, &to);
}

/* Copies weight to a table in which taps are tap_step apart, and channels channel_step.  One
 * copy takes a tap of all channels or, where there are more taps, all taps of a channel. */
static void copy_weight(const struct depthwise *d, struct array to, int64_t tap_step,
                        int64_t channel_step)
{
    const fftconv_tensor *w = &d->o->weight;
    const bool by_channels = d->K > d->H;
    struct array from = array_of(w, 0, 0);
    from.stride = w->stride[by_channels ? 2 : 1];
    to.stride = by_channels ? tap_step : channel_step;
    for (int64_t i = 0; i < min64(d->K, d->H); i++)
        copy(d, behind(from, i * w->stride[by_channels ? 1 : 2]),
             behind(to, i * (by_channels ? channel_step : tap_step)), max64(d->K, d->H));
}

/* Makes w, the same with its taps in reverse, the bias, and the slices, all in the engine's own
 * numbers and in one piece of memory, which is returned; NULL where there is not so much. */
static void *make_tables(struct depthwise *d, bool backward, int64_t *bytes)
{
    const struct engine *e = d->engine;
    struct short_conv *c = &d->conv;
    const int64_t padded = round_up(d->H, e->lanes), K = d->K;
    const int64_t taps = round_up(size_mul(padded, K), e->lanes);
    const int64_t slices = c->uncopied && c->channels_last
                               ? size_mul(K + 1, round_up(d->H, 2 * e->lanes))
                               : 0;
    const int64_t reals = size_add(size_mul(2, taps), size_add(padded, e->lanes));
    *bytes = size_mul(size_add(reals, slices), e->real_bytes);
    char *table = aligned_new(*bytes);
    if (!table)
        return NULL;
    memset(table, 0, (size_t)*bytes);
    const int64_t tap_step = c->channels_last ? padded : 1;
    const int64_t channel_step = c->channels_last ? 1 : K;
    copy_weight(d, numbers_at(d, table, 0), tap_step, channel_step);
    if (backward)
        copy_weight(d, numbers_at(d, table, taps + (K - 1) * tap_step), -tap_step, channel_step);
    if (d->o->bias.data) {
        struct array bias = array_of(&d->o->bias, 0, 0);
        bias.stride = d->o->bias.stride[1];
        copy(d, bias, numbers_at(d, table, 2 * taps), d->H);
    }
    if (c->as == AS_BFLOAT16) /* cpu/depthwise_sums.h rounds NaNs whose lower half is 0 */
        for (int64_t i = 0; i < reals; i++) {
            float *value = (float *)table + i;
            *value = *value == *value ? *value : NAN;
        }
    c->w = table;
    c->bias = table + 2 * taps * e->real_bytes;
    d->flipped = table + taps * e->real_bytes;
    if (slices) {
        c->slices = table + reals * e->real_bytes;
        e->depthwise.pack_slices(c, table + reals * e->real_bytes);
    }
    return table;
}

/* ---- Tiles and tasks --------------------------------------------------------------------- */

/* Tile i of a band: with channels_last the first band begins before the first slice, and the
 * last one ends with the last channel. */
static struct short_conv_tile tile_at(const struct depthwise *d, int64_t b, int64_t band, int64_t i)
{
    const struct short_conv *c = &d->conv;
    const int64_t from = d->from + i * c->tile_length;
    return (struct short_conv_tile){
        .b = b,
        .h0 = band ? c->first_slice + band * c->tile_channels : 0,
        .h1 = band < d->bands - 1 ? c->first_slice + (band + 1) * c->tile_channels : d->H,
        .l0 = from,
        .l1 = min64(d->to, from + c->tile_length)};
}

/* Tile i of all, in the order in which they lie in memory. */
static struct short_conv_tile nth_tile(const struct depthwise *d, int64_t i)
{
    const int64_t per_row = d->tiles_per_channel * d->bands, b = i / per_row, rest = i % per_row;
    return d->conv.channels_last
               ? tile_at(d, b, rest % d->bands, rest / d->bands)
               : tile_at(d, b, rest / d->tiles_per_channel, rest % d->tiles_per_channel);
}

/* Cuts elements [from, to) into tiles; returns the number of tasks, of some tiles each, and
 * some for each thread. */
static int64_t cut_into_tiles(struct depthwise *d, int64_t from, int64_t to, int threads)
{
    const struct short_conv *c = &d->conv;
    const int64_t tile = min64(to - from, c->tile_length) *
                         (c->channels_last ? c->tile_channels : 1);
    d->from = from, d->to = to;
    d->tiles_per_channel = ceil_div(to - from, c->tile_length);
    d->tile_count = d->B * d->bands * d->tiles_per_channel;
    d->tiles_per_task = max64(1, min64(TASK_BYTES / (max64(1, tile) * dtype_size(c->x->dtype)),
                                       d->tile_count / (8 * threads)));
    return ceil_div(d->tile_count, d->tiles_per_task);
}

static int forward_task(void *context, int64_t task, int worker)
{
    const struct depthwise *d = context;
    const int64_t end = min64(d->tile_count, (task + 1) * d->tiles_per_task);
    for (int64_t i = task * d->tiles_per_task; i < end; i++) {
        const struct short_conv_tile tile = nth_tile(d, i);
        d->engine->depthwise.forward(&d->conv, &tile, d->work + worker * d->work_bytes);
    }
    return FFTCONV_STATUS_OK;
}

static int dx_task(void *context, int64_t task, int worker)
{
    const struct depthwise *d = context;
    const int64_t end = min64(d->tile_count, (task + 1) * d->tiles_per_task);
    for (int64_t i = task * d->tiles_per_task; i < end; i++) {
        const struct short_conv_tile tile = nth_tile(d, i);
        d->engine->depthwise.dx(&d->conv, &tile, d->flipped, d->work + worker * d->work_bytes);
    }
    return FFTCONV_STATUS_OK;
}

/* The sums of dweight and dbias of one band over one chunk of the batch, tile after tile. */
static int dweight_task(void *context, int64_t index, int worker)
{
    const struct depthwise *d = context;
    const int64_t chunk = index / d->bands, band = index % d->bands;
    double *sums = d->sums + (chunk * d->H + band * d->conv.tile_channels) * (d->K + 1);
    const int64_t end = share_begin(d->B, chunk + 1, d->chunks);
    for (int64_t b = share_begin(d->B, chunk, d->chunks); b < end; b++)
        for (int64_t i = 0; i < d->tiles_per_channel; i++) {
            const struct short_conv_tile tile = tile_at(d, b, band, i);
            d->engine->depthwise.dweight(&d->conv, &tile, sums, d->work + worker * d->work_bytes);
        }
    return FFTCONV_STATUS_OK;
}

/* dweight and dbias of a channel from the sums of all chunks, which are added up in their order. */
static int sums_task(void *context, int64_t h, int worker)
{
    const struct depthwise *d = context;
    const int64_t K = d->K, chunk = d->H * (K + 1);
    (void)worker;
    for (int64_t k = 0; k <= K; k++) {
        const fftconv_tensor *t = k < K ? &d->o->dweight : &d->o->dbias;
        if (!t->data)
            continue;
        double sum = 0;
        for (int64_t i = 0; i < d->chunks; i++)
            sum += d->sums[i * chunk + h * (K + 1) + k];
        struct array to = array_of(t, 0, h);
        to = behind(to, (k < K ? k : 0) * to.stride);
        d->engine->rows.store_scalar(&to, (struct scalar){sum, 0});
    }
    return FFTCONV_STATUS_OK;
}

/* next_state of one channel is the last K - 1 elements of state and x together.  They are moved
 * from front to back, so that next_state may be the memory of state. */
static int state_task(void *context, int64_t index, int worker)
{
    const struct depthwise *d = context;
    const fftconv_depthwise_desc *o = d->o;
    const int64_t b = index / d->H, h = index % d->H, L = d->conv.L, n = d->K - 1;
    const struct array x = array_of(&o->x, b, h), state = array_of(&o->state, b, h);
    const struct array next = array_of(&o->next_state, b, h);
    (void)worker;
    for (int64_t i = 0; i < n; i++) {
        const bool in_x = i + L >= n;
        struct array from = in_x ? x : state;
        const struct array to = behind(next, i * next.stride);
        struct scalar value = {0, 0}; /* of a state that is not given */
        if (from.data) {
            from = behind(from, (in_x ? i + L - n : i + L) * from.stride);
            value = d->engine->rows.load_scalar(&from);
        }
        d->engine->rows.store_scalar(&to, value);
    }
    return FFTCONV_STATUS_OK;
}

/* ---- Calls ------------------------------------------------------------------------------- */

static bool is_float64(const fftconv_tensor *t)
{
    return t->data && t->dtype == FFTCONV_DTYPE_FLOAT64;
}

static struct short_conv short_conv_of(const fftconv_depthwise_desc *o, bool backward)
{
    const fftconv_tensor *x = &o->x;
    const bool has_state = o->weight.shape[2] > 1;
    return (struct short_conv){.channels_last = x->shape[1] > 1 && x->stride[1] == 1 &&
                                                x->stride[2] != 1,
                               .taps = o->weight.shape[2],
                               .left = o->left,
                               .L = x->shape[2],
                               .Lout = (backward ? &o->dy : &o->y)->shape[2],
                               .H = x->shape[1],
                               .activation = o->activation,
                               .x = x,
                               .state = o->state.data && has_state ? &o->state : NULL,
                               .y = &o->y,
                               .dy = &o->dy,
                               .dx = o->dx.data ? &o->dx : NULL,
                               .dstate = o->dstate.data && has_state ? &o->dstate : NULL};
}

/* Decides whether x and y are read and written where they are, and what tiles hold. */
static void choose_tiles(struct depthwise *d, bool backward)
{
    struct short_conv *c = &d->conv;
    const fftconv_tensor *x = c->x, *y = c->y;
    const int lanes = d->engine->lanes, axis = c->channels_last ? 1 : 2;
    const int own = own_dtype(d->engine);
    const bool identity = c->activation == FFTCONV_ACTIVATION_IDENTITY;
    if (own == FFTCONV_DTYPE_FLOAT32 && x->dtype != own)
        c->as = x->dtype == FFTCONV_DTYPE_BFLOAT16 ? AS_BFLOAT16 : AS_FLOAT16;
    const int64_t slice = c->as == AS_BFLOAT16 ? 2 * lanes : lanes; /* channels */
    c->uncopied = !backward && x->dtype == y->dtype &&
                  (x->dtype == own || own == FFTCONV_DTYPE_FLOAT32) &&
                  (c->as == AS_REALS || identity) && x->stride[axis] == 1 && y->stride[axis] == 1 &&
                  (!c->channels_last || d->H >= slice);
    const int64_t size = dtype_size(x->dtype), line = max64(slice, CACHE_LINE / size);
    c->streamed = c->uncopied && c->channels_last && identity && d->H >= 4 * line &&
                  d->H % line == 0 && x->stride[2] == d->H && y->stride[2] == d->H &&
                  y->stride[0] % line == 0 && (intptr_t)y->data % size == 0 &&
                  d->B * d->H * c->Lout * size >= STREAMED_BYTES;
    if (c->streamed)
        c->first_slice = -(intptr_t)y->data / size & (line - 1);
    c->tile_length = c->channels_last ? BAND_TILE : ROW_TILE;
    c->tile_channels = 1;
    d->bands = d->H;
    if (c->channels_last) { /* bands of one size, of which the last is a slice or wider */
        c->tile_channels = round_up(ceil_div(d->H, ceil_div(d->H, BAND)), max64(2 * lanes, line));
        d->bands = max64(1, ceil_div(d->H - c->first_slice - (slice - 1), c->tile_channels));
    }
}

static int run_forward(struct depthwise *d, int threads)
{
    const int64_t tasks = cut_into_tiles(d, 0, d->conv.Lout, threads);
    int status = parallel_for(threads, tasks, forward_task, d);
    if (!status && d->o->next_state.data && d->K > 1)
        status = parallel_for(threads, d->B * d->H, state_task, d);
    return status;
}

static int run_backward(struct depthwise *d, int threads)
{
    const struct short_conv *c = &d->conv;
    int status = FFTCONV_STATUS_OK;
    if (c->dx || c->dstate) {
        const int64_t tasks = cut_into_tiles(d, c->dstate ? 1 - d->K : 0, c->dx ? c->L : 0,
                                             threads);
        status = parallel_for(threads, tasks, dx_task, d);
    }
    if (status || !d->sums)
        return status;
    memset(d->sums, 0, (size_t)d->sum_bytes);
    (void)cut_into_tiles(d, 0, c->Lout, threads); /* a task takes a band instead */
    status = parallel_for(threads, d->chunks * d->bands, dweight_task, d);
    return status ? status : parallel_for(threads, d->H, sums_task, d);
}

static int run(const fftconv_depthwise_desc *o, const struct engine *engine, bool backward);

/* Without an activation dx is a short convolution of dy, and is made as one, uncopied if it can:
 *     dx[m] = sum_k w[K - 1 - k] dy[m - (K - 1 - left) + k]. */
static int dx_by_forward(const fftconv_depthwise_desc *o, const struct engine *engine)
{
    const int64_t last = o->weight.shape[2] - 1;
    fftconv_depthwise_desc f = {.size = sizeof f,
                                .x = o->dy,
                                .weight = o->weight,
                                .y = o->dx,
                                .left = last - o->left,
                                .threads = o->threads};
    f.weight.data = (char *)f.weight.data + last * f.weight.stride[2] * dtype_size(f.weight.dtype);
    f.weight.stride[2] *= -1;
    return run(&f, engine, false);
}

/* So many bytes could not be allocated. */
static int fail_bytes(const fftconv_depthwise_desc *o, int64_t bytes)
{
    const int status = check_bytes(bytes, "weight has shape (1, %lld, %lld)",
                                   (long long)o->weight.shape[1], (long long)o->weight.shape[2]);
    return status ? status : fail_memory(bytes);
}

/* A call of a known engine, whose operands are checked. */
static int run(const fftconv_depthwise_desc *o, const struct engine *engine, bool backward)
{
    struct depthwise d = {.o = o,
                          .engine = engine,
                          .conv = short_conv_of(o, backward),
                          .B = o->x.shape[0],
                          .H = o->x.shape[1],
                          .K = o->weight.shape[2]};
    const int threads = o->threads ? o->threads : fftconv_default_threads();
    int status;
    if (backward && o->dx.data && o->activation == FFTCONV_ACTIVATION_IDENTITY) {
        if ((status = dx_by_forward(o, engine)))
            return status;
        d.conv.dx = NULL;
    }
    choose_tiles(&d, backward);
    int64_t table_bytes;
    void *table = make_tables(&d, backward, &table_bytes);
    if (!table)
        return fail_bytes(o, table_bytes);
    const bool has_sums = backward && (o->dweight.data || o->dbias.data);
    d.chunks = min64(d.B, ceil_div(WEIGHT_TASKS, d.bands));
    d.sum_bytes = has_sums ? size_mul(size_mul(size_mul(d.chunks, d.H), d.K + 1), sizeof *d.sums)
                           : 0;
    d.work_bytes = round_up(size_mul(short_conv_work(&d.conv, engine->lanes), engine->real_bytes),
                            ALIGNMENT);
    const int64_t bytes = size_add(size_mul(threads, d.work_bytes), d.sum_bytes);
    if ((d.work = aligned_new(bytes))) {
        void *sums = d.work + threads * d.work_bytes;
        d.sums = has_sums ? sums : NULL;
        status = backward ? run_backward(&d, threads) : run_forward(&d, threads);
    } else
        status = fail_bytes(o, bytes);
    aligned_free(d.work);
    aligned_free(table);
    return status;
}

static int check_and_run(const fftconv_depthwise_desc *o, bool backward)
{
    int status;
    const struct engine *engine;
    if ((status = check(o, backward)))
        return status;
    const bool wide = is_float64(&o->x) || is_float64(&o->weight) || is_float64(&o->bias) ||
                      is_float64(&o->state) || is_float64(backward ? &o->dy : &o->y);
    if ((status = find_engine(o->isa, wide ? 8 : 4, &engine)))
        return status;
    return run(o, engine, backward);
}

int fftconv_depthwise_forward(const fftconv_depthwise_desc *o) { return check_and_run(o, false); }

int fftconv_depthwise_backward(const fftconv_depthwise_desc *o) { return check_and_run(o, true); }
