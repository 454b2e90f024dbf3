/* Gradients.  With g = dy conj(out_gate mask) act'(p), Z and G the transforms of z and g:
 *
 *     dz = inverse(adjoint spectrum . G) + conj(skip) g,   du = dz conj(in_gate), ...
 *     dk = pullback(sum over rows of conj(Z) G)
 *
 * where z and p are computed again and not stored.  In blocks, the adjoint of overlap-save is
 * overlap-add: the dz of a block reaches past_taps + future_taps elements into the next one,
 * which are carried over; and what lies below element 0 comes round at the end. */
#include "call.h"

#include <math.h>
#include <string.h>

/* What a task sums, and where. */
struct sums {
    char *spectra; /* of conj(Z) G: spectra_bytes for each kernel, `step` apart */
    int64_t step;
    bool begun;            /* each sum holds a row already */
    struct scalar *dskips; /* of this task's channels, from h0 on */
    int64_t h0;
};

/* What a backward call needs, the same for all its rows. */
struct needs {
    bool p, dz, dk;
    /* Without mask, activation and skip, p and g need no buffer: the sink of p writes
     * dout_gate = dy p, and g = dy out_gate is a gated source. */
    bool p_passes;
    bool dz_passes; /* with one block, dz needs none either */
    bool at_once;   /* the spectra of z are left behind by the pass that makes p */
};

static struct needs needs_of(const struct fftconv_plan *plan, const fftconv_operands *o)
{
    const bool plain = !is_complex(plan->dtype) && !o->skip.data;
    struct needs n = {.p = o->activation != FFTCONV_ACTIVATION_IDENTITY || o->dout_gate.data,
                      .dz = o->du.data || o->din_gate.data,
                      .dk = o->dk.data || o->dk_rev.data};
    n.p_passes = plain && !o->mask.data && o->activation == FFTCONV_ACTIVATION_IDENTITY;
    n.dz_passes = plain && plan->chosen.blocks == 1 && !plan->chosen.wrap;
    n.at_once = n.p && keeps_spectra(plan);
    return n;
}

/* Gives two rows times powers of two, of so many elements, the larger of their exponents. */
static void share_exponent(const struct fftconv_plan *plan, int64_t m, char *x, int *x_exponent,
                           int64_t n, char *y, int *y_exponent)
{
    const struct row_kernels *kernels = &plan->engine->rows;
    const int64_t reals = 1 + is_complex(plan->dtype);
    if (*x_exponent < *y_exponent)
        kernels->scale_by_power(*x_exponent - *y_exponent, m * reals, x), *x_exponent = *y_exponent;
    if (*y_exponent < *x_exponent)
        kernels->scale_by_power(*y_exponent - *x_exponent, n * reals, y), *y_exponent = *x_exponent;
}

void overlap_add(const struct call *c, const struct worker *w, const struct block *block, int64_t i,
                 char *dz, struct overlap *o, int64_t *from, int64_t *to)
{
    const struct fftconv_plan *plan = c->plan;
    const struct row_kernels *kernels = &plan->engine->rows;
    const struct layout *l = &c->layout;
    const bool complex = is_complex(plan->dtype), last = block->t1 == c->L;
    const int64_t element = element_bytes(plan), length = plan->chosen.block_length;
    const int64_t span = min64(c->L, block->s + plan->chosen.padded_length) - block->s;
    const int64_t halo = plan->past_taps + plan->future_taps;
    char *carry = w->memory + l->carry + i * l->carry_bytes;
    char *wrapped = w->memory + l->wrapped + i * l->wrap_bytes;
    const struct scalar one = {1, 0};
    if (block->j > 0) {
        share_exponent(plan, min64(halo, span), carry, &o->carry, span, dz, &o->dz);
        kernels->add_scaled(complex, min64(halo, span), one, carry, dz);
    }
    if (!last)
        memcpy(carry, dz + length * element, (size_t)(halo * element)), o->carry = o->dz;
    *from = max64(0, block->s);
    *to = last ? c->L : max64(0, block->s + length);
    if (!plan->chosen.wrap)
        return;
    /* elements s ... 0 come round to N + s ...; a later block adds to those left */
    const int64_t below = max64(0, min64(length, -block->s)), held = block->s + plan->past_taps;
    if (block->j == 0)
        o->wrapped = o->dz;
    else if (below > 0)
        share_exponent(plan, held, wrapped, &o->wrapped, span, dz, &o->dz);
    memcpy(wrapped + held * element, dz, below > 0 ? (size_t)(below * element) : 0);
    if (last) {
        share_exponent(plan, plan->past_taps, wrapped, &o->wrapped, span, dz, &o->dz);
        const int64_t count = max64(0, min64(plan->past_taps, c->L - plan->N + plan->past_taps));
        kernels->add_scaled(complex, count, one, wrapped,
                            dz + (plan->N - plan->past_taps - block->s) * element);
    }
}

