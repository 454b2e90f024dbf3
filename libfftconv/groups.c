/* The rows of a call: its workspace, its kernels, its rows in groups, and the copies of rows
 * that are not contiguous. */
#include "call.h"

#include <string.h>

/* ---- A call and its workers ---------------------------------------------------------------- */

int begin_call(struct call *c, const struct fftconv_plan *plan, const fftconv_operands *o,
               int direction, bool has_spectrum, int64_t rows, void **owned)
{
    int threads, status = resolve_threads(plan, o->threads, &threads);
    if (status)
        return status;
    c->plan = plan;
    c->o = o;
    c->L = plan->history && o->u.data ? o->u.shape[2] : plan->L;
    struct call_shape shape = call_shape_of(plan, o, direction, threads, has_spectrum);
    shape.rows = rows;
    c->layout = layout_of(plan, &shape);
    for (int i = 0; i < ROW_OPERANDS; i++) {
        const fftconv_tensor *t = row_tensor(o, i);
        const int64_t size = t->data ? dtype_size(t->dtype) : 0;
        /* the stride of an axis of one entry may be anything */
        c->rows[i] = (struct rows){array_of(t, 0, 0), t->shape[0] > 1 ? t->stride[0] * size : 0,
                                   t->shape[1] > 1 ? t->stride[1] * size : 0};
    }
    *owned = NULL;
    if ((status = check_layout_bytes(plan, &c->layout)))
        return status;
    char *memory = o->workspace;
    if (memory && o->workspace_bytes < c->layout.total_bytes)
        return fail(FFTCONV_STATUS_INVALID, "workspace_bytes is %lld, must be at least %lld",
                    (long long)o->workspace_bytes, (long long)c->layout.total_bytes);
    if (!memory && !(memory = *owned = aligned_new(c->layout.total_bytes)))
        return fail_memory(c->layout.total_bytes);
    c->shared = memory;
    c->workers = memory + c->layout.shared_bytes;
    return FFTCONV_STATUS_OK;
}

struct worker worker_of(const struct call *c, int index)
{
    const struct layout *l = &c->layout;
    char *m = c->workers + index * l->worker_bytes;
    return (struct worker){.plan = c->plan,
                           .layout = l,
                           .inside = l->inside,
                           .memory = m,
                           .x = m + l->x,
                           .row = m + l->row,
                           .scratch = m + l->scratch,
                           .z = m + l->z,
                           .g = m + l->g,
                           .p = m + l->p,
                           .dz = m + l->dz,
                           .taps = m + l->taps,
                           .filter = m + l->filter,
                           .scratch_bytes = l->scratch_bytes};
}

struct block block_of(const struct fftconv_plan *plan, int64_t L, int64_t j)
{
    const int64_t length = plan->chosen.block_length;
    return (struct block){j, j * length, min64(L, (j + 1) * length),
                          j * length - plan->chosen.lead};
}

/* ---- Kernels of a task --------------------------------------------------------------------- */

int kernels_of_task(struct kernels *k, const struct call *c, const struct worker *w, int64_t task)
{
    const struct layout *l = &c->layout;
    const struct fftconv_plan *plan = c->plan;
    const int64_t tasks = l->kernel_tasks / plan->KB; /* of one row of the batch */
    *k = (struct kernels){.kb = task / tasks, .g0 = task % tasks * l->group_kernels};
    k->g1 = min64(plan->G, k->g0 + l->group_kernels);
    if (c->spectra) {
        k->spectra = c->spectra + (k->kb * plan->G + k->g0) * l->spectra_bytes;
        return FFTCONV_STATUS_OK;
    }
    char *made = w->memory + l->made;
    int status = FFTCONV_STATUS_OK;
    for (int64_t g = k->g0; !status && g < k->g1; g++)
        status = make_spectrum(w, c->o, k->kb, g, made + (g - k->g0) * l->spectra_bytes);
    k->spectra = made;
    return status;
}

int64_t rows_of_kernel(const struct fftconv_plan *plan)
{
    return plan->channels_per_kernel * (plan->B / plan->KB);
}

/* ---- Groups of rows ------------------------------------------------------------------------ */

struct row_group groups_of(const struct call *c, const struct worker *w, const struct kernels *k,
                           int64_t row0, int64_t row1, bool along_batch)
{
    const int64_t channels = c->plan->channels_per_kernel;
    struct row_group group = {.call = c,
                              .worker = w,
                              .kernels = k,
                              .count = k->g1 - k->g0,
                              .step_h = 1,
                              .row = row0,
                              .row_end = row1,
                              .first_b = k->kb + row0 / channels,
                              .first_m = row0 % channels};
    group.at_b = group.first_b;
    group.at_m = group.first_m;
    group.along_batch = along_batch && channels == 1 && group.count == 1 &&
                        !c->layout.call.scattered;
    if (group.along_batch) {
        group.step_b = 1, group.step_h = 0;
        group.count = row1 - row0;
    }
    return group;
}

