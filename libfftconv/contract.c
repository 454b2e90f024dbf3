/* The matrix product per frequency, whose entries are rows of spectra. */
#include "internal.h"

#include <stdlib.h>

/* What is packed at a time: some entries, and as many vectors of each as half an L2
 * of 1 MiB holds, so that memory is read in long runs. */
enum { BLOCK_EDGE = 32, BLOCK_DEPTH = 16, BLOCK_BYTES = 512 << 10, MOST_VECTORS = 16 };

struct job {
    const struct engine *engine;
    struct contraction c;
    int64_t vectors; /* of a row */
    char *work;
    int64_t work_bytes; /* of each worker */
};

static int contract_task(void *context, int64_t i, int worker)
{
    const struct job *j = context;
    const int64_t v = i * j->c.block_vectors;
    j->engine->contract(&j->c, v, min64(v + j->c.block_vectors, j->vectors),
                        j->work + worker * j->work_bytes);
    return FFTCONV_STATUS_OK;
}

/* ---- Checks ------------------------------------------------------------------ */

struct matrix {
    const char *name;
    const char *data;
    int64_t shape[2], stride[2]; /* in entries */
};

/* First and one-past-last byte, for any strides. */
static void span(const struct matrix *m, int64_t entry_bytes, intptr_t *low, intptr_t *high)
{
    *low = (intptr_t)m->data, *high = *low + entry_bytes;
    for (int i = 0; i < 2; i++) {
        const intptr_t reach = (m->shape[i] - 1) * m->stride[i] * entry_bytes;
        *(reach < 0 ? low : high) += reach;
    }
}

/* alignment: of a vector, which every row of spectra has. */
static int check_matrix(const struct matrix *m, int64_t entry_reals, int alignment)
{
    if (!m->data)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", m->name);
    if ((uintptr_t)m->data % (unsigned)alignment)
        return fail(FFTCONV_STATUS_INVALID, "%s is at %p, must be aligned to %d bytes", m->name,
                    (const void *)m->data, alignment);
    int64_t total = entry_reals;
    for (int i = 0; i < 2; i++) {
        int64_t reach;
        if (m->stride[i] == INT64_MIN ||
            __builtin_mul_overflow(m->shape[i] - 1, llabs(m->stride[i]), &reach) ||
            __builtin_mul_overflow(reach, entry_reals, &reach) ||
            __builtin_add_overflow(total, reach, &total) || total > (int64_t)1 << 58)
            return fail(FFTCONV_STATUS_INVALID,
                        "%s_stride[%d] is %lld, must stay within 2^58 real "
                        "numbers",
                        m->name, i, (long long)m->stride[i]);
    }
    return FFTCONV_STATUS_OK;
}

/* The wider step must pass over all that the narrower one reaches. */
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
    if ((status = check_on_cpu(plan)) || (status = check_whole_spectra(plan)))
        return status;
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {{"rows", c->rows}, {"columns", c->columns}, {"depth", c->depth}};
    for (int i = 0; i < 3; i++)
        if (sizes[i].value < 1)
            return fail(FFTCONV_STATUS_INVALID, "%s is %lld, must be at least 1", sizes[i].name,
                        (long long)sizes[i].value);
    const struct matrix matrices[] = {
        {"a", c->a, {c->rows, c->depth}, {c->a_stride[0], c->a_stride[1]}},
        {"b", c->b, {c->depth, c->columns}, {c->b_stride[0], c->b_stride[1]}},
        {"out", c->out, {c->rows, c->columns}, {c->out_stride[0], c->out_stride[1]}},
    };
    intptr_t low[3], high[3];
    for (int i = 0; i < 3; i++) {
        if ((status = check_matrix(&matrices[i], spectra_reals(plan),
                                   plan->engine->lanes * plan->engine->real_bytes)))
            return status;
        span(&matrices[i], spectra_reals(plan) * plan->part[0].real_bytes, &low[i], &high[i]);
    }
    if (!entries_apart(&matrices[2]))
        return fail(FFTCONV_STATUS_INVALID,
                    "out_stride is (%lld, %lld), must give each of (%lld, "
                    "%lld) entries a place of its own",
                    (long long)c->out_stride[0], (long long)c->out_stride[1], (long long)c->rows,
                    (long long)c->columns);
    for (int i = 0; i < 2; i++)
        if (low[i] < high[2] && low[2] < high[i])
            return fail(FFTCONV_STATUS_INVALID, "out overlaps %s, must not", matrices[i].name);
    return FFTCONV_STATUS_OK;
}

int fftconv_contract(const fftconv_plan *plan, const fftconv_contraction_desc *c)
{
    int threads, status;
    if ((status = check(plan, c)) || (status = resolve_threads(plan, c->threads, &threads)))
        return status;
    const struct xform *xf = &plan->part[0];
    const int64_t vector_bytes = 2 * xf->lanes * xf->real_bytes;
    struct job job = {.engine = plan->engine,
                      .vectors = spectra_reals(plan) / (2 * xf->lanes),
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
                            .block_rows = min64(c->rows, BLOCK_EDGE),
                            .block_columns = min64(c->columns, BLOCK_EDGE),
                            .block_depth = min64(c->depth, BLOCK_DEPTH)}};
    /* an axis of one entry may have any stride, and needs none */
    const int64_t a_shape[2] = {c->rows, c->depth}, b_shape[2] = {c->depth, c->columns},
                  out_shape[2] = {c->rows, c->columns};
    for (int i = 0; i < 2; i++) {
        job.c.a_stride[i] = a_shape[i] > 1 ? c->a_stride[i] * spectra_reals(plan) : 0;
        job.c.b_stride[i] = b_shape[i] > 1 ? c->b_stride[i] * spectra_reals(plan) : 0;
        job.c.out_stride[i] = out_shape[i] > 1 ? c->out_stride[i] * spectra_reals(plan) : 0;
    }
    struct contraction *k = &job.c;
    const int64_t block = (k->block_depth * (k->block_rows + k->block_columns) +
                           k->block_rows * k->block_columns) *
                          vector_bytes;
    k->block_vectors = min64(job.vectors, max64(1, min64(MOST_VECTORS, BLOCK_BYTES / block)));
    const int64_t tasks = ceil_div(job.vectors, k->block_vectors);
    threads = (int)min64(threads, tasks);
    job.work_bytes = round_up(block * k->block_vectors, ALIGNMENT);
    if (!(job.work = aligned_new(job.work_bytes * threads)))
        return fail_memory(job.work_bytes * threads);
    status = parallel_for(threads, tasks, contract_task, &job);
    aligned_free(job.work);
    return status;
}
