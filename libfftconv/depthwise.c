/* Short depthwise convolutions: checks, tables of taps, tiles to threads. */
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    LONG_TILE = 2048,      /* outputs of one row: x, y and what lies between in L1 */
    ROWS_TILE = 64,        /* outputs of a band of channels */
    TASK_BYTES = 64 << 10, /* of x: tiles beside each other, foreseen by hardware */
    LINE = 64,             /* bytes of a cache's line */
    FAR_BYTES = 16 << 20,  /* from here on y is past the caches before it is used */
    PARTS = 64,            /* dweight's sums: parts of the batch and channels, at least */
};

struct depthwise {
    const fftconv_depthwise_desc *o;
    const struct engine *engine;
    struct correlation c;
    int64_t B, D, K;
    void *flipped;                /* w with its taps in reverse */
    int64_t l0, l1, tiles, bands; /* of a call: outputs, or elements of x */
    int64_t count, group;         /* its tiles, and how many make a task */
    char *work;
    int64_t work_bytes;
    int64_t parts; /* of the batch, each with sums of its own */
    double *sums;  /* [part][D][K + 1] */
};

/* ---- Checks ------------------------------------------------------------------------ */

static int check(const fftconv_depthwise_desc *o, bool back)
{
    int status;
    if (!o)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (o->size != sizeof *o)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", o->size, sizeof *o);
    if (o->activation < FFTCONV_ACTIVATION_IDENTITY || o->activation > FFTCONV_ACTIVATION_SILU)
        return fail(FFTCONV_STATUS_INVALID,
                    "activation is %d, must be identity (0), gelu (1) or "
                    "silu (2)",
                    o->activation);
    if (o->threads < 0 || o->threads > 255)
        return fail(FFTCONV_STATUS_INVALID, "threads is %d, must be 0 (all) ... 255", o->threads);
    const fftconv_tensor *out = back ? &o->dy : &o->y;
    if (!o->x.data || !o->weight.data || !out->data)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given",
                    !o->x.data        ? "x"
                    : !o->weight.data ? "weight"
                    : back            ? "dy"
                                      : "y");
    const int64_t B = o->x.shape[0], D = o->x.shape[1], L = o->x.shape[2];
    const int64_t K = o->weight.shape[2], Lout = out->shape[2];
    if (B < 1 || D < 1 || L < 1 || L > (int64_t)1 << 40)
        return fail(FFTCONV_STATUS_INVALID,
                    "x has shape (%lld, %lld, %lld), must have axes of at least "
                    "1, and length to 2^40",
                    (long long)B, (long long)D, (long long)L);
    if (K < 1 || K > (int64_t)1 << 40)
        return fail(FFTCONV_STATUS_INVALID, "weight has %lld taps, must have 1 ... 2^40",
                    (long long)K);
    if (Lout < 1 || Lout > (int64_t)1 << 41)
        return fail(FFTCONV_STATUS_INVALID, "%s has length %lld, must have 1 ... 2^41",
                    back ? "dy" : "y", (long long)Lout);
    if (llabs(o->left) > (int64_t)1 << 41)
        return fail(FFTCONV_STATUS_INVALID, "left is %lld, must be -2^41 ... 2^41",
                    (long long)o->left);
    if ((o->state.data || o->next_state.data || o->dstate.data) && o->left != K - 1)
        return fail(FFTCONV_STATUS_INVALID,
                    "left is %lld, must be %lld, the taps less one, where there "
                    "is a state",
                    (long long)o->left, (long long)(K - 1));
    enum { OUTPUT = 1, FORWARD_ONLY = 2, BACKWARD_ONLY = 4 };
    const struct {
        const char *name;
        const fftconv_tensor *t;
        int64_t n0, n1, n2;
        int is;
        const fftconv_tensor *of; /* a gradient's */
    } all[] = {
        {"x", &o->x, B, D, L, 0, NULL},
        {"weight", &o->weight, 1, D, K, 0, NULL},
        {"bias", &o->bias, 1, D, 1, 0, NULL},
        {"state", &o->state, B, D, K - 1, 0, NULL},
        {"y", &o->y, B, D, Lout, OUTPUT | FORWARD_ONLY, NULL},
        {"next_state", &o->next_state, B, D, K - 1, OUTPUT | FORWARD_ONLY, NULL},
        {"dy", &o->dy, B, D, Lout, BACKWARD_ONLY, NULL},
        {"dx", &o->dx, B, D, L, OUTPUT | BACKWARD_ONLY, &o->x},
        {"dweight", &o->dweight, 1, D, K, OUTPUT | BACKWARD_ONLY, &o->weight},
        {"dbias", &o->dbias, 1, D, 1, OUTPUT | BACKWARD_ONLY, &o->bias},
        {"dstate", &o->dstate, B, D, K - 1, OUTPUT | BACKWARD_ONLY, &o->state},
    };
    enum { COUNT = sizeof all / sizeof *all };
    int used[COUNT], count = 0;
    for (int i = 0; i < COUNT; i++) {
        const fftconv_tensor *t = all[i].t;
        if (!t->data || all[i].n2 == 0 || all[i].is & (back ? FORWARD_ONLY : BACKWARD_ONLY))
            continue;
        if (t->dtype < FFTCONV_DTYPE_FLOAT64 || t->dtype > FFTCONV_DTYPE_BFLOAT16)
            return fail(FFTCONV_STATUS_INVALID,
                        "%s has dtype %s, must be float64, float32, float16 or "
                        "bfloat16",
                        all[i].name, dtype_name(t->dtype) ? dtype_name(t->dtype) : "unknown");
        if (all[i].of && !all[i].of->data)
            return fail(FFTCONV_STATUS_INVALID, "%s is given, must be NULL where %s is NULL",
                        all[i].name, all[i].name + 1);
        const int64_t shape[3] = {all[i].n0, all[i].n1, all[i].n2};
        if ((status = check_layout(all[i].name, t, shape, all[i].is & OUTPUT)))
            return status;
        used[count++] = i;
    }
    for (int a = 0; a < count; a++)
        for (int b = 0; all[used[a]].is & OUTPUT && b < count; b++) {
            const fftconv_tensor *s = all[used[a]].t, *t = all[used[b]].t;
            const bool same = s == &o->next_state && t == &o->state && s->data == t->data &&
                              s->dtype == t->dtype && s->stride[0] == t->stride[0] &&
                              s->stride[1] == t->stride[1] && s->stride[2] == t->stride[2];
            if ((!(all[used[b]].is & OUTPUT) || b < a) && !same && tensors_overlap(s, t))
                return fail(FFTCONV_STATUS_INVALID, "%s overlaps %s, must not%s", all[used[a]].name,
                            all[used[b]].name,
                            s == &o->next_state && t == &o->state ? " unless it is the same array"
                                                                  : "");
        }
    return FFTCONV_STATUS_OK;
}

