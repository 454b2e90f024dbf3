/* Matrix products at every frequency: an entry of a matrix is a row of spectra. */
#include "check.h"

#include <stdlib.h>

/* The most that is packed at a time (struct contraction): PANEL_EDGE rows and columns,
 * PANEL_DEPTH terms of their sums and, so that memory is read in long runs, as many vectors
 * of each entry as PANEL_BYTES hold, half of a second cache of 1 MiB. */
enum { PANEL_EDGE = 32, PANEL_DEPTH = 16, PANEL_BYTES = 512 << 10, PANEL_VECTORS = 16 };

struct job {
    const struct engine *engine;
    struct contraction c;
    int64_t vectors; /* of a row of spectra */
    char *work;
    int64_t work_bytes; /* of each worker */
};

static int contract_task(void *context, int64_t i, int worker)
{
    const struct job *j = context;
    const int64_t v = i * j->c.panel_vectors;
    j->engine->matrix.contract(&j->c, v, min64(v + j->c.panel_vectors, j->vectors),
                               j->work + worker * j->work_bytes);
    return FFTCONV_STATUS_OK;
}

/* ---- Checks ----------------------------------------------------------------------------------- */

struct matrix {
    const char *name;
    const char *data;
    int64_t shape[2], stride[2]; /* in entries */
};

/* `alignment` is that of a vector, which every row of spectra must have. */
static int check_matrix(const struct matrix *m, int64_t entry_reals, int alignment)
{
    if (!m->data)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", m->name);
    if ((uintptr_t)m->data % (unsigned)alignment)
        return fail(FFTCONV_STATUS_INVALID, "%s is at %p, must be aligned to %d bytes", m->name,
                    (const void *)m->data, alignment);
    int64_t total = entry_reals;
    for (int i = 0; i < 2; i++) {
        total = size_add(total, stride_reach(m->shape[i], m->stride[i], entry_reals));
        if (total > (int64_t)1 << SIZE_BITS)
            return fail(FFTCONV_STATUS_INVALID,
                        "%s_stride[%d] is %lld, must keep the matrix within 2^58 real numbers",
                        m->name, i, (long long)m->stride[i]);
    }
    return FFTCONV_STATUS_OK;
}

/* Has each entry a place of its own?  So it is where one step along the axis of the larger
 * stride passes over all that the other axis reaches. */
static bool entries_apart(const struct matrix *m)
{
    const int wide = llabs(m->stride[0]) < llabs(m->stride[1]), narrow = !wide;
    const int64_t reach = (m->shape[narrow] - 1) * llabs(m->stride[narrow]);
    return (m->shape[narrow] == 1 || m->stride[narrow] != 0) &&
           (m->shape[wide] == 1 || llabs(m->stride[wide]) > reach);
}

static int check(const struct fftconv_plan *plan, const fftconv_contraction_desc *c)
{
    int status;
    if (!plan || !c)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "desc" : "plan");
    if (c->size != sizeof *c)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", c->size, sizeof *c);
    if ((status = check_has_transforms(plan)) || (status = check_whole_spectra(plan)))
        return status;
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {{"rows", c->rows}, {"columns", c->columns}, {"depth", c->depth}};
    for (int i = 0; i < 3; i++)
        if ((status = check_number(sizes[i].name, sizes[i].value, 1, (int64_t)1 << SIZE_BITS,
                                   "1 ... 2^58")))
            return status;
    const struct matrix matrices[] = {
        {"a", c->a, {c->rows, c->depth}, {c->a_stride[0], c->a_stride[1]}},
        {"b", c->b, {c->depth, c->columns}, {c->b_stride[0], c->b_stride[1]}},
        {"out", c->out, {c->rows, c->columns}, {c->out_stride[0], c->out_stride[1]}},
    };
    const void *first[3];
    int64_t bytes[3];
    for (int i = 0; i < 3; i++) {
        if ((status = check_matrix(&matrices[i], spectra_reals(plan),
                                   plan->engine->lanes * plan->engine->real_bytes)))
            return status;
        first[i] = bytes_spanned(matrices[i].data, 2, matrices[i].shape, matrices[i].stride,
                                 spectra_reals(plan) * plan->engine->real_bytes, &bytes[i]);
    }
    if (!entries_apart(&matrices[2]))
        return fail(FFTCONV_STATUS_INVALID,
                    "out_stride is (%lld, %lld), must give each of (%lld, %lld) entries a place of "
                    "its own",
                    (long long)c->out_stride[0], (long long)c->out_stride[1], (long long)c->rows,
                    (long long)c->columns);
    for (int i = 0; i < 2; i++)
        if (bytes_overlap(first[i], bytes[i], first[2], bytes[2]))
            return fail(FFTCONV_STATUS_INVALID, "out overlaps %s, must not", matrices[i].name);
    return FFTCONV_STATUS_OK;
}

int fftconv_contract(const fftconv_plan *plan, const fftconv_contraction_desc *c)
{
    int threads, status;
    if ((status = check(plan, c)) || (status = resolve_threads(plan, c->threads, &threads)))
        return status;
    const struct transform *t = &plan->chosen.part[0];
    const int64_t vector_bytes = 2 * t->lanes * t->real_bytes;
    struct job job = {.engine = plan->engine,
                      .vectors = spectra_reals(plan) / (2 * t->lanes),
                      .c = {.rows = c->rows,
                            .columns = c->columns,
                            .depth = c->depth,
                            .a = c->a,
                            .b = c->b,
                            .out = c->out,
                            .scale = c->scale,
                            .conjugate_a = c->conjugate_a,
                            .conjugate_b = c->conjugate_b,
                            .accumulate = c->accumulate,
                            .panel_rows = min64(c->rows, PANEL_EDGE),
                            .panel_columns = min64(c->columns, PANEL_EDGE),
                            .panel_depth = min64(c->depth, PANEL_DEPTH)}};
    /* The stride of an axis with one entry may be any number, and plays no part. */
    const int64_t a_shape[2] = {c->rows, c->depth}, b_shape[2] = {c->depth, c->columns},
                  out_shape[2] = {c->rows, c->columns};
    for (int i = 0; i < 2; i++) {
        job.c.a_stride[i] = a_shape[i] > 1 ? c->a_stride[i] * spectra_reals(plan) : 0;
        job.c.b_stride[i] = b_shape[i] > 1 ? c->b_stride[i] * spectra_reals(plan) : 0;
        job.c.out_stride[i] = out_shape[i] > 1 ? c->out_stride[i] * spectra_reals(plan) : 0;
    }
    struct contraction *k = &job.c;
    const int64_t bytes = (k->panel_depth * (k->panel_rows + k->panel_columns) +
                           k->panel_rows * k->panel_columns) *
                          vector_bytes; /* of a panel one vector wide */
    k->panel_vectors = min64(job.vectors, max64(1, min64(PANEL_VECTORS, PANEL_BYTES / bytes)));
    const int64_t tasks = ceil_div(job.vectors, k->panel_vectors);
    threads = (int)min64(threads, tasks);
    job.work_bytes = round_up(bytes * k->panel_vectors, ALIGNMENT);
    const int64_t work_bytes = size_mul(job.work_bytes, threads);
    if (!(job.work = aligned_new(work_bytes)))
        return fail_memory(work_bytes);
    status = parallel_for(threads, tasks, contract_task, &job);
    aligned_free(job.work);
    return status;
}
