/* H3's heads.  Channels come in groups of h, and each channel of u meets each channel of v of its
 * group in a product, which is convolved with the group's kernel and contracted with q:
 *
 *     y_j = sum_i q_i . mask . act((u_i . v_j) * k + skip . u_i . v_j).
 *
 * One call of the fused convolution takes channel i of u and q, repeated by a stride of 0, and
 * all h channels of v as gates; its h rows of y are added to those of the other i. */
#include "call.h"
#include "check.h"

#include <stdlib.h>
#include <string.h>

/* What a worker needs for a group: where each piece begins in its memory, in bytes; -1: it is
 * not needed. */
struct group_memory {
    int64_t u, v, q, dy;             /* the group's h rows, where the caller's will not do */
    int64_t sum;                     /* h rows: of y, or of dv */
    int64_t saved, slope;            /* a row each: u_i or q_i, and gelu' of it */
    int64_t y;                       /* h rows of one call: forward */
    int64_t du, dv, dq;              /* and backward */
    int64_t taps, skip, mask, dskip; /* dk and dk_rev of one call; numbers, h of dskip */
    int64_t workspace, total;
};

struct heads {
    const struct fftconv_plan *plan;
    const fftconv_heads_desc *o;
    bool backward;
    int64_t B, G, h, L;
    int64_t chunks; /* of the batch, fixed by the shapes, so that threads do not change the sums */
    int real_bytes;
    int64_t step; /* numbers from row to row in a worker's memory */
    int inside;   /* threads of the calls of the convolution */
    struct group_memory at;
    int64_t workspace_bytes;
    char *workers;
    char *sums; /* of each group and chunk: dk, dk_rev, and at dskip_at the float64 dskip */
    int64_t sum_bytes, dskip_at;
};

enum { LEAST_TASKS = 16 };

/* ---- Checks ------------------------------------------------------------------------------- */

static int check_group_plan(const struct fftconv_plan *plan)
{
    const int status = check_has_transforms(plan);
    if (status)
        return status;
    if (plan->B != 1 || plan->G != 1 || plan->history ||
        (plan->dtype != FFTCONV_DTYPE_FLOAT32 && plan->dtype != FFTCONV_DTYPE_FLOAT64))
        return fail(FFTCONV_STATUS_INVALID,
                    "plan has batch %lld, %lld kernels, dtype %s%s, must have batch 1, 1 kernel, "
                    "dtype float32 or float64, and no history",
                    (long long)plan->B, (long long)plan->G, dtype_name(plan->dtype),
                    plan->history ? ", history" : "");
    return FFTCONV_STATUS_OK;
}

static int check_operands_of_heads(const struct fftconv_plan *plan, const fftconv_heads_desc *o,
                                   bool backward)
{
    const int64_t B = o->u.shape[0], H = o->u.shape[1], G = H / plan->H;
    const bool two_sided = plan->mode == FFTCONV_MODE_TWO_SIDED;
    const char *unless = two_sided ? NULL : "the plan's mode is two_sided (2)";
    const int gradient = BACKWARD_ONLY | OUTPUT;
    const unsigned own = DTYPE_BIT(plan->dtype);
    const unsigned rows = plan->dtype == FFTCONV_DTYPE_FLOAT64
                              ? own
                              : REAL_DTYPES & ~DTYPE_BIT(FFTCONV_DTYPE_FLOAT64);
#define ROWS {B, H, plan->L}, rows
#define TAPS(n) {1, G, (n)}, own
    const struct operand all[] = {
        {"u", &o->u, ROWS, .is = NEEDED},
        {"v", &o->v, ROWS, .is = 0},
        {"q", &o->q, ROWS, .is = 0},
        {"k", &o->k, TAPS(plan->Lk), .is = NEEDED},
        {"k_rev", &o->k_rev, TAPS(plan->Lk_rev), .is = two_sided ? NEEDED : 0, .unless = unless},
        {"skip", &o->skip, {1, G, 1}, rows, .is = 0},
        {"mask", &o->mask, {B, G, 1}, rows, .is = 0},
        {"dy", &o->dy, ROWS, .is = BACKWARD_ONLY | NEEDED},
        {"y", &o->y, ROWS, .is = FORWARD_ONLY | NEEDED | OUTPUT},
        {"du", &o->du, ROWS, .is = gradient, .of = &o->u},
        {"dv", &o->dv, ROWS, .is = gradient, .of = &o->v},
        {"dq", &o->dq, ROWS, .is = gradient, .of = &o->q},
        {"dk", &o->dk, TAPS(plan->Lk), .is = gradient, .of = &o->k},
        {"dk_rev", &o->dk_rev, TAPS(plan->Lk_rev), .is = gradient, .of = &o->k_rev,
         .unless = unless},
        {"dskip", &o->dskip, {1, G, 1}, rows, .is = gradient, .of = &o->skip},
    };
#undef ROWS
#undef TAPS
    enum { COUNT = sizeof all / sizeof *all };
    bool used[COUNT];
    return check_table(all, COUNT, backward, used);
}