/* What the rows of a group share, block by block. */
struct block_rows {
    struct row_group *group;
    const struct sums *sums;
    struct needs needs;
    struct block block;
    struct array dz; /* in the worker's memory */
    struct source input, output;
    struct sink p_sink, dz_sink;
    int64_t from, to; /* the elements of dz that this block finishes */
    int z_exponent;   /* of row_to_spectra */
    int g_exponent;   /* of the row in the worker's memory */
    struct overlap overlap[GROUP_CHANNELS];
};

static void begin_block(struct block_rows *r, const struct block *block)
{
    const struct call *c = r->group->call;
    const struct worker *w = r->group->worker;
    const struct array p = own_row(c->plan, w->p, block->t0);
    r->block = *block;
    r->from = max64(0, block->s);
    r->to = c->L;
    r->dz = own_row(c->plan, w->dz, block->s);
    input_source(&r->input, c->plan, c->L, block);
    r->output = output_source(c->plan, block, p);
    r->p_sink = output_sink(c->plan, block, p);
    r->p_sink.has_skip = c->o->skip.data;
    r->p_sink.own = !r->needs.p_passes;
    r->g_exponent = 0;
    r->dz_sink = input_sink(c->plan, c->L, block, r->dz);
    if (r->needs.dz_passes)
        r->dz_sink.from = r->from;
}

/* Z, and p or what is made of it at once: dout_gate. */
static void transform_input(struct block_rows *r, int64_t i, const char *spectrum,
                            struct scalar skip, struct prefetch *prefetch)
{
    const struct row_group *group = r->group;
    const struct worker *w = group->worker;
    source_of_row(&r->input, group, &r->block, i);
    if (r->needs.p_passes) {
        row_to(&r->p_sink.y, group, DOUT_GATE, i);
        row_to(&r->p_sink.out_gate, group, DY, i);
        row_to(&r->output.x, group, DY, i);
        row_to(&r->output.gate, group, OUT_GATE, i);
    }
    if (r->p_sink.has_skip) {
        r->p_sink.x = r->input.x;
        r->p_sink.gate = r->input.gate;
        r->p_sink.skip = skip;
    }
    if (r->needs.at_once)
        convolve_row(w, &r->input, &r->z_exponent, w->z, spectrum, &r->p_sink, prefetch);
    else if (r->needs.p || r->needs.dk)
        row_to_spectra(w, &r->input, &r->z_exponent, w->z, prefetch);
    if (r->needs.p && !r->needs.at_once) {
        multiply_row(w, spectrum, w->z, w->g, false);
        scale_sink(w->plan, &r->p_sink, &r->input, *exponent_of(w->plan, spectrum));
        spectra_to_row(w, w->g, &r->p_sink, NULL);
    }
}

