/* H3's heads: each group's outer product convolved lane pair by lane pair, and
 * contracted with q on the way out.  A lane i of u meets all lanes j of v in one
 * call of the fused convolution, whose h rows are added up at once. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

/* A worker's memory, in bytes from its start; -1: not needed. */
struct part {
    int64_t u, v, q, dy; /* a group's h rows, where the caller's will not do */
    int64_t sum;         /* h rows: y, or dv */
    int64_t lane;        /* one row: du_i, dq_i */
    int64_t slope;       /* one row: gelu' */
    int64_t call[3];     /* h rows of one call: y; du, din_gate, dout_gate */
    int64_t taps, scalars, workspace, total;
};

struct heads {
    const struct fftconv_plan *plan;
    const fftconv_heads_desc *o;
    bool back;
    int64_t B, G, h, L;
    int64_t chunks; /* of the batch: the shapes', not the threads', so that sums
                         come out the same */
    int real;       /* bytes */
    int64_t step;   /* from row to row in a worker's memory, in reals */
    int inside;     /* threads of the calls within */
    struct part part;
    int64_t workspace_bytes;
    char *workers, *sums; /* sums: of dk, dk_rev and dskip, chunk by chunk */
    int64_t sum_bytes, dskip_at;
};

enum { LEAST_TASKS = 16 };

/* ---- Checks ---------------------------------------------------------------------- */

static bool is_row_dtype(const struct fftconv_plan *plan, int dtype)
{
    return plan->dtype == FFTCONV_DTYPE_FLOAT64
               ? dtype == FFTCONV_DTYPE_FLOAT64
               : dtype >= FFTCONV_DTYPE_FLOAT32 && dtype <= FFTCONV_DTYPE_BFLOAT16;
}