static int check(const struct fftconv_plan *plan, const fftconv_heads_desc *o, bool backward)
{
    int status;
    if (!plan || !o)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "desc" : "plan");
    if (o->size != sizeof *o)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", o->size, sizeof *o);
    if ((status = check_group_plan(plan)) || (status = check_activation(o->activation)))
        return status;
    if (!o->u.data)
        return fail(FFTCONV_STATUS_INVALID, "u is NULL, must be given");
    const int64_t *shape = o->u.shape;
    if (shape[0] < 1 || shape[1] < 1 || shape[1] % plan->H)
        return fail(FFTCONV_STATUS_INVALID,
                    "u has shape (%lld, %lld, %lld), must have batch at least 1 and a multiple of "
                    "the plan's %lld channels",
                    (long long)shape[0], (long long)shape[1], (long long)shape[2],
                    (long long)plan->H);
    if (plan->H > 1 && (!o->v.data || !o->q.data))
        return fail(FFTCONV_STATUS_INVALID,
                    "%s is NULL, must be given where head_dim is %lld, not 1",
                    o->v.data ? "q" : "v", (long long)plan->H);
    return check_operands_of_heads(plan, o, backward);
}

/* ---- A worker's memory -------------------------------------------------------------------- */

/* Are these rows such as a call of the convolution takes, or gives? */
static bool is_plain(const struct fftconv_plan *plan, const fftconv_tensor *t)
{
    return t->dtype == plan->dtype && t->stride[2] == 1;
}

static void lay_out(struct heads *c)
{
    const fftconv_heads_desc *o = c->o;
    const struct fftconv_plan *plan = c->plan;
    const bool backward = c->backward;
    const int64_t row = c->step * c->real_bytes, rows = size_mul(c->h, row);
    struct group_memory *at = &c->at;
    int64_t cursor = 0;
#define TAKE(wanted, bytes) ((wanted) ? take_bytes(&cursor, (bytes)) : -1)
    at->u = TAKE(o->gelu_u || !is_plain(plan, &o->u), rows);
    at->v = TAKE(o->v.data && !is_plain(plan, &o->v), rows);
    at->q = TAKE(o->q.data && (o->gelu_q || !is_plain(plan, &o->q)), rows);
    at->dy = TAKE(backward && !is_plain(plan, &o->dy), rows);
    at->sum = TAKE(backward ? o->dv.data != NULL : !is_plain(plan, &o->y), rows);
    at->saved = TAKE(backward && (o->gelu_u || o->gelu_q), row);
    at->slope = TAKE(backward && (o->gelu_u || o->gelu_q), row);
    at->y = TAKE(!backward && c->h > 1, rows);
    at->du = TAKE(backward && o->du.data, rows);
    at->dv = TAKE(backward && o->dv.data, rows);
    at->dq = TAKE(backward && o->dq.data, rows);
    at->taps = TAKE(backward && (o->dk.data || o->dk_rev.data),
                    (plan->Lk + plan->Lk_rev) * c->real_bytes);
#undef TAKE
    at->skip = take_bytes(&cursor, size_mul(2 + c->h, c->real_bytes));
    at->mask = at->skip + c->real_bytes;
    at->dskip = at->mask + c->real_bytes;
    c->workspace_bytes = plain_workspace_bytes(
        plan, backward ? FFTCONV_DIRECTION_BACKWARD : FFTCONV_DIRECTION_FORWARD, c->inside);
    at->workspace = take_bytes(&cursor, c->workspace_bytes);
    at->total = cursor;
}

