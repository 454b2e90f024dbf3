/* Products of matrices, on the library's own threads. */
#include "check.h"

/* The parts of a product that one task makes: BLOCK_ROWS rows, half as many of a complex one, and
 * BLOCK_VECTORS vectors of columns.  BLOCK_DEPTH terms are summed at a time.  So what a task packs
 * stays in a second cache. */
enum { BLOCK_ROWS = 128, BLOCK_VECTORS = 8, BLOCK_DEPTH = 128 };

struct job {
    const struct engine *engine;
    const fftconv_matmul_desc *o;
    struct product p;
    int64_t down, across; /* blocks of rows and of columns */
    char *work;
    int64_t work_bytes; /* of each worker */
};

static const char *element(const fftconv_tensor *t, int64_t i, int64_t r, int64_t c)
{
    return (const char *)t->data +
           (i * t->stride[0] + r * t->stride[1] + c * t->stride[2]) * dtype_size(t->dtype);
}

static int matmul_task(void *context, int64_t task, int worker)
{
    const struct job *j = context;
    const fftconv_matmul_desc *o = j->o;
    const int64_t i = task / (j->down * j->across);
    const int64_t r = task / j->across % j->down * j->p.block_rows;
    const int64_t c = task % j->across * j->p.block_columns;
    j->engine->matrix.multiply_block(&j->p, min64(j->p.block_rows, o->out.shape[1] - r),
                                     min64(j->p.block_columns, o->out.shape[2] - c),
                                     element(&o->a, i, r, 0), element(&o->b, i, 0, c),
                                     (void *)element(&o->out, i, r, c),
                                     j->work + worker * j->work_bytes);
    return FFTCONV_STATUS_OK;
}

static int check(const fftconv_matmul_desc *o)
{
    int status;
    if (!o)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (o->size != sizeof *o)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", o->size, sizeof *o);
    if ((status = check_number("threads", o->threads, 0, MAX_THREADS, "0 ... 255")))
        return status;
    const bool wide = o->a.dtype == FFTCONV_DTYPE_FLOAT64 || o->a.dtype == FFTCONV_DTYPE_COMPLEX128;
    const int real = wide ? FFTCONV_DTYPE_FLOAT64 : FFTCONV_DTYPE_FLOAT32;
    const unsigned dtypes = DTYPE_BIT(FFTCONV_DTYPE_FLOAT64) | DTYPE_BIT(FFTCONV_DTYPE_FLOAT32) |
                            DTYPE_BIT(FFTCONV_DTYPE_COMPLEX128) |
                            DTYPE_BIT(FFTCONV_DTYPE_COMPLEX64);
    const int64_t batch = o->out.shape[0], rows = o->out.shape[1], columns = o->out.shape[2];
    const int64_t depth = o->a.shape[2];
    const struct operand all[] = {
        {"a", &o->a, {batch, rows, depth}, dtypes, .is = NEEDED},
        {"b", &o->b, {batch, depth, columns}, DTYPE_BIT(o->a.dtype & 7), .is = NEEDED},
        {"out",
         &o->out,
         {batch, rows, columns},
         DTYPE_BIT(o->a.dtype & 7) | DTYPE_BIT(real),
         .is = NEEDED | OUTPUT},
    };
    bool used[3];
    for (int i = 0; i < 3; i++)
        for (int n = 0; n < 3; n++)
            if ((status = check_number(all[i].name, all[i].t->shape[n], 1, (int64_t)1 << 40,
                                       "1 ... 2^40 along each axis")))
                return status;
    return check_table(all, 3, false, used);
}

int fftconv_matmul(const fftconv_matmul_desc *o)
{
    int status = check(o);
    if (status)
        return status;
    const bool is_wide = dtype_size(o->a.dtype) / (is_complex(o->a.dtype) ? 2 : 1) == 8;
    struct job j = {.o = o};
    if ((status = find_engine(o->isa, is_wide ? 8 : 4, &j.engine)))
        return status;
    const int64_t rows = o->out.shape[1], columns = o->out.shape[2];
    const int parts = is_complex(o->a.dtype) ? 2 : 1, results = is_complex(o->out.dtype) ? 2 : 1;
    const int lanes = j.engine->lanes;
    j.p.depth = o->a.shape[2];
    j.p.is_complex = parts == 2;
    j.p.real_part = results < parts;
    for (int i = 0; i < 2; i++) {
        j.p.a_step[i] = parts * o->a.stride[i + 1];
        j.p.b_step[i] = parts * o->b.stride[i + 1];
        j.p.out_step[i] = results * o->out.stride[i + 1];
    }
    j.p.block_rows = min64(rows, BLOCK_ROWS / parts);
    j.p.block_columns = min64(round_up(columns, lanes), BLOCK_VECTORS * lanes);
    j.p.block_depth = min64(j.p.depth, BLOCK_DEPTH);
    j.down = ceil_div(rows, j.p.block_rows);
    j.across = ceil_div(columns, j.p.block_columns);
    const int64_t tasks = o->out.shape[0] * j.down * j.across;
    const int threads = (int)min64(o->threads ? o->threads : fftconv_default_threads(), tasks);
    j.work_bytes = round_up(product_work(&j.p, lanes) * j.engine->real_bytes, ALIGNMENT);
    if (!(j.work = aligned_new(j.work_bytes * threads)))
        return fail_memory(j.work_bytes * threads);
    status = parallel_for(threads, tasks, matmul_task, &j);
    aligned_free(j.work);
    return status;
}