/* ---- Tables ------------------------------------------------------------------------- */

static struct array run_of(const fftconv_tensor *t, int64_t b, int64_t d)
{
    return (struct array){.data = (char *)t->data +
                                  (b * t->stride[0] + d * t->stride[1]) * dtype_size(t->dtype),
                          .dtype = t->dtype,
                          .stride = t->stride[2]};
}

static struct array number(const struct depthwise *j, void *table, int64_t i)
{
    const int real = j->engine->real_bytes;
    return (struct array){.data = (char *)table + i * real,
                          .stride = 1,
                          .dtype = real == 8 ? FFTCONV_DTYPE_FLOAT64 : FFTCONV_DTYPE_FLOAT32};
}

static void copy(const struct depthwise *j, struct array from, struct array to, int64_t n)
{
    j->engine->spread(0, n, &from, &(struct array){0}, &to);
}

/* weight to `to`, taps and channels so far apart there, by the longer of the two. */
static void spread_weight(const struct depthwise *j, struct array to, int64_t tap, int64_t channel)
{
    const fftconv_tensor *w = &j->o->weight;
    const bool long_rows = j->K > j->D;
    for (int64_t i = 0; i < min64(j->K, j->D); i++) {
        struct array from = run_of(w, 0, 0), place = to;
        from.data = (char *)from.data + i * w->stride[long_rows ? 1 : 2] * dtype_size(w->dtype);
        place.data = (char *)place.data + i * (long_rows ? channel : tap) * j->engine->real_bytes;
        from.stride = w->stride[long_rows ? 2 : 1];
        place.stride = long_rows ? tap : channel;
        copy(j, from, place, max64(j->K, j->D));
    }
}