/* ---- Rows of a group ---------------------------------------------------------------------- */

/* to = from, `count` elements, each array in its own dtype. */
static void copy(const struct heads *c, int64_t count, struct array from, struct array to)
{
    c->plan->engine->rows.write_product(0, count, &from, false, 0, &(struct array){0}, &to);
}

static void add(const struct heads *c, int64_t count, const void *x, void *y)
{
    c->plan->engine->rows.add_scaled(false, count, (struct scalar){1, 0}, x, y);
}

static char *nth_row(const struct heads *c, const fftconv_tensor *rows, int64_t i)
{
    return (char *)rows->data + i * rows->stride[1] * c->real_bytes;
}

/* h rows that begin so far into a worker's memory; none where that is -1. */
static fftconv_tensor rows_in_memory(const struct heads *c, char *memory, int64_t at)
{
    if (at < 0)
        return (fftconv_tensor){0};
    return (fftconv_tensor){.data = memory + at,
                            .dtype = c->plan->dtype,
                            .shape = {1, c->h, c->L},
                            .stride = {0, c->step, 1}};
}

/* The caller's rows of group g as they are. */
static fftconv_tensor rows_of_caller(const struct heads *c, const fftconv_tensor *t, int64_t b,
                                     int64_t g)
{
    return (fftconv_tensor){.data = (void *)array_of(t, b, g * c->h).data,
                            .dtype = c->plan->dtype,
                            .shape = {1, c->h, c->L},
                            .stride = {0, t->stride[1], 1}};
}

/* The h rows of group g, ready for a call: the caller's, or copies of them in the worker's
 * memory, with gelu where wanted. */
static fftconv_tensor rows_of_group(const struct heads *c, const fftconv_tensor *t, int64_t b,
                                    int64_t g, char *memory, int64_t at, bool gelu)
{
    if (!t->data)
        return (fftconv_tensor){0};
    if (at < 0)
        return rows_of_caller(c, t, b, g);
    const fftconv_tensor rows = rows_in_memory(c, memory, at);
    for (int64_t i = 0; i < c->h; i++) {
        char *row = nth_row(c, &rows, i);
        copy(c, c->L, array_of(t, b, g * c->h + i), own_row(c->plan, row, 0));
        if (gelu)
            c->plan->engine->rows.activate(FFTCONV_ACTIVATION_GELU, false, c->L, row, row);
    }
    return rows;
}

/* Row i of h rows, h times over. */
static fftconv_tensor repeated(const struct heads *c, const fftconv_tensor *rows, int64_t i)
{
    fftconv_tensor one = *rows;
    if (one.data)
        one.data = nth_row(c, rows, i);
    one.stride[1] = 0;
    return one;
}

/* skip or mask of a group as h equal numbers: the plan's own number at `place`. */
static fftconv_tensor number_of_group(const struct heads *c, const fftconv_tensor *t, int64_t b,
                                      int64_t g, char *place)
{
    if (!t->data)
        return (fftconv_tensor){0};
    const struct array from = array_of(t, b, g), to = own_row(c->plan, place, 0);
    c->plan->engine->rows.store_scalar(&to, c->plan->engine->rows.load_scalar(&from));
    return (fftconv_tensor){
        .data = place, .dtype = c->plan->dtype, .shape = {1, c->h, 1}, .stride = {0, 0, 1}};
}