static int check(const struct fftconv_plan *plan, const fftconv_heads_desc *o, bool back)
{
    int status;
    if (!plan || !o)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "desc" : "plan");
    if (o->size != sizeof *o)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", o->size, sizeof *o);
    if ((status = check_on_cpu(plan)))
        return status;
    if (plan->B != 1 || plan->G != 1 || plan->history ||
        (plan->dtype != FFTCONV_DTYPE_FLOAT32 && plan->dtype != FFTCONV_DTYPE_FLOAT64))
        return fail(FFTCONV_STATUS_INVALID,
                    "plan has batch %lld, %lld kernels, dtype %s%s, must have "
                    "batch 1, 1 kernel, dtype float32 or float64, and no history",
                    (long long)plan->B, (long long)plan->G, dtype_name(plan->dtype),
                    plan->history ? ", history" : "");
    if (o->activation < FFTCONV_ACTIVATION_IDENTITY || o->activation > FFTCONV_ACTIVATION_SILU)
        return fail(FFTCONV_STATUS_INVALID,
                    "activation is %d, must be identity (0), gelu (1) or "
                    "silu (2)",
                    o->activation);
    if (!o->u.data)
        return fail(FFTCONV_STATUS_INVALID, "u is NULL, must be given");
    const int64_t h = plan->H, B = o->u.shape[0], H = o->u.shape[1];
    if (B < 1 || H < 1 || H % h)
        return fail(FFTCONV_STATUS_INVALID,
                    "u has shape (%lld, %lld, %lld), must have batch at least 1 "
                    "and a multiple of the plan's %lld channels",
                    (long long)B, (long long)H, (long long)o->u.shape[2], (long long)h);
    if (h > 1 && (!o->v.data || !o->q.data))
        return fail(FFTCONV_STATUS_INVALID,
                    "%s is NULL, must be given where head_dim is %lld, not 1",
                    o->v.data ? "q" : "v", (long long)h);
    const int64_t G = H / h;
    const bool rev = plan->mode == FFTCONV_MODE_TWO_SIDED;
    enum { NEEDED = 1, OUTPUT = 2, KERNEL = 4, FORWARD_ONLY = 8, BACKWARD_ONLY = 16 };
    const struct {
        const char *name;
        const fftconv_tensor *t;
        int64_t n0, n1, n2;
        int is;
        const fftconv_tensor *of; /* a gradient's */
    } all[] = {
        {"u", &o->u, B, H, plan->L, NEEDED, NULL},
        {"v", &o->v, B, H, plan->L, 0, NULL},
        {"q", &o->q, B, H, plan->L, 0, NULL},
        {"k", &o->k, 1, G, plan->Lk, NEEDED | KERNEL, NULL},
        {"k_rev", &o->k_rev, 1, G, plan->Lk_rev, (rev ? NEEDED : 0) | KERNEL, NULL},
        {"skip", &o->skip, 1, G, 1, 0, NULL},
        {"mask", &o->mask, B, G, 1, 0, NULL},
        {"dy", &o->dy, B, H, plan->L, NEEDED | BACKWARD_ONLY, NULL},
        {"y", &o->y, B, H, plan->L, NEEDED | FORWARD_ONLY | OUTPUT, NULL},
        {"du", &o->du, B, H, plan->L, BACKWARD_ONLY | OUTPUT, &o->u},
        {"dv", &o->dv, B, H, plan->L, BACKWARD_ONLY | OUTPUT, &o->v},
        {"dq", &o->dq, B, H, plan->L, BACKWARD_ONLY | OUTPUT, &o->q},
        {"dk", &o->dk, 1, G, plan->Lk, BACKWARD_ONLY | OUTPUT | KERNEL, &o->k},
        {"dk_rev", &o->dk_rev, 1, G, plan->Lk_rev, BACKWARD_ONLY | OUTPUT | KERNEL, &o->k_rev},
        {"dskip", &o->dskip, 1, G, 1, BACKWARD_ONLY | OUTPUT, &o->skip},
    };
    enum { COUNT = sizeof all / sizeof *all };
    int used[COUNT], count = 0;
    for (int i = 0; i < COUNT; i++) {
        const fftconv_tensor *t = all[i].t;
        if (all[i].is & (back ? FORWARD_ONLY : BACKWARD_ONLY))
            continue;
        if (!t->data) {
            if (all[i].is & NEEDED)
                return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", all[i].name);
            continue;
        }
        if ((t == &o->k_rev || t == &o->dk_rev) && !rev)
            return fail(FFTCONV_STATUS_INVALID,
                        "%s is given, must be NULL unless the plan's mode is "
                        "two_sided (2)",
                        all[i].name);
        if (all[i].of && !all[i].of->data)
            return fail(FFTCONV_STATUS_INVALID, "%s is given, must be NULL where %s is NULL",
                        all[i].name, all[i].name + 1);
        if (all[i].is & KERNEL ? t->dtype != plan->dtype : !is_row_dtype(plan, t->dtype))
            return fail(FFTCONV_STATUS_INVALID, "%s has dtype %s, must be %s", all[i].name,
                        dtype_name(t->dtype) ? dtype_name(t->dtype) : "unknown",
                        all[i].is & KERNEL || plan->dtype == FFTCONV_DTYPE_FLOAT64
                            ? dtype_name(plan->dtype)
                            : "float32, float16 or bfloat16");
        const int64_t shape[3] = {all[i].n0, all[i].n1, all[i].n2};
        if ((status = check_layout(all[i].name, t, shape, all[i].is & OUTPUT)))
            return status;
        used[count++] = i;
    }
    for (int a = 0; a < count; a++)
        for (int b = 0; all[used[a]].is & OUTPUT && b < count; b++)
            if ((!(all[used[b]].is & OUTPUT) || b < a) &&
                tensors_overlap(all[used[a]].t, all[used[b]].t))
                return fail(FFTCONV_STATUS_INVALID, "%s overlaps %s, must not", all[used[a]].name,
                            all[used[b]].name);
    return FFTCONV_STATUS_OK;
}

/* ---- Memory ------------------------------------------------------------------------ */

