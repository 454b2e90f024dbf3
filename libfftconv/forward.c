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
static void sum_row(const struct row_group *group, struct source *source, struct sink *sink,
                    int64_t i)
{
    const struct call *c = group->call;
    const struct fftconv_spectrum *spectrum = c->direct;
    const int64_t kernel = (spectrum_of(group, i) - c->spectra) / c->layout.spectra_bytes;
    sink->shift = 0; /* that of the only block */
    source->exponent = exponent_if_needed(
        c->plan, largest_of_places(c->plan, source, 0, c->plan->taps - 1 + c->L));
    source->careful = source->gate.data &&
                      !c->plan->engine->rows.is_ordinary(&source->x, &source->gate, 0, c->L);
    scale_sink(c->plan, sink, source, 0);
    c->plan->engine->rows.direct_sum(
        source, (const char *)spectrum->reversed + kernel * spectrum->reversed_bytes, c->plan->taps,
        c->L, sink, group->worker->memory + c->layout.direct_work);
}

/* The work of a task: the number of its kernel task, those rows that each of its kernels serves,
 * and blocks of them. */
struct extent {
    int64_t kernel_task, row0, row1, block0, block1;
};

/* A task is all rows and blocks of some kernels where layout.whole says so, else one of row_tasks
 * and one of segments. */
static struct extent extent_of_task(const struct call *c, int64_t index)
{
    const struct layout *l = &c->layout;
    const int64_t channels = c->plan->channels_per_kernel, blocks = blocks_of(c);
    if (l->whole)
        return (struct extent){index, 0, rows_of_kernel(c->plan), 0, blocks};
    const int64_t segment = index % l->segments, row_task = index / l->segments % l->row_tasks;
    /* A row task is a piece of the channels of one row of the batch. */
    const int64_t length = channels > 1 ? l->group_channels : 1;
    const int64_t pieces = ceil_div(channels, length), first = row_task / pieces * channels;
    const int64_t row0 = first + row_task % pieces * length;
    return (struct extent){index / l->segments / l->row_tasks, row0,
                           min64(first + channels, row0 + length), blocks * segment / l->segments,
                           blocks * (segment + 1) / l->segments};
}

/* What is fetched into cache while row i of the group is computed. */
static struct prefetch prefetch_beside_row(const struct row_group *group, int64_t i)
{
    struct prefetch prefetch = {.step = group->call->prefetch_bytes};
    if (prefetch.step) {
        prefetch_next_row(&prefetch, group, U, i);
        prefetch_next_row(&prefetch, group, IN_GATE, i);
        prefetch_row(&prefetch, group, OUT_GATE, i);
        prefetch_row(&prefetch, group, Y, i);
    }
    return prefetch;
}

static int forward_task(void *context, int64_t index, int worker)
{
    const struct call *c = context;
    const fftconv_operands *o = c->o;
    const struct extent extent = extent_of_task(c, index);
    const struct worker w = worker_of(c, worker);
    struct kernels kernels;
    const int status = kernels_of_task(&kernels, c, &w, extent.kernel_task);
    if (status)
        return status;
    /* Rows of several blocks go one after the other, so that a row stays in cache. */
    const bool along_batch = c->layout.whole && extent.block1 == 1;
    struct row_group group = groups_of(c, &w, &kernels, extent.row0, extent.row1, along_batch);
    while (next_group(&group))
        for (int64_t j = extent.block0; j < extent.block1; j++) {
            const struct block block = block_of(c->plan, c->L, j);
            copy_in(&group, &block);
            struct source source;
            struct sink sink = {.packing = c->plan->chosen.packing,
                                .shift = block.s,
                                .from = block.t0,
                                .to = block.t1,
                                .has_skip = o->skip.data,
                                .has_mask = o->mask.data,
                                .activation = o->activation};
            input_source(&source, c->plan, c->L, &block);
            for (int64_t i = 0; i < group.count; i++) {
                source_of_row(&source, &group, &block, i);
                sink_of_row(&sink, &group, i);
                const char *spectrum = spectrum_of(&group, i);
                if (c->direct && !*exponent_of(c->plan, spectrum)) {
                    sum_row(&group, &source, &sink, i);
                    continue;
                }
                struct prefetch prefetch = prefetch_beside_row(&group, i);
                int exponent;
                convolve_row(&w, &source, &exponent, NULL, spectrum, &sink, &prefetch);
            }
            copy_out(&group, Y, block.t0, block.t1);
        }
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
