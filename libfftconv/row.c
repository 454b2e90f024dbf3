/* One row through its transforms, on one thread or several.
 *
 * A row is one transform of M points; in the folded form it is several, the parts, which are
 * done from the last and smallest one on: what was folded last is still in cache. */
#include "call.h"

#include <string.h>

struct array array_of(const fftconv_tensor *t, int64_t b, int64_t h)
{
    struct array a = {.dtype = t->dtype, .stride = t->stride[2]};
    if (t->data)
        a.data = (const char *)t->data +
                 (b * t->stride[0] + h * t->stride[1]) * dtype_size(t->dtype);
    return a;
}

struct array own_row(const struct fftconv_plan *plan, const void *p, int64_t origin)
{
    const bool wide = plan->engine->real_bytes == 8;
    const int dtype = is_complex(plan->dtype)
                          ? (wide ? FFTCONV_DTYPE_COMPLEX128 : FFTCONV_DTYPE_COMPLEX64)
                          : (wide ? FFTCONV_DTYPE_FLOAT64 : FFTCONV_DTYPE_FLOAT32);
    return (struct array){p, dtype, 1, origin};
}

/* ---- Threads inside a row ------------------------------------------------------------------- */

/* One step of a row, whose pieces threads share. */
struct row_step {
    const struct worker *w;
    const struct transform *t;
    const struct source *source;
    const struct sink *sink;
    int directions;
    void *S, *sum;
    const void *spectrum;
    void *other;
    bool adjoint, begin;
    double scale;
    int *seen;  /* by each piece of the first pass */
    int levels; /* of a fold */
    int64_t length, pieces;
};

static int first_stage_piece(void *context, int64_t i, int thread)
{
    const struct row_step *s = context;
    const int64_t columns = s->t->stage[0].sub;
    s->seen[i] = s->w->plan->engine->transform.first_stage(
        s->t, s->source, s->w->x, columns * i / s->pieces, columns * (i + 1) / s->pieces,
        s->w->scratch + thread * s->w->scratch_bytes);
    return FFTCONV_STATUS_OK;
}

static int inner_stages_piece(void *context, int64_t i, int thread)
{
    const struct row_step *s = context;
    s->w->plan->engine->transform.inner_stages(s->t, s->directions, s->w->x, s->S, s->spectrum, i,
                                               i + 1, s->w->scratch + thread * s->w->scratch_bytes,
                                               NULL);
    return FFTCONV_STATUS_OK;
}

static int last_stage_piece(void *context, int64_t i, int thread)
{
    const struct row_step *s = context;
    const int64_t columns = s->t->stage[0].sub;
    s->w->plan->engine->transform.last_stage(s->t, s->w->x, s->sink, columns * i / s->pieces,
                                             columns * (i + 1) / s->pieces,
                                             s->w->scratch + thread * s->w->scratch_bytes);
    return FFTCONV_STATUS_OK;
}

static int fold_piece(void *context, int64_t i, int thread)
{
    const struct row_step *s = context;
    const struct fftconv_plan *plan = s->w->plan;
    const int64_t step = s->length >> s->levels;
    (void)thread;
    s->seen[i] = plan->engine->transform.fold(
        s->adjoint, s->levels, s->length, plan->chosen.part[0].prefetch_distance, s->source,
        s->sink, s->w->row, step * i / s->pieces, step * (i + 1) / s->pieces);
    return FFTCONV_STATUS_OK;
}

static int multiply_piece(void *context, int64_t i, int thread)
{
    const struct row_step *s = context;
    (void)thread;
    s->w->plan->engine->spectra.multiply(s->t, s->spectrum, s->S, s->other, s->adjoint, i,
                                         s->pieces);
    return FFTCONV_STATUS_OK;
}

static int accumulate_piece(void *context, int64_t i, int thread)
{
    const struct row_step *s = context;
    (void)thread;
    s->w->plan->engine->spectra.accumulate(s->t, s->scale, s->begin, s->sum, s->S, s->other,
                                           s->spectrum, i, s->pieces);
    return FFTCONV_STATUS_OK;
}

static void run_pieces(struct row_step *s, task_fn *piece, int64_t n)
{
    s->pieces = n;
    (void)parallel_for(s->w->inside, n, piece, s); /* the steps of a row cannot fail */
}