/* w, the same in reverse, the bias and the blocks, all in the engine's numbers. */
static void *tables_of(struct depthwise *j, bool back, int64_t *bytes)
{
    const struct engine *e = j->engine;
    struct correlation *c = &j->c;
    const int64_t padded = round_up(j->D, e->lanes), K = j->K;
    const int64_t taps = round_up(padded * K, e->lanes);
    const int64_t blocks = c->direct && c->across ? (K + 1) * (round_up(j->D, 2 * e->lanes)) : 0;
    const int64_t reals = 2 * taps + padded + e->lanes;
    *bytes = (reals + blocks) * e->real_bytes;
    char *table = aligned_new(*bytes);
    if (!table)
        return NULL;
    memset(table, 0, (size_t)*bytes);
    const int64_t tap = c->across ? padded : 1, channel = c->across ? 1 : K;
    spread_weight(j, number(j, table, 0), tap, channel);
    if (back)
        spread_weight(j, number(j, table, taps + (K - 1) * tap), -tap, channel);
    if (j->o->bias.data) {
        struct array bias = run_of(&j->o->bias, 0, 0);
        bias.stride = j->o->bias.stride[1];
        copy(j, bias, number(j, table, 2 * taps), j->D);
    }
    if (c->as == AS_PAIRS) /* a NaN whose lower half is 0: depthwise.h rounds */
        for (int64_t i = 0; i < reals; i++) {
            float *value = (float *)table + i;
            *value = *value == *value ? *value : NAN;
        }
    c->w = table;
    c->bias = table + 2 * taps * e->real_bytes;
    j->flipped = table + taps * e->real_bytes;
    if (blocks) {
        c->blocks = table + reals * e->real_bytes;
        e->correlate_blocks(c, table + reals * e->real_bytes);
    }
    return table;
}

/* ---- Tasks ------------------------------------------------------------------------------ */

struct tile {
    int64_t b, d0, d1, l0, l1;
};

static struct tile tile_at(const struct depthwise *j, int64_t b, int64_t band, int64_t l)
{
    const struct correlation *c = &j->c;
    struct tile t = {.b = b,
                     .d0 = band ? c->first + band * c->tile_channels : 0,
                     .d1 = c->first + (band + 1) * c->tile_channels,
                     .l0 = j->l0 + l * c->tile_length};
    if (band == j->bands - 1)
        t.d1 = j->D;
    t.l1 = min64(j->l1, t.l0 + c->tile_length);
    return t;
}

/* Tile i as they lie in memory. */
static struct tile tile_of(const struct depthwise *j, int64_t i)
{
    const int64_t b = i / (j->tiles * j->bands), in = i % (j->tiles * j->bands);
    return j->c.across ? tile_at(j, b, in % j->bands, in / j->bands)
                       : tile_at(j, b, in / j->tiles, in % j->tiles);
}

/* The tiles of a task, of y or, back, of dx. */
static void run_tiles(const struct depthwise *j, int64_t task, bool back, int worker)
{
    char *work = j->work + worker * j->work_bytes;
    for (int64_t i = task * j->group; i < min64(j->count, (task + 1) * j->group); i++) {
        const struct tile t = tile_of(j, i);
        if (back)
            j->engine->correlate_dx(&j->c, j->flipped, t.b, t.d0, t.d1, t.l0, t.l1, work);
        else
            j->engine->correlate(&j->c, t.b, t.d0, t.d1, t.l0, t.l1, work);
    }
}

static int forward_task(void *context, int64_t task, int worker)
{
    run_tiles(context, task, false, worker);
    return FFTCONV_STATUS_OK;
}

static int dx_task(void *context, int64_t task, int worker)
{
    run_tiles(context, task, true, worker);
    return FFTCONV_STATUS_OK;
}

/* A band, and a part of the batch: its sums, tile after tile. */
static int dw_task(void *context, int64_t i, int worker)
{
    const struct depthwise *j = context;
    const int64_t part = i / j->bands, band = i % j->bands;
    double *sums = j->sums + (part * j->D + band * j->c.tile_channels) * (j->K + 1);
    const int64_t end = j->B * (part + 1) / j->parts;
    for (int64_t b = j->B * part / j->parts; b < end; b++)
        for (int64_t l = 0; l < j->tiles; l++) {
            const struct tile t = tile_at(j, b, band, l);
            j->engine->correlate_dw(&j->c, t.b, t.d0, t.d1, t.l0, t.l1, sums,
                                    j->work + worker * j->work_bytes);
        }
    return FFTCONV_STATUS_OK;
}

/* x's last K - 1 elements, those of the state before them; from front to back, so
 * that it may be the state's own memory. */