/* g in the place of p, dout_gate, and dskip of the row's channel. */
static void differentiate_output(struct block_rows *r, int64_t i)
{
    const struct row_group *group = r->group;
    const struct fftconv_plan *plan = group->call->plan;
    const fftconv_operands *o = group->call->o;
    const int64_t h = group->h0 + i, from = r->block.t0, to = r->block.t1;
    const struct scalar mask = scalar_of(plan, &o->mask, group->b, h);
    const struct array dy = row_of(group, DY, i), out_gate = row_of(group, OUT_GATE, i);
    const bool careful = r->input.exponent || r->input.careful || r->p_sink.careful ||
                         r->p_sink.y_exponent || !is_moderate(plan, mask) ||
                         !plan->engine->rows.is_ordinary(&dy, &out_gate, from, to);
    r->g_exponent = 0;
    if (careful) { /* |act'| is at most about one */
        const int largest = plan->engine->rows.largest(&dy, &out_gate, from, to) +
                            (o->mask.data ? exponent_of_scalar(mask) : 0);
        r->g_exponent = largest > ALL_ZEROS / 2 && largest < NOT_FINITE / 2 ? largest : 0;
    }
    const struct gradient gradient = {.from = from,
                                      .count = to - from,
                                      .activation = o->activation,
                                      .has_mask = o->mask.data,
                                      .mask = mask,
                                      .careful = careful,
                                      .p_exponent = r->p_sink.y_exponent,
                                      .g_exponent = r->g_exponent,
                                      .p = r->needs.p ? group->worker->p : NULL,
                                      .g = group->worker->p,
                                      .dy = dy,
                                      .out_gate = out_gate,
                                      .x = r->input.x,
                                      .gate = r->input.gate,
                                      .dout_gate = row_of(group, DOUT_GATE, i),
                                      .dskip = o->dskip.data ? &r->sums->dskips[h - r->sums->h0]
                                                             : NULL};
    plan->engine->rows.differentiate(&gradient);
}

/* dz straight to du and din_gate, as the sink of its transform. */
static void write_dz(struct block_rows *r, int64_t i, int kernel, struct prefetch *prefetch)
{
    const struct row_group *group = r->group;
    const fftconv_operands *o = group->call->o;
    row_to(&r->dz_sink.y, group, o->du.data ? DU : DIN_GATE, i);
    row_to(&r->dz_sink.out_gate, group, o->du.data ? IN_GATE : U, i);
    if (o->du.data && o->din_gate.data) {
        row_to(&r->dz_sink.twin, group, DIN_GATE, i);
        row_to(&r->dz_sink.twin_gate, group, U, i);
    }
    scale_sink(group->call->plan, &r->dz_sink, &r->output, kernel);
    spectra_to_row(group->worker, group->worker->g, &r->dz_sink, prefetch);
}

/* to = 2^exponent dz conj(factor), as far as dz is finished. */
static void write_product(const struct block_rows *r, int exponent, const struct array *factor,
                          const struct array *to)
{
    const struct fftconv_plan *plan = r->group->call->plan;
    if (to->data)
        plan->engine->rows.write_product(r->from, r->to - r->from, &r->dz,
                                         exponent || is_tiny(plan, factor, r->from, r->to),
                                         exponent, factor, to);
}

/* dz by way of the worker's memory: with the skip's part, overlapped with other blocks, and
 * then to du and din_gate as far as it is finished. */
static void finish_dz(struct block_rows *r, int64_t i, bool zero, int kernel, struct scalar skip,
                      struct prefetch *prefetch)
{
    const struct row_group *group = r->group;
    const struct worker *w = group->worker;
    const struct fftconv_plan *plan = group->call->plan;
    const struct row_kernels *kernels = &plan->engine->rows;
    const struct block *block = &r->block;
    struct overlap *overlap = &r->overlap[i];
    r->dz_sink.own = true;
    scale_sink(plan, &r->dz_sink, &r->output, kernel);
    overlap->dz = r->dz_sink.y_exponent;
    const int of_skip = r->g_exponent + exponent_of_scalar(skip);
    if (group->call->o->skip.data && of_skip > overlap->dz &&
        (overlap->dz || r->g_exponent || !is_moderate(plan, skip))) {
        r->dz_sink.exponent = overlap->dz - of_skip;
        overlap->dz = of_skip;
    }
    spectra_to_row(w, w->g, &r->dz_sink, prefetch);
    if (group->call->o->skip.data)
        kernels->add_scaled(is_complex(plan->dtype), block->t1 - block->t0,
                            (struct scalar){ldexp(skip.re, r->g_exponent - overlap->dz),
                                            -ldexp(skip.im, r->g_exponent - overlap->dz)},
                            w->p, w->dz + (block->t0 - block->s) * element_bytes(plan));
    if (zero)
        overlap->dz = ALL_ZEROS;
    overlap_add(group->call, w, block, i, w->dz, overlap, &r->from, &r->to);
    const struct array du = row_of(group, DU, i), din_gate = row_of(group, DIN_GATE, i);
    write_product(r, overlap->dz, &r->input.gate, &du);
    write_product(r, overlap->dz, &r->input.x, &din_gate);
}