/* The same for stage 1 and for folds; returns what all pieces have seen. */
static int run_seeing_pieces(struct row_step *s, task_fn *piece, int64_t n)
{
    int seen[4 * MAX_THREADS], all = 0;
    s->seen = seen;
    run_pieces(s, piece, n);
    for (int64_t i = 0; i < n; i++)
        all |= seen[i];
    return all;
}

static int64_t pieces_of(const struct worker *w, const struct transform *t)
{
    return w->inside > 1 ? min64(4 * w->inside, t->stage[0].sub) : 1;
}

/* What lies below the outputs of stage 1: one piece each, or all that is one leaf. */
static int64_t subtrees_of(const struct transform *t)
{
    return t->depth > 0 ? t->stage1_outputs : 1;
}

/* The three steps of a transform.  On one thread they call the engine directly: a short row
 * is done in less time than a step for several threads takes to set up. */
static inline int run_first_stage(const struct worker *w, const struct transform *t,
                                  const struct source *source)
{
    if (w->inside <= 1)
        return w->plan->engine->transform.first_stage(t, source, w->x, 0, t->stage[0].sub,
                                                      w->scratch);
    struct row_step s = {.w = w, .t = t, .source = source};
    return run_seeing_pieces(&s, first_stage_piece, pieces_of(w, t));
}

static inline void run_inner_stages(const struct worker *w, const struct transform *t,
                                    int directions, void *S, const void *spectrum,
                                    struct prefetch *prefetch)
{
    if (w->inside <= 1) {
        w->plan->engine->transform.inner_stages(t, directions, w->x, S, spectrum, 0, subtrees_of(t),
                                                w->scratch, prefetch);
        return;
    }
    struct row_step s = {.w = w, .t = t, .directions = directions, .S = S, .spectrum = spectrum};
    run_pieces(&s, inner_stages_piece, subtrees_of(t));
}

static inline void run_last_stage(const struct worker *w, const struct transform *t,
                                  const struct sink *sink)
{
    if (w->inside <= 1) {
        w->plan->engine->transform.last_stage(t, w->x, sink, 0, t->stage[0].sub, w->scratch);
        return;
    }
    struct row_step s = {.w = w, .t = t, .sink = sink};
    run_pieces(&s, last_stage_piece, pieces_of(w, t));
}

/* ---- Folded rows ---------------------------------------------------------------------------- */

/* Two levels in a pass; what is left over goes last.  Returns what the first pass has seen. */
static int fold_row(const struct worker *w, const struct source *source)
{
    const int levels = w->plan->chosen.parts - 1;
    int first = 0;
    for (int l = 0; l < levels; l += 2) {
        struct row_step s = {.w = w,
                             .source = l == 0 ? source : NULL,
                             .levels = (int)min64(2, levels - l),
                             .length = w->plan->chosen.padded_length >> l};
        const int seen = run_seeing_pieces(&s, fold_piece, w->inside > 1 ? 4 * w->inside : 1);
        first = l == 0 ? seen : first;
    }
    return first;
}

/* The pass back that part i, done after all the smaller ones, completes: the small end of the
 * row is then whole again while it is still in cache. */
static void unfold_row(const struct worker *w, const struct sink *sink, int i)
{
    const int levels = w->plan->chosen.parts - 1;
    if (i % 2 || i >= levels)
        return;
    struct row_step s = {.w = w,
                         .sink = i == 0 ? sink : NULL,
                         .adjoint = true,
                         .levels = (int)min64(2, levels - i),
                         .length = w->plan->chosen.padded_length >> i};
    (void)run_seeing_pieces(&s, fold_piece, w->inside > 1 ? 4 * w->inside : 1);
}

/* Part i of the folded row as a source.  Only the members that switch the optional inputs off
 * are written: clearing the whole structure would take longer than a short row's stage. */
static void source_of_part(struct source *s, const struct worker *w, int i)
{
    const struct transform *t = &w->plan->chosen.part[i];
    s->packing = LINEAR;
    s->shift = s->from = s->before_to = 0;
    s->to = t->form == FFTCONV_FORM_RIGHT_ANGLE ? 2 * t->M : t->M;
    s->x = own_row(w->plan, w->row + t->row_offset * t->real_bytes, 0);
    s->gate.data = s->before.data = s->before_gate.data = NULL;
    s->exponent = 0;
    s->careful = false;
}