static fftconv_tensor taps_of_group(const fftconv_tensor *t, int64_t g)
{
    if (!t->data)
        return (fftconv_tensor){0};
    return (fftconv_tensor){.data = (void *)array_of(t, 0, g).data,
                            .dtype = t->dtype,
                            .shape = {1, 1, t->shape[2]},
                            .stride = {0, 0, t->stride[2]}};
}

/* ---- A group of one row of the batch ------------------------------------------------------ */

/* The operands of a group that are the same for all its calls; those of u and q vary. */
struct group {
    int64_t b, g;
    char *memory; /* the worker's */
    const fftconv_spectrum *spectrum;
    fftconv_operands o;
    fftconv_tensor u, q;
    char *dk; /* backward: the sums of the group's chunk: dk, dk_rev behind it */
    double *dskip;
};

static int forward_group(const struct heads *c, struct group *group)
{
    const fftconv_tensor more = rows_in_memory(c, group->memory, c->at.y);
    fftconv_tensor sum = rows_in_memory(c, group->memory, c->at.sum);
    if (!sum.data)
        sum = rows_of_caller(c, &c->o->y, group->b, group->g);
    for (int64_t i = 0; i < c->h; i++) {
        group->o.u = repeated(c, &group->u, i);
        group->o.out_gate = repeated(c, &group->q, i);
        group->o.y = i == 0 ? sum : more;
        const int status = fftconv_forward(c->plan, group->spectrum, &group->o);
        if (status)
            return status;
        for (int64_t j = 0; i > 0 && j < c->h; j++)
            add(c, c->L, nth_row(c, &more, j), nth_row(c, &sum, j));
    }
    for (int64_t j = 0; c->at.sum >= 0 && j < c->h; j++)
        copy(c, c->L, own_row(c->plan, nth_row(c, &sum, j), 0),
             array_of(&c->o->y, group->b, group->g * c->h + j));
    return FFTCONV_STATUS_OK;
}

/* Where the calls back leave their gradients. */
static void set_gradients(const struct heads *c, struct group *group)
{
    const fftconv_heads_desc *all = c->o;
    const int dtype = c->plan->dtype;
    const int64_t Lk = c->plan->Lk, Lk_rev = c->plan->Lk_rev;
    char *memory = group->memory, *taps = memory + c->at.taps;
    fftconv_operands *o = &group->o;
    o->dy = rows_of_group(c, &all->dy, group->b, group->g, memory, c->at.dy, false);
    o->du = rows_in_memory(c, memory, c->at.du);
    o->din_gate = rows_in_memory(c, memory, c->at.dv);
    o->dout_gate = rows_in_memory(c, memory, c->at.dq);
    if (all->dk.data)
        o->dk = contiguous_row(taps, dtype, Lk);
    if (all->dk_rev.data)
        o->dk_rev = contiguous_row(taps + Lk * c->real_bytes, dtype, Lk_rev);
    if (all->dskip.data)
        o->dskip = (fftconv_tensor){.data = memory + c->at.dskip,
                                    .dtype = dtype,
                                    .shape = {1, c->h, 1},
                                    .stride = {0, 1, 1}};
}

/* The gradient of channel i of u or q: the sum of the h rows that a call made of it, times gelu'
 * of what the channel held, where gelu was taken of it. */
static void finish_channel(const struct heads *c, const struct group *group, int64_t i,
                           const fftconv_tensor *rows, bool gelu, const fftconv_tensor *operand,
                           const fftconv_tensor *gradient)
{
    if (!rows->data)
        return;
    const int64_t channel = group->g * c->h + i;
    char *sum = nth_row(c, rows, 0);
    char *saved = group->memory + c->at.saved, *slope = group->memory + c->at.slope;
    for (int64_t j = 1; j < c->h; j++)
        add(c, c->L, nth_row(c, rows, j), sum);
    if (gelu) {
        copy(c, c->L, array_of(operand, group->b, channel), own_row(c->plan, saved, 0));
        c->plan->engine->rows.activate(FFTCONV_ACTIVATION_GELU, true, c->L, saved, slope);
    }
    const struct array from = own_row(c->plan, sum, 0);
    const struct array factor = gelu ? own_row(c->plan, slope, 0) : (struct array){0};
    const struct array to = array_of(gradient, group->b, channel);
    c->plan->engine->rows.write_product(0, c->L, &from, false, 0, &factor, &to);
}

