/* Projections at every frequency, around a product with the spectra of kernels:
 *
 *     out[b, o] = sum_n C[o, n] K[n] sum_i B[n, i] in[b, i].
 *
 * Rows are cut into panels, runs of frequencies so short that the rows of all states n, which
 * lie between the two projections, never leave the cache. */
#include "check.h"

#include <string.h>

/* Of all that a panel holds: a quarter of a second cache of 1 MiB. */
enum { PANEL_BYTES = 256 << 10 };

struct job {
    const struct engine *engine;
    const fftconv_projection_desc *p;
    int64_t row, panel; /* numbers of a row of spectra, and of a panel's part of it */
    int64_t panels;     /* of a row */
    char *work;
    int64_t work_bytes; /* of each worker */
};

/* Rows of a panel that a product with an imaginary part goes through. */
static int64_t turned_rows(const fftconv_projection_desc *p)
{
    return p->imaginary ? max64(p->states, p->outputs) : 0;
}

/* out = (re + i im) x, where im may be NULL: the real product and, turned by i, that with the
 * imaginary part. */
static void multiply(const struct job *j, const void *re, const void *im, int64_t rows,
                     int64_t depth, const void *x, int64_t reals, void *out, int64_t out_step,
                     void *turned)
{
    struct matmul m = {.rows = rows,
                       .columns = reals,
                       .depth = depth,
                       .a = re,
                       .b = x,
                       .out = out,
                       .a_step = depth,
                       .b_step = reals,
                       .out_step = out_step};
    j->engine->matrix.multiply(&m);
    if (!im)
        return;
    m.a = im, m.out = turned, m.out_step = reals;
    j->engine->matrix.multiply(&m);
    const int64_t size = j->engine->real_bytes;
    for (int64_t r = 0; r < rows; r++)
        j->engine->matrix.add_turned(reals, (char *)turned + r * reals * size,
                                     (char *)out + r * out_step * size);
}

static int project_task(void *context, int64_t task, int worker)
{
    const struct job *j = context;
    const fftconv_projection_desc *p = j->p;
    const int64_t b = task / j->panels, at = task % j->panels * j->panel;
    const int64_t reals = min64(j->panel, j->row - at), size = j->engine->real_bytes;
    char *x = j->work + worker * j->work_bytes, *states = x + p->inputs * j->panel * size;
    char *turned = states + p->states * j->panel * size;
    const char *in = (const char *)p->in + (b * p->inputs * j->row + at) * size;
    const char *K = (const char *)p->kernels + at * size;
    char *out = (char *)p->out + (b * p->outputs * j->row + at) * size;
    const char *B = p->B, *C = p->C;
    const char *Bi = p->imaginary ? B + p->states * p->inputs * size : NULL;
    const char *Ci = p->imaginary ? C + p->outputs * p->states * size : NULL;
    /* The inputs are copied together: rows that lie a power of two bytes apart would push one
     * another out of the cache. */
    for (int64_t i = 0; i < p->inputs; i++)
        memcpy(x + i * reals * size, in + i * j->row * size, (size_t)(reals * size));
    multiply(j, B, Bi, p->states, p->inputs, x, reals, states, reals, turned);
    for (int64_t n = 0; n < p->states; n++)
        j->engine->matrix.scale_spectra(reals, K + n * j->row * size, states + n * reals * size);
    multiply(j, C, Ci, p->outputs, p->states, states, reals, out, j->row, turned);
    return FFTCONV_STATUS_OK;
}

static int check(const fftconv_plan *plan, const fftconv_projection_desc *p)
{
    if (!plan || !p)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "desc" : "plan");
    if (p->size != sizeof *p)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", p->size, sizeof *p);
    int status;
    if ((status = check_has_transforms(plan)) || (status = check_whole_spectra(plan)))
        return status;
    if (p->imaginary < 0 || p->imaginary > 1 || (p->imaginary && !is_complex(plan->dtype)))
        return fail(FFTCONV_STATUS_INVALID,
                    "imaginary is %d, must be 0, or 1 with a plan of a complex type", p->imaginary);
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {
        {"batch", p->batch}, {"inputs", p->inputs}, {"states", p->states}, {"outputs", p->outputs}};
    for (int i = 0; i < 4; i++)
        if ((status = check_number(sizes[i].name, sizes[i].value, 1, 1 << 24, "1 ... 2^24")))
            return status;
    const int64_t row_bytes = spectra_reals(plan) * plan->engine->real_bytes;
    const unsigned vector = (unsigned)(plan->engine->lanes * plan->engine->real_bytes);
    const int64_t in_bytes = size_mul(size_mul(p->batch, p->inputs), row_bytes);
    const int64_t out_bytes = size_mul(size_mul(p->batch, p->outputs), row_bytes);
    const int64_t kernel_bytes = size_mul(p->states, row_bytes);
    if ((status = check_bytes(max64(max64(in_bytes, out_bytes), kernel_bytes),
                              "batch is %lld, inputs %lld, states %lld and outputs %lld",
                              (long long)p->batch, (long long)p->inputs, (long long)p->states,
                              (long long)p->outputs)))
        return status;
    const struct {
        const char *name;
        const void *data;
        unsigned alignment;
        int64_t bytes;
    } arrays[] = {
        {"in", p->in, vector, in_bytes},
        {"kernels", p->kernels, vector, kernel_bytes},
        {"B", p->B, (unsigned)plan->engine->real_bytes, 0},
        {"C", p->C, (unsigned)plan->engine->real_bytes, 0},
        {"out", p->out, vector, out_bytes},
    };
    for (int i = 0; i < 5; i++) {
        if (!arrays[i].data)
            return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", arrays[i].name);
        if ((uintptr_t)arrays[i].data % arrays[i].alignment)
            return fail(FFTCONV_STATUS_INVALID, "%s is at %p, must be aligned to %u bytes",
                        arrays[i].name, arrays[i].data, arrays[i].alignment);
    }
    for (int i = 0; i < 2; i++)
        if (bytes_overlap(arrays[i].data, arrays[i].bytes, p->out, out_bytes))
            return fail(FFTCONV_STATUS_INVALID, "out overlaps %s, must not", arrays[i].name);
    return FFTCONV_STATUS_OK;
}

int fftconv_project(const fftconv_plan *plan, const fftconv_projection_desc *p)
{
    int threads, status;
    if ((status = check(plan, p)) || (status = resolve_threads(plan, p->threads, &threads)))
        return status;
    struct job j = {.engine = plan->engine, .p = p, .row = spectra_reals(plan)};
    const int64_t size = plan->engine->real_bytes, vector = 2 * plan->engine->lanes;
    const int64_t rows = p->inputs + p->states + turned_rows(p);
    j.panel = max64(vector, PANEL_BYTES / size / rows / vector * vector);
    j.panel = min64(j.panel, j.row);
    j.panels = ceil_div(j.row, j.panel);
    threads = (int)min64(threads, p->batch * j.panels);
    j.work_bytes = round_up(size_mul(size_mul(rows, j.panel), size), ALIGNMENT);
    const int64_t bytes = size_mul(j.work_bytes, threads);
    if (!(j.work = aligned_new(bytes)))
        return fail_memory(bytes);
    status = parallel_for(threads, p->batch * j.panels, project_task, &j);
    aligned_free(j.work);
    return status;
}