/* Rows a call can take, or give, as they stand. */
static bool is_plain(const struct fftconv_plan *plan, const fftconv_tensor *t)
{
    return t->dtype == plan->dtype && t->stride[2] == 1;
}

static void layout(struct heads *c)
{
    const fftconv_heads_desc *o = c->o;
    const int64_t row = c->step * c->real, rows = c->h * row;
    struct part *p = &c->part;
    int64_t at = 0;
#define TAKE(wanted, bytes) ((wanted) ? take_bytes(&at, (bytes)) : -1)
    p->u = TAKE(o->gelu_u || !is_plain(c->plan, &o->u), rows);
    p->v = TAKE(o->v.data && !is_plain(c->plan, &o->v), rows);
    p->q = TAKE(o->q.data && (o->gelu_q || !is_plain(c->plan, &o->q)), rows);
    p->dy = TAKE(c->back && !is_plain(c->plan, &o->dy), rows);
    p->sum = TAKE(c->back ? o->dv.data != NULL : !is_plain(c->plan, &o->y), rows);
    p->lane = TAKE(c->back, row);
    p->slope = TAKE(c->back && (o->gelu_u || o->gelu_q), row);
    p->call[0] = TAKE(c->back ? o->du.data != NULL : c->h > 1, rows);
    p->call[1] = TAKE(c->back && o->dv.data, rows);
    p->call[2] = TAKE(c->back && o->dq.data, rows);
    p->taps = TAKE(c->back && (o->dk.data || o->dk_rev.data),
                   (c->plan->Lk + c->plan->Lk_rev) * c->real);
#undef TAKE
    p->scalars = take_bytes(&at, (2 + c->h) * c->real);
    c->workspace_bytes = plain_workspace_bytes(
        c->plan, c->back ? FFTCONV_DIRECTION_BACKWARD : FFTCONV_DIRECTION_FORWARD, c->inside);
    p->workspace = take_bytes(&at, c->workspace_bytes);
    p->total = at;
}

static struct array row_at(const fftconv_tensor *t, int64_t b, int64_t h)
{
    return (struct array){.data = (char *)t->data +
                                  (b * t->stride[0] + h * t->stride[1]) * dtype_size(t->dtype),
                          .dtype = t->dtype,
                          .stride = t->stride[2]};
}

/* A row of the plan's own numbers. */
static struct array own(const struct heads *c, const void *data)
{
    return (struct array){.data = data, .dtype = c->plan->dtype, .stride = 1};
}

/* to[n] = from[n], each in its dtype */
static void copy(const struct heads *c, struct array from, struct array to)
{
    c->plan->engine->rows.write_product(0, c->L, &from, &(struct array){0}, &to);
}

/* The h rows of a group of row b, ready for a call: (1, h, L). */
static fftconv_tensor group(const struct heads *c, const fftconv_tensor *t, int64_t b, int64_t g,
                            int64_t staged, bool gelu, char *memory)
{
    const int64_t h = c->h;
    fftconv_tensor rows = {.dtype = c->plan->dtype, .shape = {1, h, c->L}, .stride = {0, 0, 1}};
    if (!t->data)
        return (fftconv_tensor){0};
    if (staged < 0) {
        rows.data = (void *)row_at(t, b, g * h).data;
        rows.stride[1] = t->stride[1];
        return rows;
    }
    rows.data = memory + staged;
    rows.stride[1] = c->step;
    for (int64_t i = 0; i < h; i++) {
        char *row = (char *)rows.data + i * c->step * c->real;
        copy(c, row_at(t, b, g * h + i), own(c, row));
        if (gelu)
            c->plan->engine->rows.activate(FFTCONV_ACTIVATION_GELU, false, c->L, row, row);
    }
    return rows;
}

/* Lane i of a group's rows, for all lanes of another. */
static fftconv_tensor lane(const struct heads *c, const fftconv_tensor *rows, int64_t i)
{
    fftconv_tensor one = *rows;
    if (one.data)
        one.data = (char *)one.data + i * one.stride[1] * c->real;
    one.stride[1] = 0;
    return one;
}