/* Adds the dk, dk_rev and dskip of a call to the sums of the chunk. */
static void add_kernel_gradients(const struct heads *c, struct group *group)
{
    const int64_t Lk = c->plan->Lk, Lk_rev = c->plan->Lk_rev;
    const char *taps = group->memory + c->at.taps;
    if (c->o->dk.data)
        add(c, Lk, taps, group->dk);
    if (c->o->dk_rev.data)
        add(c, Lk_rev, taps + Lk * c->real_bytes, group->dk + Lk * c->real_bytes);
    for (int64_t j = 0; c->o->dskip.data && j < c->h; j++) {
        const struct array one = own_row(c->plan, group->memory + c->at.dskip + j * c->real_bytes,
                                         0);
        *group->dskip += c->plan->engine->rows.load_scalar(&one).re;
    }
}

static int backward_group(const struct heads *c, struct group *group)
{
    const fftconv_heads_desc *all = c->o;
    fftconv_operands *o = &group->o;
    const fftconv_tensor dv = rows_in_memory(c, group->memory, c->at.sum);
    set_gradients(c, group);
    for (int64_t j = 0; dv.data && j < c->h; j++)
        memset(nth_row(c, &dv, j), 0, (size_t)(c->L * c->real_bytes));
    for (int64_t i = 0; i < c->h; i++) {
        o->u = repeated(c, &group->u, i);
        o->out_gate = repeated(c, &group->q, i);
        const int status = fftconv_backward(c->plan, group->spectrum, o);
        if (status)
            return status;
        for (int64_t j = 0; dv.data && j < c->h; j++)
            add(c, c->L, nth_row(c, &o->din_gate, j), nth_row(c, &dv, j));
        finish_channel(c, group, i, &o->du, all->gelu_u, &all->u, &all->du);
        finish_channel(c, group, i, &o->dout_gate, all->gelu_q, &all->q, &all->dq);
        add_kernel_gradients(c, group);
    }
    for (int64_t j = 0; dv.data && j < c->h; j++)
        copy(c, c->L, own_row(c->plan, nth_row(c, &dv, j), 0),
             array_of(&all->dv, group->b, group->g * c->h + j));
    return FFTCONV_STATUS_OK;
}

/* ---- Tasks and calls ---------------------------------------------------------------------- */

/* A group, over one chunk of the batch. */
static int group_task(void *context, int64_t index, int worker)
{
    struct heads *c = context;
    const fftconv_heads_desc *all = c->o;
    const struct group_memory *at = &c->at;
    const int64_t g = index / c->chunks, chunk = index % c->chunks;
    char *memory = c->workers + worker * at->total, *sums = c->sums + index * c->sum_bytes;
    void *dskip = sums + c->dskip_at;
    fftconv_spectrum *spectrum;
    const fftconv_operands kernel = {.size = sizeof kernel,
                                     .threads = c->inside,
                                     .k = taps_of_group(&all->k, g),
                                     .k_rev = taps_of_group(&all->k_rev, g)};
    int status = fftconv_spectrum_create(&spectrum, c->plan, &kernel);
    if (c->backward)
        memset(sums, 0, (size_t)c->sum_bytes);
    const int64_t end = share_begin(c->B, chunk + 1, c->chunks);
    for (int64_t b = share_begin(c->B, chunk, c->chunks); !status && b < end; b++) {
        struct group group = {
            .b = b,
            .g = g,
            .memory = memory,
            .spectrum = spectrum,
            .u = rows_of_group(c, &all->u, b, g, memory, at->u, all->gelu_u),
            .q = rows_of_group(c, &all->q, b, g, memory, at->q, all->gelu_q),
            .o = {.size = sizeof group.o,
                  .activation = all->activation,
                  .threads = c->inside,
                  .in_gate = rows_of_group(c, &all->v, b, g, memory, at->v, false),
                  .skip = number_of_group(c, &all->skip, 0, g, memory + at->skip),
                  .mask = number_of_group(c, &all->mask, b, g, memory + at->mask),
                  .workspace = memory + at->workspace,
                  .workspace_bytes = c->workspace_bytes},
            .dk = sums,
            .dskip = dskip};
        status = c->backward ? backward_group(c, &group) : forward_group(c, &group);
    }
    fftconv_spectrum_destroy(spectrum);
    return status;
}