static int state_task(void *context, int64_t i, int worker)
{
    const struct depthwise *j = context;
    const fftconv_depthwise_desc *o = j->o;
    const int64_t b = i / j->D, d = i % j->D, n = j->K - 1, L = j->c.L;
    const int64_t old = max64(0, n - L);
    const struct array to = run_of(&o->next_state, b, d);
    (void)worker;
    for (int64_t m = 0; m < n; m++) {
        struct array from = {0}, place = to;
        struct scalar value = {0, 0};
        if (m >= old)
            from = run_of(&o->x, b, d),
            from.data = (char *)from.data + (m - n + L) * from.stride * dtype_size(from.dtype);
        else if (o->state.data)
            from = run_of(&o->state, b, d),
            from.data = (char *)from.data + (m + L) * from.stride * dtype_size(from.dtype);
        if (from.data)
            value = j->engine->get(&from);
        place.data = (char *)place.data + m * place.stride * dtype_size(place.dtype);
        j->engine->set(&place, value);
    }
    return FFTCONV_STATUS_OK;
}

static void gather_sums(const struct depthwise *j)
{
    const fftconv_depthwise_desc *o = j->o;
    const int64_t K = j->K, step = j->D * (K + 1);
    for (int64_t d = 0; d < j->D; d++)
        for (int64_t k = 0; k <= K; k++) {
            const fftconv_tensor *t = k < K ? &o->dweight : &o->dbias;
            double sum = 0;
            for (int64_t p = 0; p < j->parts; p++)
                sum += j->sums[p * step + d * (K + 1) + k];
            if (!t->data)
                continue;
            struct array to = run_of(t, 0, d);
            to.data = (char *)to.data + (k < K ? k : 0) * to.stride * dtype_size(to.dtype);
            j->engine->set(&to, (struct scalar){sum, 0});
        }
}

/* Cuts elements [from, to) into tiles; returns the tasks these make, some for each
 * thread. */
static int64_t cut(struct depthwise *j, int64_t from, int64_t to, int threads)
{
    const struct correlation *c = &j->c;
    const int64_t tile = min64(to - from, c->tile_length) * (c->across ? c->tile_channels : 1);
    j->l0 = from, j->l1 = to;
    j->tiles = ceil_div(to - from, c->tile_length);
    j->count = j->B * j->bands * j->tiles;
    j->group = min64(TASK_BYTES / (max64(1, tile) * dtype_size(c->x->dtype)),
                     j->count / (8 * threads));
    j->group = max64(1, j->group);
    return ceil_div(j->count, j->group);
}

static bool is_wide(const fftconv_tensor *t)
{
    return t->data && t->dtype == FFTCONV_DTYPE_FLOAT64;
}

/* Neighbours in memory are channels, not samples. */
static bool is_across(const fftconv_tensor *t)
{
    return t->shape[1] > 1 && t->stride[1] == 1 && t->stride[2] != 1;
}

/* Whether x and y are read and written as they are, and what tiles then hold. */
static void plan_bands(struct depthwise *j, bool back)
{
    struct correlation *c = &j->c;
    const fftconv_tensor *x = c->x, *y = c->y;
    const int lanes = j->engine->lanes, along = c->across ? 1 : 2;
    const int own = j->engine->real_bytes == 8 ? FFTCONV_DTYPE_FLOAT64 : FFTCONV_DTYPE_FLOAT32;
    if (own == FFTCONV_DTYPE_FLOAT32 && x->dtype != own)
        c->as = x->dtype == FFTCONV_DTYPE_BFLOAT16 ? AS_PAIRS : AS_HALVES;
    const int64_t unit = c->as == AS_PAIRS ? 2 * lanes : lanes;
    c->direct = !back && x->dtype == y->dtype &&
                (x->dtype == own || own == FFTCONV_DTYPE_FLOAT32) &&
                (c->as == AS_REALS || c->activation == FFTCONV_ACTIVATION_IDENTITY) &&
                x->stride[along] == 1 && y->stride[along] == 1 && (!c->across || j->D >= unit);
    const int64_t size = dtype_size(x->dtype), line = max64(unit, LINE / size);
    c->far = c->direct && c->across && c->activation == FFTCONV_ACTIVATION_IDENTITY &&
             j->D >= 4 * line && j->D % line == 0 && x->stride[2] == j->D && y->stride[2] == j->D &&
             y->stride[0] % line == 0 && (intptr_t)y->data % size == 0 &&
             j->B * j->D * c->Lout * size >= FAR_BYTES;
    if (c->far) /* y's first whole line */
        c->first = -(intptr_t)y->data / size & (line - 1);
    c->tile_length = c->across ? ROWS_TILE : LONG_TILE;
    c->tile_channels = 1;
    j->bands = j->D;
    if (c->across) { /* bands of one size, the last one no narrower than a block */
        c->tile_channels = round_up(ceil_div(j->D, ceil_div(j->D, BAND)), max64(2 * lanes, line));
        j->bands = max64(1, ceil_div(j->D - c->first - (unit - 1), c->tile_channels));
    }
}