/* The gradients of row i of a block. */
static void backward_row(struct block_rows *r, int64_t i)
{
    const struct row_group *group = r->group;
    const struct call *c = group->call;
    const struct worker *w = group->worker;
    const bool one_each = c->plan->channels_per_kernel == 1;
    const char *spectrum = spectrum_of(group, i);
    const struct scalar skip = scalar_of(c->plan, &c->o->skip, 0, group->h0 + i);
    struct prefetch now = {.step = c->prefetch_bytes}, next = {.step = c->prefetch_bytes};
    if (c->prefetch_bytes) {
        prefetch_row(&now, group, DY, i);
        prefetch_row(&now, group, OUT_GATE, i);
        prefetch_row(&now, group, DOUT_GATE, i);
        prefetch_row(&next, group, DU, i);
        prefetch_row(&next, group, DIN_GATE, i);
        prefetch_next_row(&next, group, U, i);
        prefetch_next_row(&next, group, IN_GATE, i);
    }
    transform_input(r, i, spectrum, skip, &now);
    if (!r->needs.p_passes)
        differentiate_output(r, i);
    if (!r->needs.dz && !r->needs.dk)
        return;
    int g_exponent;
    row_to_spectra(w, &r->output, &g_exponent, w->g, NULL);
    const bool zero = g_exponent == ALL_ZEROS;
    const int kernel = *exponent_of(w->plan, spectrum);
    g_exponent += r->g_exponent;
    r->output.exponent += r->g_exponent;
    if (r->needs.dk) {
        char *sum = r->sums->spectra + (one_each ? i : 0) * r->sums->step;
        const bool begin = !r->sums->begun && r->block.j == 0 && (one_each || i == 0);
        accumulate_scaled(w, begin, sum, r->z_exponent, w->z, g_exponent, w->g,
                          r->needs.dz ? spectrum : NULL);
    } else {
        multiply_row(w, spectrum, w->g, w->g, true);
    }
    if (r->needs.dz && r->needs.dz_passes)
        write_dz(r, i, kernel, &next);
    else if (r->needs.dz)
        finish_dz(r, i, zero, kernel, skip, &next);
}

static void backward_group(struct row_group *group, struct sums *sums)
{
    const struct call *c = group->call;
    struct block_rows r = {.group = group, .sums = sums, .needs = needs_of(c->plan, c->o)};
    for (int64_t j = 0; j < c->plan->chosen.blocks; j++) {
        const struct block block = block_of(c->plan, c->L, j);
        copy_in(group, &block);
        begin_block(&r, &block);
        for (int64_t i = 0; i < group->count; i++)
            backward_row(&r, i);
        copy_out(group, DOUT_GATE, block.t0, block.t1);
        copy_out(group, DU, r.from, r.to);
        copy_out(group, DIN_GATE, r.from, r.to);
    }
    sums->begun = true;
}

/* ---- Sums over rows ------------------------------------------------------------------------- */

/* dk and dk_rev of a kernel from its sum over rows, which is overwritten. */
static int finish_kernel(const struct call *c, const struct worker *w, int64_t kb, int64_t g,
                         void *sum)
{
    const fftconv_operands *o = c->o;
    if (!o->dk.data && !o->dk_rev.data)
        return FFTCONV_STATUS_OK;
    const struct taps taps = taps_of(c->plan, &o->dk, o->dk_rev.data ? &o->dk_rev : NULL, kb, g);
    return spectra_to_taps(w, &taps, *exponent_of(c->plan, sum), sum);
}

/* The sums of all channels, where more tasks than one have a part in each. */
static struct scalar *shared_dskips(const struct call *c, int64_t task)
{
    void *memory = c->shared + c->layout.shared_dskips;
    return (struct scalar *)memory + task * c->plan->H;
}

static void set_dskip(const struct call *c, int64_t h, struct scalar total)
{
    const struct array dskip = array_of(&c->o->dskip, 0, h);
    c->plan->engine->rows.store_scalar(&dskip, total);
}

static char *shared_sums(const struct call *c, int64_t kernel)
{
    return c->shared + c->layout.shared_sums + kernel * c->plan->chunks * c->layout.spectra_bytes;
}

/* Some kernels, and one chunk of the rows of each.  The chunks follow from the shape and not
 * from the threads, so the sums come out the same to the bit. */