bool next_group(struct row_group *group)
{
    const struct call *c = group->call;
    const struct kernels *k = group->kernels;
    const int64_t channels = c->plan->channels_per_kernel, h0 = k->g0 * channels;
    int64_t rows = group->along_batch ? group->count : 1;
    if (group->row >= group->row_end)
        return false;
    group->b = group->at_b;
    group->h0 = h0 + group->at_m;
    if (channels > 1) {
        const int64_t left = min64(channels - group->at_m, group->row_end - group->row);
        group->count = rows = min64(c->layout.group_channels, left);
    }
    if ((group->at_m += rows) == channels)
        group->at_m = 0, group->at_b++;
    group->row += rows;
    group->next_b = group->at_b;
    group->next_h = h0 + group->at_m;
    if (group->row >= group->row_end) { /* the next kernel's rows, which on one thread follow */
        group->next_b = group->first_b;
        group->next_h = c->layout.threads == 1 ? k->g1 * channels + group->first_m : c->plan->H;
    }
    return true;
}

struct scalar scalar_of(const struct fftconv_plan *plan, const fftconv_tensor *t, int64_t b,
                        int64_t h)
{
    if (!t->data)
        return (struct scalar){0, 0};
    const struct array a = array_of(t, b, h);
    return plan->engine->rows.load_scalar(&a);
}

/* ---- Copies -------------------------------------------------------------------------------- */

/* Goes by squares, so that a line of memory is visited once on either side. */
#define COPY_SQUARES(type) \
    for (int64_t n0 = 0; n0 < elements; n0 += GROUP_CHANNELS) { \
        type square[GROUP_CHANNELS][GROUP_CHANNELS]; \
        const int64_t m = min64(GROUP_CHANNELS, elements - n0); \
        const int64_t far_n = t->stride[2], far_h = t->stride[1]; \
        type *far = (type *)data + n0 * far_n; \
        for (int64_t i = 0; !in && i < count; i++) \
            memcpy(square[i], copy + i * row_bytes + n0 * size, (size_t)(m * size)); \
        for (int64_t n = 0; n < m; n++) \
            for (int64_t i = 0; i < count; i++) \
                if (in) \
                    square[i][n] = far[n * far_n + i * far_h]; \
                else \
                    far[n * far_n + i * far_h] = square[i][n]; \
        for (int64_t i = 0; in && i < count; i++) \
            memcpy(copy + i * row_bytes + n0 * size, square[i], (size_t)(m * size)); \
    }

/* Elements [from, from + elements) of `count` channels from h0 on, to or from the rows of
 * `copy`, which lie row_bytes apart. */
static void copy_rows(const struct fftconv_plan *plan, const fftconv_tensor *t, int64_t b,
                      int64_t h0, int64_t count, int64_t from, int64_t elements, char *copy,
                      int64_t row_bytes, bool in)
{
    typedef struct {
        uint32_t half[2];
    } pair_of_4;
    typedef struct {
        uint64_t half[2];
    } pair_of_8;
    const int size = dtype_size(t->dtype);
    char *data = (char *)t->data +
                 (b * t->stride[0] + h0 * t->stride[1] + from * t->stride[2]) * size;
    if (size == plan->engine->real_bytes && t->stride[1] == 1) {
        const int64_t far = t->stride[2], near = row_bytes / size;
        if (in)
            plan->engine->rows.transpose(data, far, copy, near, elements, count);
        else
            plan->engine->rows.transpose(copy, near, data, far, count, elements);
        return;
    }
    switch (t->dtype) { /* complex numbers are aligned to their halves */
    case FFTCONV_DTYPE_COMPLEX128: COPY_SQUARES(pair_of_8) break;
    case FFTCONV_DTYPE_COMPLEX64: COPY_SQUARES(pair_of_4) break;
    case FFTCONV_DTYPE_FLOAT64: COPY_SQUARES(uint64_t) break;
    case FFTCONV_DTYPE_FLOAT32: COPY_SQUARES(uint32_t) break;
    default: COPY_SQUARES(uint16_t)
    }
}
#undef COPY_SQUARES