/* The call of `engine`, after the checks. */
static int run(const fftconv_depthwise_desc *o, const struct engine *engine, bool back)
{
    struct depthwise j = {
        .o = o, .engine = engine, .B = o->x.shape[0], .D = o->x.shape[1], .K = o->weight.shape[2]};
    const fftconv_tensor *out = back ? &o->dy : &o->y;
    const int threads = o->threads ? o->threads : fftconv_default_threads();
    int status = FFTCONV_STATUS_OK;
    struct correlation *c = &j.c;
    *c = (struct correlation){.across = is_across(&o->x),
                              .taps = j.K,
                              .left = o->left,
                              .L = o->x.shape[2],
                              .Lout = out->shape[2],
                              .D = j.D,
                              .activation = o->activation,
                              .x = &o->x,
                              .state = o->state.data && j.K > 1 ? &o->state : NULL,
                              .y = &o->y,
                              .dy = &o->dy,
                              .dx = o->dx.data ? &o->dx : NULL,
                              .dstate = o->dstate.data && j.K > 1 ? &o->dstate : NULL};
    if (back && c->dx && o->activation == FFTCONV_ACTIVATION_IDENTITY) {
        /* dx[m] = sum_k w[K - 1 - k] dy[m - (K - 1 - left) + k]: a forward call */
        fftconv_depthwise_desc f = {.size = sizeof f,
                                    .x = o->dy,
                                    .weight = o->weight,
                                    .y = o->dx,
                                    .left = j.K - 1 - o->left,
                                    .threads = o->threads};
        f.weight.data = (char *)f.weight.data +
                        (j.K - 1) * f.weight.stride[2] * dtype_size(f.weight.dtype);
        f.weight.stride[2] *= -1;
        if ((status = run(&f, engine, false)))
            return status;
        c->dx = NULL;
    }
    plan_bands(&j, back);

    int64_t table_bytes;
    void *table = tables_of(&j, back, &table_bytes);
    if (!table)
        return fail_memory(table_bytes);
    const bool sums = back && (o->dweight.data || o->dbias.data);
    j.parts = min64(j.B, ceil_div(PARTS, j.bands));
    const int64_t sum_bytes = sums ? j.parts * j.D * (j.K + 1) * (int64_t)sizeof(double) : 0;
    j.work_bytes = round_up(correlation_work(c, j.engine->lanes) * j.engine->real_bytes, ALIGNMENT);
    const int64_t bytes = threads * j.work_bytes + sum_bytes;
    if (!(j.work = aligned_new(bytes))) {
        aligned_free(table);
        return fail_memory(bytes);
    }
    if (!back) {
        status = parallel_for(threads, cut(&j, 0, c->Lout, threads), forward_task, &j);
        if (!status && o->next_state.data && j.K > 1)
            status = parallel_for(threads, j.B * j.D, state_task, &j);
    } else {
        if (c->dx || c->dstate)
            status = parallel_for(
                threads, cut(&j, c->dstate ? 1 - j.K : 0, c->dx ? c->L : 0, threads), dx_task, &j);
        if (!status && sums) {
            j.sums = (double *)(j.work + threads * j.work_bytes);
            memset(j.sums, 0, (size_t)sum_bytes);
            cut(&j, 0, c->Lout, threads);
            status = parallel_for(threads, j.parts * j.bands, dw_task, &j);
            gather_sums(&j);
        }
    }
    aligned_free(j.work);
    aligned_free(table);
    return status;
}

static int check_and_run(const fftconv_depthwise_desc *o, bool back)
{
    int status;
    const struct engine *engine;
    if ((status = check(o, back)))
        return status;
    const bool wide = is_wide(&o->x) || is_wide(&o->weight) || is_wide(&o->bias) ||
                      is_wide(&o->state) || is_wide(back ? &o->dy : &o->y);
    if ((status = find_engine(o->isa, wide ? 8 : 4, &engine)))
        return status;
    return run(o, engine, back);
}

int fftconv_depthwise_forward(const fftconv_depthwise_desc *o) { return check_and_run(o, false); }

int fftconv_depthwise_backward(const fftconv_depthwise_desc *o) { return check_and_run(o, true); }