/* h rows in a worker's memory */
static fftconv_tensor block(const struct heads *c, char *memory, int64_t at)
{
    if (at < 0)
        return (fftconv_tensor){0};
    return (fftconv_tensor){.data = memory + at,
                            .dtype = c->plan->dtype,
                            .shape = {1, c->h, c->L},
                            .stride = {0, c->step, 1}};
}

static char *nth(const struct heads *c, const fftconv_tensor *rows, int64_t j)
{
    return (char *)rows->data + j * rows->stride[1] * c->real;
}

static void add(const struct heads *c, int64_t n, const void *x, void *y)
{
    c->plan->engine->rows.add_scaled(false, n, (struct scalar){1, 0}, x, y);
}

/* skip or mask of a group as a call's tensor, its number at `place` */
static fftconv_tensor scalar_of(const struct heads *c, const fftconv_tensor *t, int64_t b,
                                int64_t g, char *place)
{
    if (!t->data)
        return (fftconv_tensor){0};
    const struct array from = row_at(t, b, g), to = own(c, place);
    c->plan->engine->rows.store_scalar(&to, c->plan->engine->rows.load_scalar(&from));
    return (fftconv_tensor){
        .data = place, .dtype = c->plan->dtype, .shape = {1, c->h, 1}, .stride = {0, 0, 1}};
}

static fftconv_tensor kernel_of(const fftconv_tensor *t, int64_t g)
{
    if (!t->data)
        return (fftconv_tensor){0};
    const struct array row = row_at(t, 0, g);
    return (fftconv_tensor){.data = (void *)row.data,
                            .dtype = t->dtype,
                            .shape = {1, 1, t->shape[2]},
                            .stride = {0, 0, t->stride[2]}};
}

/* ---- A group of one row of the batch --------------------------------------------------- */

static int forward_row(const struct heads *c, const fftconv_spectrum *spectrum, int64_t b,
                       int64_t g, fftconv_operands *o, const fftconv_tensor *u,
                       const fftconv_tensor *q, char *memory)
{
    const struct part *p = &c->part;
    fftconv_tensor sum = block(c, memory, p->sum), more = block(c, memory, p->call[0]);
    if (!sum.data)
        sum = group(c, &c->o->y, b, g, -1, false, NULL);
    for (int64_t i = 0; i < c->h; i++) {
        o->u = lane(c, u, i);
        o->out_gate = lane(c, q, i);
        o->y = i == 0 ? sum : more;
        const int status = fftconv_forward(c->plan, spectrum, o);
        if (status)
            return status;
        for (int64_t j = 0; i > 0 && j < c->h; j++)
            add(c, c->L, nth(c, &more, j), nth(c, &sum, j));
    }
    for (int64_t j = 0; p->sum >= 0 && j < c->h; j++)
        copy(c, own(c, nth(c, &sum, j)), row_at(&c->o->y, b, g * c->h + j));
    return FFTCONV_STATUS_OK;
}

/* The sum of a call's rows, the gradient of lane i of u or q: times gelu' of what it
 * was there, to its place. */
static void finish_lane(const struct heads *c, const fftconv_tensor *rows, bool gelu,
                        const fftconv_tensor *of, const fftconv_tensor *to, int64_t b, int64_t h,
                        char *memory)
{
    if (!rows->data)
        return;
    char *sum = nth(c, rows, 0), *slope = memory + c->part.slope, *x = memory + c->part.lane;
    for (int64_t j = 1; j < c->h; j++)
        add(c, c->L, nth(c, rows, j), sum);
    const struct array from = own(c, sum), place = row_at(to, b, h), factor = own(c, slope);
    if (gelu) {
        copy(c, row_at(of, b, h), own(c, x));
        c->plan->engine->rows.activate(FFTCONV_ACTIVATION_GELU, true, c->L, x, slope);
    }
    c->plan->engine->rows.write_product(0, c->L, &from, gelu ? &factor : &(struct array){0},
                                        &place);
}