/* Which elements of an operand a block touches. */
static void reach_of(const struct call *c, const struct block *block, int operand, int64_t *from,
                     int64_t *to)
{
    *from = block->t0, *to = block->t1;
    if (operand == U || operand == IN_GATE || operand == DU || operand == DIN_GATE) {
        *from = max64(0, block->s);
        *to = min64(c->L, block->s + c->plan->chosen.padded_length);
    }
}

void copy_in(struct row_group *group, const struct block *block)
{
    const struct layout *l = group->worker->layout;
    if (!l->call.scattered && !l->call.in_place)
        return;
    for (int i = 0; i < ROW_OPERANDS; i++) {
        if (!l->call.copied[i])
            continue;
        const fftconv_tensor *t = row_tensor(group->call->o, i);
        const int64_t size = dtype_size(t->dtype), row_bytes = l->copy_bytes[i];
        char *copy = group->worker->memory + l->copy[i];
        int64_t from, to, have = 0;
        reach_of(group->call, block, i, &from, &to);
        if (l->call.in_place && i == U && block->j > 0) {
            /* the block before has written over the elements that the two share */
            have = max64(0, group->copied[i].to - from);
            for (int64_t h = 0; h < group->count; h++)
                memmove(copy + h * row_bytes,
                        copy + h * row_bytes + (from - group->copied[i].from) * size,
                        (size_t)(have * size));
        }
        group->copied[i].from = from;
        group->copied[i].to = to;
        if (i <= OUT_GATE || i == DY)
            copy_rows(group->call->plan, t, group->b, group->h0, group->count, from + have,
                      to - from - have, copy + have * size, row_bytes, true);
    }
}

void copy_out(const struct row_group *group, int operand, int64_t from, int64_t to)
{
    const struct layout *l = group->worker->layout;
    if (!l->call.copied[operand] || from >= to)
        return;
    const fftconv_tensor *t = row_tensor(group->call->o, operand);
    copy_rows(group->call->plan, t, group->b, group->h0, group->count, from, to - from,
              group->worker->memory + l->copy[operand] +
                  (from - group->copied[operand].from) * dtype_size(t->dtype),
              l->copy_bytes[operand], false);
}

struct array row_of(const struct row_group *group, int operand, int64_t i)
{
    struct array a;
    row_to(&a, group, operand, i);
    return a;
}

/* ---- Sources and sinks --------------------------------------------------------------------- */

void input_source(struct source *s, const struct fftconv_plan *plan, int64_t L,
                  const struct block *block)
{
    s->packing = plan->chosen.packing;
    s->shift = block->s;
    s->from = max64(0, block->s);
    s->to = min64(L, block->s + plan->chosen.padded_length);
    s->gate.data = s->before.data = s->before_gate.data = NULL;
    s->before_to = 0;
    s->exponent = 0;
    s->careful = false;
}

/* Elements below 0 are read from the caller's row: in place too, since those that come round
 * are not written before the last block. */
static void read_before(struct source *s, const struct row_group *group, int64_t i)
{
    const struct fftconv_plan *plan = group->call->plan;
    const fftconv_operands *o = group->call->o;
    const int64_t b = group->b + i * group->step_b, h = group->h0 + i * group->step_h;
    if (plan->chosen.wrap) {
        s->before = array_of(&o->u, b, h);
        s->before_gate = array_of(&o->in_gate, b, h);
        s->before.origin = s->before_gate.origin = -plan->N;
        s->before_to = group->call->L - plan->N;
    } else if (plan->history && plan->past_taps > 0) {
        s->before = array_of(&o->history, b, h);
        s->before.origin = -plan->past_taps;
    }
}

void source_of_row(struct source *s, const struct row_group *group, const struct block *block,
                   int64_t i)
{
    row_to(&s->x, group, U, i);
    if (group->call->o->in_gate.data)
        row_to(&s->gate, group, IN_GATE, i);
    read_before(s, group, i);
    if (s->before.data)
        s->from = block->s;
}

struct source output_source(const struct fftconv_plan *plan, const struct block *block,
                            struct array x)
{
    return (struct source){.packing = plan->chosen.packing,
                           .shift = block->s,
                           .from = block->t0,
                           .to = block->t1,
                           .x = x};
}

struct sink output_sink(const struct fftconv_plan *plan, const struct block *block, struct array y)
{
    return (struct sink){.packing = plan->chosen.packing,
                         .shift = block->s,
                         .from = block->t0,
                         .to = block->t1,
                         .y = y};
}

struct sink input_sink(const struct fftconv_plan *plan, int64_t L, const struct block *block,
                       struct array y)
{
    return (struct sink){.packing = plan->chosen.packing,
                         .shift = block->s,
                         .from = block->s,
                         .to = min64(L, block->s + plan->chosen.padded_length),
                         .y = y};
}