static void sink_of_part(struct sink *s, const struct worker *w, int i)
{
    const struct transform *t = &w->plan->chosen.part[i];
    s->packing = LINEAR;
    s->shift = s->from = 0;
    s->to = t->form == FFTCONV_FORM_RIGHT_ANGLE ? 2 * t->M : t->M;
    s->y = own_row(w->plan, w->row + t->row_offset * t->real_bytes, 0);
    s->out_gate.data = s->twin.data = NULL;
    s->has_skip = s->has_mask = s->careful = false;
    s->exponent = 0;
    s->activation = FFTCONV_ACTIVATION_IDENTITY;
}

/* May the sink's own memory hold the folded row, so that the way back ends in place?  Not
 * where it is the source's too, and a skip reads that once more. */
static bool can_hold_row(const struct fftconv_plan *plan, const struct sink *s)
{
    return s->y.dtype == own_row(plan, NULL, 0).dtype && s->y.stride == 1 &&
           s->to - s->from == plan->chosen.padded_length &&
           !(s->has_skip && s->x.data == s->y.data);
}

/* ---- Before the stages: the exponent ----------------------------------------------------------- */

/* Are the elements of a source, and those before element 0, surely ordinary? */
static bool is_ordinary(const struct fftconv_plan *plan, const struct source *s)
{
    const struct row_kernels *rows = &plan->engine->rows;
    return rows->is_ordinary(&s->x, &s->gate, max64(0, s->from), s->to) &&
           (!s->before.data ||
            rows->is_ordinary(&s->before, &s->before_gate, s->from, min64(s->before_to, s->to)));
}

/* Stage 1, or the fold; the direct form only looks.  Returns what it has seen. */
static inline int first_pass(const struct worker *w, const struct source *source)
{
    const struct choice *c = &w->plan->chosen;
    if (is_direct(w->plan))
        return is_ordinary(w->plan, source) ? LARGE_ENOUGH : 0;
    return c->parts > 1 ? fold_row(w, source) : run_first_stage(w, &c->part[0], source);
}

/* The exponent of one of a row's numbers, by its bits. */
static inline int exponent_at(const struct array *a, int64_t n)
{
    const char *p = (const char *)a->data + (n - a->origin) * a->stride * dtype_size(a->dtype);
    uint16_t half;
    uint32_t single;
    uint64_t bits;
    switch (a->dtype) {
    case FFTCONV_DTYPE_FLOAT16: return 0;
    case FFTCONV_DTYPE_BFLOAT16: memcpy(&half, p, sizeof half); return (half >> 7 & 255) - 127;
    case FFTCONV_DTYPE_FLOAT32:
    case FFTCONV_DTYPE_COMPLEX64:
        memcpy(&single, p, sizeof single);
        return (int)(single >> 23 & 255) - 127;
    default: memcpy(&bits, p, sizeof bits); return (int)(bits >> 52 & 2047) - 1023;
    }
}

/* Does the number in the middle of a row make it likely that the row needs an exponent? */
static inline bool seems_extreme(const struct fftconv_plan *plan, const struct source *s)
{
    const int64_t n = (max64(0, s->from) + s->to) / 2;
    int exponent = n < s->to ? exponent_at(&s->x, n) : 0;
    if (n < s->to && s->gate.data)
        exponent += exponent_at(&s->gate, n);
    const int ordinary = ordinary_exponent(plan);
    return exponent < -ordinary || exponent > ordinary;
}

/* The first pass over a row, and the choice of its exponent.  Most rows are ordinary, and the first
 * pass sees that.  If it is not so, and the exponent is not 0, it is done again.  Where it
 * overwrites the row, or the row seems extreme, the exponent is chosen before. */
static inline void begin_row(const struct worker *w, struct source *source, int *exponent)
{
    const bool in_place = w->plan->chosen.parts > 1 && source->x.data == w->row;
    const bool before = exponent && (in_place || seems_extreme(w->plan, source));
    source->exponent = 0;
    source->careful = false;
    if (!before && (first_pass(w, source) == LARGE_ENOUGH || !exponent)) {
        if (exponent)
            *exponent = 0;
        return;
    }
    if (exponent) {
        const int largest = largest_of_places(w->plan, source, 0, w->plan->chosen.padded_length);
        source->exponent = exponent_if_needed(w->plan, largest);
        source->careful = source->gate.data && largest > ALL_ZEROS / 2;
        *exponent = largest <= ALL_ZEROS / 2 ? ALL_ZEROS : source->exponent;
    }
    if (!is_direct(w->plan) && (before || source->exponent || source->careful))
        (void)first_pass(w, source);
}