static int backward_row(const struct heads *c, const fftconv_spectrum *spectrum, int64_t b,
                        int64_t g, fftconv_operands *o, const fftconv_tensor *u,
                        const fftconv_tensor *q, char *memory, char *taps, double *dskip)
{
    const struct part *p = &c->part;
    const fftconv_heads_desc *all = c->o;
    const int64_t Lk = c->plan->Lk, Lrev = c->plan->Lk_rev;
    const fftconv_tensor dv = block(c, memory, p->sum);
    char *dskips = memory + p->scalars + 2 * c->real, *more = memory + p->taps;
    o->dy = group(c, &all->dy, b, g, p->dy, false, memory);
    o->du = block(c, memory, p->call[0]);
    o->din_gate = block(c, memory, p->call[1]);
    o->dout_gate = block(c, memory, p->call[2]);
    o->dk = o->dk_rev = o->dskip = (fftconv_tensor){0};
    if (all->dk.data)
        o->dk = (fftconv_tensor){
            .data = more, .dtype = c->plan->dtype, .shape = {1, 1, Lk}, .stride = {0, 0, 1}};
    if (all->dk_rev.data)
        o->dk_rev = (fftconv_tensor){.data = more + Lk * c->real,
                                     .dtype = c->plan->dtype,
                                     .shape = {1, 1, Lrev},
                                     .stride = {0, 0, 1}};
    if (all->dskip.data)
        o->dskip = (fftconv_tensor){
            .data = dskips, .dtype = c->plan->dtype, .shape = {1, c->h, 1}, .stride = {0, 1, 1}};
    for (int64_t j = 0; dv.data && j < c->h; j++)
        memset(nth(c, &dv, j), 0, (size_t)(c->L * c->real));
    for (int64_t i = 0; i < c->h; i++) {
        o->u = lane(c, u, i);
        o->out_gate = lane(c, q, i);
        const int status = fftconv_backward(c->plan, spectrum, o);
        if (status)
            return status;
        for (int64_t j = 0; dv.data && j < c->h; j++)
            add(c, c->L, nth(c, &o->din_gate, j), nth(c, &dv, j));
        finish_lane(c, &o->du, all->gelu_u, &all->u, &all->du, b, g * c->h + i, memory);
        finish_lane(c, &o->dout_gate, all->gelu_q, &all->q, &all->dq, b, g * c->h + i, memory);
        if (all->dk.data)
            add(c, Lk, more, taps);
        if (all->dk_rev.data)
            add(c, Lrev, more + Lk * c->real, taps + Lk * c->real);
        for (int64_t j = 0; all->dskip.data && j < c->h; j++) {
            const struct array one = own(c, dskips + j * c->real);
            *dskip += c->plan->engine->rows.load_scalar(&one).re;
        }
    }
    for (int64_t j = 0; dv.data && j < c->h; j++)
        copy(c, own(c, nth(c, &dv, j)), row_at(&all->dv, b, g * c->h + j));
    return FFTCONV_STATUS_OK;
}