/* dk, dk_rev and dskip of group g: the sums of its chunks, added up in their order. */
static int finish_task(void *context, int64_t g, int worker)
{
    struct heads *c = context;
    const fftconv_heads_desc *o = c->o;
    const int64_t Lk = c->plan->Lk, Lk_rev = c->plan->Lk_rev;
    char *sum = c->sums + g * c->chunks * c->sum_bytes;
    double dskip = 0;
    (void)worker;
    for (int64_t i = 0; i < c->chunks; i++) {
        const char *chunk = sum + i * c->sum_bytes;
        const void *dskip_of_chunk = chunk + c->dskip_at;
        if (i > 0)
            add(c, Lk + Lk_rev, chunk, sum);
        dskip += *(const double *)dskip_of_chunk;
    }
    if (o->dk.data)
        copy(c, Lk, own_row(c->plan, sum, 0), array_of(&o->dk, 0, g));
    if (o->dk_rev.data)
        copy(c, Lk_rev, own_row(c->plan, sum + Lk * c->real_bytes, 0), array_of(&o->dk_rev, 0, g));
    if (o->dskip.data) {
        const struct array to = array_of(&o->dskip, 0, g);
        c->plan->engine->rows.store_scalar(&to, (struct scalar){dskip, 0});
    }
    return FFTCONV_STATUS_OK;
}

static int run(const struct fftconv_plan *plan, const fftconv_heads_desc *o, bool backward)
{
    int threads, status;
    if ((status = check(plan, o, backward)) ||
        (status = resolve_threads(plan, o->threads, &threads)))
        return status;
    struct heads c = {.plan = plan,
                      .o = o,
                      .backward = backward,
                      .B = o->u.shape[0],
                      .h = plan->H,
                      .G = o->u.shape[1] / plan->H,
                      .L = plan->L,
                      .real_bytes = plan->engine->real_bytes};
    c.step = round_up(c.L * c.real_bytes, ALIGNMENT) / c.real_bytes;
    c.chunks = min64(c.B, ceil_div(LEAST_TASKS, c.G));
    const int64_t tasks = size_mul(c.G, c.chunks);
    const int workers = tasks >= threads ? threads : 1;
    c.inside = workers > 1 ? 1 : threads;
    lay_out(&c);
    if (backward) {
        c.dskip_at = round_up((plan->Lk + plan->Lk_rev) * c.real_bytes, sizeof(double));
        c.sum_bytes = round_up(c.dskip_at + (int64_t)sizeof(double), ALIGNMENT);
    }
    const int64_t bytes = size_add(size_mul(workers, c.at.total), size_mul(tasks, c.sum_bytes));
    if ((status = check_bytes(bytes,
                              "u has shape (%lld, %lld, %lld), and kernels have %lld and %lld taps",
                              (long long)c.B, (long long)o->u.shape[1], (long long)c.L,
                              (long long)plan->Lk, (long long)plan->Lk_rev)))
        return status;
    if (!(c.workers = aligned_new(bytes)))
        return fail_memory(bytes);
    c.sums = c.workers + workers * c.at.total;
    status = parallel_for(workers, tasks, group_task, &c);
    if (backward && !status)
        status = parallel_for(threads, c.G, finish_task, &c);
    aligned_free(c.workers);
    return status;
}

int fftconv_heads_forward(const fftconv_plan *plan, const fftconv_heads_desc *heads)
{
    return run(plan, heads, false);
}

int fftconv_heads_backward(const fftconv_plan *plan, const fftconv_heads_desc *heads)
{
    return run(plan, heads, true);
}