/* ---- The direct form ------------------------------------------------------------------------- */

/* Places of a source from -future_taps on, with as many zeros behind as any sum may ask for.
 * Output t of a block is then the sum of taps[i] x[t + future_taps + i], with the last tap first;
 * and place n of the adjoint, whose x begins with zeros, that of taps[i] x[n + i], with the first
 * tap first. */
static void read_row(const struct worker *w, const struct source *source, struct direct_row *row)
{
    const struct fftconv_plan *plan = w->plan;
    const int64_t before = plan->future_taps, end = source->to - source->shift;
    *row = (struct direct_row){max64(0, source->from - source->shift) + before, end + before};
    plan->engine->rows.read_places(source, -before, before + end + direct_taps(plan) - 1,
                                   direct_numbers(row));
}

/* In the second half of a spectrum, the taps from that of the most distant future on. */
static void *forward_taps(const struct fftconv_plan *plan, const void *spectrum)
{
    const int64_t half = round_up(direct_taps(plan), plan->engine->lanes);
    return (char *)spectrum + half * plan->engine->real_bytes;
}

void kernel_to_spectra(const struct worker *w, struct source *source, int *exponent, void *S)
{
    const struct fftconv_plan *plan = w->plan;
    const int64_t past = plan->past_taps, future = plan->future_taps, taps = direct_taps(plan);
    if (!is_direct(plan)) {
        row_to_spectra(w, source, exponent, S, NULL);
        return;
    }
    begin_row(w, source, exponent);
    char *first = forward_taps(plan, S);
    plan->engine->rows.read_places(source, past + 1, future, first);
    plan->engine->rows.read_places(source, 0, past + 1, first + future * plan->engine->real_bytes);
    const struct array array = own_row(plan, first, 0);
    plan->engine->rows.reverse_taps(&array, taps, round_up(taps, plan->engine->lanes), S);
}

/* ---- Rows and spectra ----------------------------------------------------------------------- */

void row_to_spectra(const struct worker *w, struct source *source, int *exponent, void *S,
                    struct prefetch *prefetch)
{
    const struct choice *c = &w->plan->chosen;
    begin_row(w, source, exponent);
    if (is_direct(w->plan))
        read_row(w, source, S);
    for (int i = c->parts; i-- > 0;) {
        struct source part;
        if (c->parts > 1) {
            source_of_part(&part, w, i);
            (void)run_first_stage(w, &c->part[i], &part);
        }
        run_inner_stages(w, &c->part[i], FORWARD, spectra_of_part(w->plan, i, S), NULL, prefetch);
    }
}

void spectra_to_row(const struct worker *w, void *S, const struct sink *sink,
                    struct prefetch *prefetch)
{
    const struct choice *c = &w->plan->chosen;
    if (is_direct(w->plan))
        w->plan->engine->rows.write_places(sink, 0, c->padded_length, direct_numbers(S));
    for (int i = c->parts; i-- > 0;) {
        struct sink part;
        if (c->parts > 1)
            sink_of_part(&part, w, i);
        run_inner_stages(w, &c->part[i], INVERSE, spectra_of_part(w->plan, i, S), NULL, prefetch);
        run_last_stage(w, &c->part[i], c->parts > 1 ? &part : sink);
        if (c->parts > 1)
            unfold_row(w, sink, i);
    }
}

bool keeps_spectra(const struct fftconv_plan *plan)
{
    bool all = true;
    for (int i = 0; i < plan->chosen.parts; i++)
        all &= plan->chosen.part[i].square;
    return all;
}