/* A group, and a chunk of the batch. */
static int task(void *context, int64_t index, int worker)
{
    struct heads *c = context;
    const fftconv_heads_desc *all = c->o;
    const struct part *p = &c->part;
    const int64_t g = index / c->chunks, chunk = index % c->chunks;
    char *memory = c->workers + worker * p->total, *scalars = memory + p->scalars;
    char *taps = c->sums + index * c->sum_bytes;
    double *dskip = (double *)(taps + c->dskip_at);
    fftconv_spectrum *spectrum;
    const fftconv_operands kernel = {.size = sizeof kernel,
                                     .threads = c->inside,
                                     .k = kernel_of(&all->k, g),
                                     .k_rev = kernel_of(&all->k_rev, g)};
    int status = fftconv_spectrum_create(&spectrum, c->plan, &kernel);
    if (c->back)
        memset(taps, 0, (size_t)c->sum_bytes);
    const int64_t end = c->B * (chunk + 1) / c->chunks;
    for (int64_t b = c->B * chunk / c->chunks; !status && b < end; b++) {
        const fftconv_tensor u = group(c, &all->u, b, g, p->u, all->gelu_u, memory);
        const fftconv_tensor q = group(c, &all->q, b, g, p->q, all->gelu_q, memory);
        fftconv_operands o = {.size = sizeof o,
                              .activation = all->activation,
                              .threads = c->inside,
                              .in_gate = group(c, &all->v, b, g, p->v, false, memory),
                              .skip = scalar_of(c, &all->skip, 0, g, scalars),
                              .mask = scalar_of(c, &all->mask, b, g, scalars + c->real),
                              .workspace = memory + p->workspace,
                              .workspace_bytes = c->workspace_bytes};
        status = c->back ? backward_row(c, spectrum, b, g, &o, &u, &q, memory, taps, dskip)
                         : forward_row(c, spectrum, b, g, &o, &u, &q, memory);
    }
    fftconv_spectrum_destroy(spectrum);
    return status;
}

/* Sums over chunks, in their order, to dk, dk_rev and dskip of group g. */
static int finish_task(void *context, int64_t g, int worker)
{
    struct heads *c = context;
    const fftconv_heads_desc *o = c->o;
    const int64_t Lk = c->plan->Lk, Lrev = c->plan->Lk_rev;
    char *sum = c->sums + g * c->chunks * c->sum_bytes;
    (void)worker;
    for (int64_t i = 1; i < c->chunks; i++) {
        add(c, Lk + Lrev, sum + i * c->sum_bytes, sum);
        *(double *)(sum + c->dskip_at) += *(double *)(sum + i * c->sum_bytes + c->dskip_at);
    }
    const struct array none = {0}, dk = own(c, sum), dk_rev = own(c, sum + Lk * c->real);
    if (o->dk.data) {
        const struct array to = row_at(&o->dk, 0, g);
        c->plan->engine->rows.write_product(0, Lk, &dk, &none, &to);
    }
    if (o->dk_rev.data) {
        const struct array to = row_at(&o->dk_rev, 0, g);
        c->plan->engine->rows.write_product(0, Lrev, &dk_rev, &none, &to);
    }
    if (o->dskip.data) {
        const struct array to = row_at(&o->dskip, 0, g);
        c->plan->engine->rows.store_scalar(&to, (struct scalar){*(double *)(sum + c->dskip_at), 0});
    }
    return FFTCONV_STATUS_OK;
}

static int run(const struct fftconv_plan *plan, const fftconv_heads_desc *o, bool back)
{
    int threads, status;
    if ((status = check(plan, o, back)) || (status = resolve_threads(plan, o->threads, &threads)))
        return status;
    struct heads c = {.plan = plan,
                      .o = o,
                      .back = back,
                      .B = o->u.shape[0],
                      .h = plan->H,
                      .G = o->u.shape[1] / plan->H,
                      .L = plan->L,
                      .real = plan->engine->real_bytes};
    c.step = round_up(c.L * c.real, ALIGNMENT) / c.real;
    c.chunks = min64(c.B, ceil_div(LEAST_TASKS, c.G));
    const int64_t tasks = c.G * c.chunks;
    const int workers = tasks >= threads ? threads : 1;
    c.inside = workers > 1 ? 1 : threads;
    layout(&c);
    if (back) {
        c.dskip_at = round_up((plan->Lk + plan->Lk_rev) * c.real, sizeof(double));
        c.sum_bytes = round_up(c.dskip_at + (int64_t)sizeof(double), ALIGNMENT);
    }
    const int64_t bytes = workers * c.part.total + tasks * c.sum_bytes;
    if (!(c.workers = aligned_new(bytes)))
        return fail_memory(bytes);
    c.sums = c.workers + workers * c.part.total;
    status = parallel_for(workers, tasks, task, &c);
    if (back && !status)
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
