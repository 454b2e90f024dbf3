/* y from u: the tasks of a forward call, and a group of rows. */
#include "call.h"

/* Blocks that the rows of this call have. */
static int64_t blocks_of(const struct call *c)
{
    return ceil_div(c->L, c->plan->chosen.block_length);
}

/* What row i of the group becomes: y, with the gate, skip and mask of that row. */
static void sink_of_row(struct sink *s, const struct row_group *group, int64_t i)
{
    const struct fftconv_plan *plan = group->call->plan;
    const fftconv_operands *o = group->call->o;
    const int64_t b = group->b + i * group->step_b, h = group->h0 + i * group->step_h;
    row_to(&s->y, group, Y, i);
    if (o->out_gate.data)
        row_to(&s->out_gate, group, OUT_GATE, i);
    if (s->has_skip) {
        row_to(&s->x, group, U, i);
        row_to(&s->gate, group, IN_GATE, i);
        s->skip = scalar_of(plan, &o->skip, 0, h);
    }
    if (s->has_mask)
        s->mask = scalar_of(plan, &o->mask, b, h);
}

/* A few samples of a stream are summed directly, with the taps of the kernel whose spectrum
 * the row would meet. */
static void sum_row(const struct row_group *group, const struct source *source, struct sink *sink,
                    int64_t i)
{
    const struct call *c = group->call;
    const struct fftconv_spectrum *spectrum = c->direct;
    const int64_t kernel = (spectrum_of(group, i) - c->spectra) / c->layout.spectra_bytes;
    sink->shift = 0; /* that of the only block */
    c->plan->engine->rows.direct_sum(
        source, (const char *)spectrum->reversed + kernel * spectrum->reversed_bytes, c->plan->taps,
        c->L, sink, group->worker->memory + c->layout.direct_work);
}

/* Blocks [block0, block1) of a group's rows. */
static void forward_group(struct row_group *group, int64_t block0, int64_t block1)
{
    const struct call *c = group->call;
    const struct fftconv_plan *plan = c->plan;
    const fftconv_operands *o = c->o;
    for (int64_t j = block0; j < block1; j++) {
        const struct block block = block_of(plan, c->L, j);
        copy_in(group, &block);
        struct source source;
        struct sink sink = {.packing = plan->chosen.packing,
                            .shift = block.s,
                            .from = block.t0,
                            .to = block.t1,
                            .has_skip = o->skip.data,
                            .has_mask = o->mask.data,
                            .activation = o->activation};
        input_source(&source, plan, c->L, &block);
        for (int64_t i = 0; i < group->count; i++) {
            source_of_row(&source, group, &block, i);
            sink_of_row(&sink, group, i);
            if (c->direct) {
                sum_row(group, &source, &sink, i);
                continue;
            }
            struct prefetch prefetch = {.step = c->prefetch_bytes};
            if (c->prefetch_bytes) {
                prefetch_next_row(&prefetch, group, U, i);
                prefetch_next_row(&prefetch, group, IN_GATE, i);
                prefetch_row(&prefetch, group, OUT_GATE, i);
                prefetch_row(&prefetch, group, Y, i);
            }
            convolve_row(group->worker, &source, NULL, spectrum_of(group, i), &sink, &prefetch);
        }
        copy_out(group, Y, block.t0, block.t1);
    }
}

/* A task is some kernels, some of the rows that they serve, and some of the blocks of those:
 * all of them where layout.whole says so, else one of row_tasks and one of segments. */
static int forward_task(void *context, int64_t index, int worker)
{
    const struct call *c = context;
    const struct layout *l = &c->layout;
    const int64_t channels = c->plan->channels_per_kernel, blocks = blocks_of(c);
    int64_t kernel_task = index, row0 = 0, row1 = rows_of_kernel(c->plan);
    int64_t block0 = 0, block1 = blocks;
    if (!l->whole) {
        const int64_t segment = index % l->segments;
        const int64_t row_task = index / l->segments % l->row_tasks;
        kernel_task = index / l->segments / l->row_tasks;
        block0 = blocks * segment / l->segments;
        block1 = blocks * (segment + 1) / l->segments;
        /* a row task is a piece of the channels of one row of the batch */
        const int64_t length = channels > 1 ? l->group_channels : 1;
        const int64_t pieces = ceil_div(channels, length);
        const int64_t first = row_task / pieces * channels;
        row0 = first + row_task % pieces * length;
        row1 = min64(first + channels, row0 + length);
    }
    const struct worker w = worker_of(c, worker);
    struct kernels kernels;
    const int status = kernels_of_task(&kernels, c, &w, kernel_task);
    if (status)
        return status;
    /* rows of several blocks go one after the other, so that a row stays in cache */
    struct row_group group = groups_of(c, &w, &kernels, row0, row1, l->whole && blocks == 1);
    while (next_group(&group))
        forward_group(&group, block0, block1);
    return FFTCONV_STATUS_OK;
}

int fftconv_forward(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                    const fftconv_operands *o)
{
    struct call c = {0};
    void *owned;
    int status = check_operands(plan, spectrum, o, FFTCONV_DIRECTION_FORWARD);
    if (status)
        return status;
    if (plan->cuda)
        return cuda_execute(plan, spectrum, o, FFTCONV_DIRECTION_FORWARD);
    if ((status = begin_call(&c, plan, o, FFTCONV_DIRECTION_FORWARD, spectrum != NULL, 0, &owned)))
        return status;
    const struct layout *l = &c.layout;
    c.spectra = spectrum ? spectrum->data : NULL;
    if (spectrum && spectrum->reversed && c.L <= plan->direct_outputs)
        c.direct = spectrum;
    if (!spectrum && !l->by_kernel) {
        status = make_all_spectra(&c, c.shared + l->shared_spectra);
        c.spectra = c.shared + l->shared_spectra;
    }
    c.prefetch_bytes = l->inside > 1 ? 0 : plan->prefetch_bytes;
    const int64_t tasks = l->kernel_tasks * (l->whole ? 1 : l->row_tasks * l->segments);
    if (!status)
        status = parallel_for(l->threads, tasks, forward_task, &c);
    aligned_free(owned);
    return status;
}