void convolve_row(const struct worker *w, struct source *source, int *exponent, void *S,
                  const void *spectrum, struct sink *sink, struct prefetch *prefetch)
{
    const struct fftconv_plan *plan = w->plan;
    const int parts = plan->chosen.parts, directions = FORWARD | INVERSE | (S ? KEEP_SPECTRA : 0);
    struct worker in_sink;
    if (parts > 1 && can_hold_row(plan, sink)) {
        in_sink = *w;
        in_sink.row = (char *)sink->y.data;
        w = &in_sink;
    }
    begin_row(w, source, exponent);
    scale_sink(plan, sink, source, *exponent_of(plan, spectrum));
    if (is_direct(plan)) {
        struct direct_row *row = S ? S : w->x;
        const int64_t first = max64(0, sink->from - sink->shift);
        read_row(w, source, row);
        plan->engine->direct.convolve(direct_taps(plan), spectrum, row,
                                      first - plan->past_taps + plan->future_taps, first,
                                      sink->to - sink->shift - first, sink);
    }
    for (int i = parts; i-- > 0;) {
        const struct transform *t = &plan->chosen.part[i];
        const struct sink *to = sink;
        struct source part_source;
        struct sink part_sink;
        if (parts > 1) {
            source_of_part(&part_source, w, i);
            sink_of_part(&part_sink, w, i);
            to = &part_sink;
            (void)run_first_stage(w, t, &part_source);
        }
        void *kept = S ? spectra_of_part(plan, i, S) : NULL;
        const void *factor = spectra_of_part(plan, i, spectrum);
        run_inner_stages(w, t, directions, kept, factor, prefetch);
        run_last_stage(w, t, to);
        if (parts > 1)
            unfold_row(w, sink, i);
    }
}

/* ---- Spectra, frequency by frequency ---------------------------------------------------------- */

/* The direct form's product with a conjugate spectrum, in place: place n comes to number n.  Its
 * other product is made by convolve_row alone. */
static void multiply_directly(const struct fftconv_plan *plan, const void *spectrum,
                              struct direct_row *row)
{
    const struct sink sink = {.to = row->to, .y = own_row(plan, direct_numbers(row), 0)};
    plan->engine->direct.convolve(direct_taps(plan), forward_taps(plan, spectrum), row, 0, 0,
                                  row->to, &sink);
}

void multiply_row(const struct worker *w, const void *spectrum, void *S, void *out, bool adjoint)
{
    const struct fftconv_plan *plan = w->plan;
    if (is_direct(plan))
        multiply_directly(plan, spectrum, S);
    for (int i = 0; i < plan->chosen.parts; i++) {
        struct row_step s = {.w = w,
                             .t = &plan->chosen.part[i],
                             .S = spectra_of_part(plan, i, S),
                             .other = spectra_of_part(plan, i, out),
                             .spectrum = spectra_of_part(plan, i, spectrum),
                             .adjoint = adjoint,
                             .pieces = 1};
        if (w->inside <= 1)
            multiply_piece(&s, 0, 0);
        else
            run_pieces(&s, multiply_piece, pieces_of(w, s.t));
    }
}

/* The factor that the way back leaves out: 1/M, and a half for each level that is unfolded. */
static double scale_of_part(const struct fftconv_plan *plan, int i)
{
    const int parts = plan->chosen.parts;
    const int levels = parts > 1 ? (int)min64(i + 1, parts - 1) : 0;
    return 1 / ((double)plan->chosen.part[i].M * (double)((int64_t)1 << levels));
}

void accumulate_row(const struct worker *w, bool begin, double power, void *sum, void *Z, void *G,
                    const void *spectrum)
{
    const struct fftconv_plan *plan = w->plan;
    if (is_direct(plan)) {
        if (begin)
            memset(sum, 0, (size_t)direct_taps(plan) * sizeof(double));
        plan->engine->direct.correlate(direct_taps(plan), G, Z, plan->past_taps, power, sum);
        if (spectrum)
            multiply_directly(plan, spectrum, G);
    }
    for (int i = 0; i < plan->chosen.parts; i++) {
        struct row_step s = {.w = w,
                             .t = &plan->chosen.part[i],
                             .begin = begin,
                             .scale = power * scale_of_part(plan, i),
                             .sum = spectra_of_part(plan, i, sum),
                             .S = spectra_of_part(plan, i, Z),
                             .other = spectra_of_part(plan, i, G),
                             .spectrum = spectrum ? spectra_of_part(plan, i, spectrum) : NULL,
                             .pieces = 1};
        if (w->inside <= 1)
            accumulate_piece(&s, 0, 0);
        else
            run_pieces(&s, accumulate_piece, pieces_of(w, s.t));
    }
}

void weigh_row(const struct fftconv_plan *plan, void *S)
{
    for (int i = 0; i < plan->chosen.parts; i++)
        plan->engine->spectra.weigh(&plan->chosen.part[i], scale_of_part(plan, i),
                                    spectra_of_part(plan, i, S));
}