static int backward_task(void *context, int64_t index, int worker)
{
    const struct call *c = context;
    const struct layout *l = &c->layout;
    const struct fftconv_plan *plan = c->plan;
    const struct worker w = worker_of(c, worker);
    const int64_t chunk = index % plan->chunks, rows = rows_of_kernel(plan);
    struct kernels k;
    int status = kernels_of_task(&k, c, &w, index / plan->chunks);
    if (status)
        return status;
    const int64_t channels = (k.g1 - k.g0) * plan->channels_per_kernel;
    void *own_dskips = w.memory + l->dskips;
    struct sums sums = {.spectra = w.memory + l->sum,
                        .step = l->spectra_bytes,
                        .dskips = own_dskips,
                        .h0 = k.g0 * plan->channels_per_kernel};
    if (l->split)
        sums.dskips = shared_dskips(c, k.kb * plan->chunks + chunk) + sums.h0;
    if (plan->chunks > 1) {
        sums.spectra = shared_sums(c, k.kb * plan->G + k.g0) + chunk * l->spectra_bytes;
        sums.step = plan->chunks * l->spectra_bytes;
    }
    memset(sums.dskips, 0, (size_t)channels * sizeof *sums.dskips);
    struct row_group group = groups_of(c, &w, &k, share_begin(rows, chunk, plan->chunks),
                                       share_begin(rows, chunk + 1, plan->chunks), false);
    while (next_group(&group))
        backward_group(&group, &sums);
    if (plan->chunks == 1)
        for (int64_t g = k.g0; !status && g < k.g1; g++)
            status = finish_kernel(c, &w, k.kb, g, sums.spectra + (g - k.g0) * sums.step);
    for (int64_t i = 0; c->o->dskip.data && !l->split && i < channels; i++)
        set_dskip(c, sums.h0 + i, sums.dskips[i]);
    return status;
}

/* A kernel's chunks, in their order. */
static int chunks_task(void *context, int64_t kernel, int worker)
{
    const struct call *c = context;
    const struct fftconv_plan *plan = c->plan;
    const struct worker w = worker_of(c, worker);
    char *sum = shared_sums(c, kernel);
    const bool summed = c->o->dk.data || c->o->dk_rev.data;
    for (int64_t i = 1; summed && i < plan->chunks; i++)
        add_sums(plan, sum, sum + i * c->layout.spectra_bytes);
    return finish_kernel(c, &w, kernel / plan->G, kernel % plan->G, sum);
}

/* A channel's parts of dskip, in their order. */
static int dskip_task(void *context, int64_t h, int worker)
{
    const struct call *c = context;
    struct scalar total = {0, 0};
    (void)worker;
    for (int64_t i = 0; i < c->plan->KB * c->plan->chunks; i++) {
        total.re += shared_dskips(c, i)[h].re;
        total.im += shared_dskips(c, i)[h].im;
    }
    set_dskip(c, h, total);
    return FFTCONV_STATUS_OK;
}

int fftconv_backward(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                     const fftconv_operands *o)
{
    struct call c = {0};
    void *owned;
    int status = check_operands(plan, spectrum, o, FFTCONV_DIRECTION_BACKWARD);
    if (status)
        return status;
    if (plan->cuda)
        return cuda_execute(plan, spectrum, o, FFTCONV_DIRECTION_BACKWARD);
    if ((status = begin_call(&c, plan, o, FFTCONV_DIRECTION_BACKWARD, spectrum != NULL, 0, &owned)))
        return status;
    const struct layout *l = &c.layout;
    c.spectra = spectrum ? spectrum->data : NULL;
    if (!spectrum && !l->by_kernel) {
        status = make_all_spectra(&c, c.shared + l->shared_spectra);
        c.spectra = c.shared + l->shared_spectra;
    }
    c.prefetch_bytes = l->inside > 1 ? 0 : plan->prefetch_bytes;
    if (!status)
        status = parallel_for(l->threads, l->kernel_tasks * plan->chunks, backward_task, &c);
    if (!status && plan->chunks > 1)
        status = parallel_for(l->threads, plan->KB * plan->G, chunks_task, &c);
    if (!status && o->dskip.data && l->split)
        status = parallel_for(l->threads, plan->H, dskip_task, &c);
    aligned_free(owned);
    return status;
}
