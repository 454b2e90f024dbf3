/* Kernels of state-space models and their gradients: checks and the public calls. */
#include "ssm.h"
#include "../check.h"

#include <math.h>

/* ---- Checks --------------------------------------------------------------------------------- */

static int check_sizes(const fftconv_ssm_desc *d)
{
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {{"inputs", d->inputs},
                 {"channels", d->channels},
                 {"heads", d->heads},
                 {"states", d->states},
                 {"length", d->length}};
    int status = check_number("rank", d->rank, 0, MAX_RANK, "0 (diagonal) ... 8");
    for (int i = 0; i < 5 && !status; i++)
        status = check_number(sizes[i].name, sizes[i].value, 1, (int64_t)1 << 40, "1 ... 2^40");
    if (status)
        return status;
    const int64_t most = (int64_t)1 << 56;
    const int64_t rows = size_mul(size_mul(d->inputs, d->channels), d->heads);
    const int64_t parameters = max64(d->inputs, max64(d->channels, d->rank));
    if (size_mul(rows, d->length) > most ||
        size_mul(size_mul(parameters, d->heads), d->states) > most || d->states > (int64_t)1 << 24)
        return fail(FFTCONV_STATUS_INVALID,
                    "sizes are inputs %lld, channels %lld, heads %lld, states %lld, length %lld; "
                    "states must be at most 2^24, and every array at most 2^56 elements",
                    (long long)d->inputs, (long long)d->channels, (long long)d->heads,
                    (long long)d->states, (long long)d->length);
    return FFTCONV_STATUS_OK;
}

static int check_options(const fftconv_ssm_desc *d)
{
    int status = check_number("dtype", d->dtype, FFTCONV_DTYPE_FLOAT64, FFTCONV_DTYPE_FLOAT32,
                              "float64 (1) or float32 (2)");
    if (status ||
        (status = check_number("discretization", d->discretization, FFTCONV_DISCRETIZATION_ZOH,
                               FFTCONV_DISCRETIZATION_DSS, "zoh (0), bilinear (1) or dss (2)")))
        return status;
    if (d->rank && d->discretization != FFTCONV_DISCRETIZATION_BILINEAR)
        return fail(FFTCONV_STATUS_INVALID,
                    "discretization is %d, must be bilinear (1) with rank %lld", d->discretization,
                    (long long)d->rank);
    if (d->state < 0 || d->state > 1 ||
        (d->state && d->discretization == FFTCONV_DISCRETIZATION_DSS))
        return fail(FFTCONV_STATUS_INVALID, "state is %d, must be 0 or 1, and 0 with dss",
                    d->state);
    return check_number("threads", d->threads, 0, MAX_THREADS, "0 (all) ... 255");
}

/* The squares and fourth powers of larger numbers would overflow inside, unseen in k. */
static int check_magnitude(const fftconv_ssm_desc *d, const char *name, const double *x,
                           int64_t count)
{
    for (int64_t i = 0; i < 2 * count; i++)
        if (!(fabs(x[i]) <= 1e60))
            return fail(FFTCONV_STATUS_INVALID,
                        "%s has %g at [%lld, %lld], must have parts of at most 1e60", name, x[i],
                        (long long)(i / 2 / d->states), (long long)(i / 2 % d->states));
    return FFTCONV_STATUS_OK;
}

static int check_arrays(const fftconv_ssm_desc *d, bool backward)
{
    const struct {
        const char *name;
        const void *data;
        bool needed;
    } arrays[] = {{"k", d->k, !backward},   {"dk", d->dk, backward}, {"A", d->A, true},
                  {"B", d->B, true},        {"C", d->C, true},       {"P", d->P, d->rank > 0},
                  {"Q", d->Q, d->rank > 0}, {"dA", d->dA, false},    {"dB", d->dB, false},
                  {"dC", d->dC, false},     {"dP", d->dP, false},    {"dQ", d->dQ, false}};
    for (int i = 0; i < 12; i++) {
        const int alignment = i < 2 ? dtype_size(d->dtype) : (int)sizeof(double);
        if (arrays[i].needed && !arrays[i].data)
            return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", arrays[i].name);
        if ((uintptr_t)arrays[i].data % (unsigned)alignment)
            return fail(FFTCONV_STATUS_INVALID,
                        "%s is at %p, must be aligned to its %d-byte numbers", arrays[i].name,
                        arrays[i].data, alignment);
    }
    for (int64_t i = 0; i < d->heads * d->states; i++) {
        if (!(d->A[2 * i] < 0) || !isfinite(d->A[2 * i]) || !isfinite(d->A[2 * i + 1]))
            return fail(FFTCONV_STATUS_INVALID,
                        "A[%lld, %lld] is %g%+gi, must be finite with a negative real part",
                        (long long)(i / d->states), (long long)(i % d->states), d->A[2 * i],
                        d->A[2 * i + 1]);
        /* The derivatives of the weights have 1 / A^2. */
        if (d->discretization == FFTCONV_DISCRETIZATION_DSS &&
            hypot(d->A[2 * i], d->A[2 * i + 1]) < 1e-100)
            return fail(FFTCONV_STATUS_INVALID,
                        "A[%lld, %lld] is %g%+gi, must be of size 1e-100 or more with dss",
                        (long long)(i / d->states), (long long)(i % d->states), d->A[2 * i],
                        d->A[2 * i + 1]);
    }
    const int64_t count = d->heads * d->states;
    int status = check_magnitude(d, "A", d->A, count);
    if (!status && d->rank && !(status = check_magnitude(d, "P", d->P, d->rank * count)))
        status = check_magnitude(d, "Q", d->Q, d->rank * count);
    return status;
}

/* ---- Calls ---------------------------------------------------------------------------------- */

static int prepare_call(struct ssm_call *call, const fftconv_ssm_desc *d, bool backward)
{
    int status;
    if (!d)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (d->size != sizeof *d)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", d->size, sizeof *d);
    if ((status = check_sizes(d)) || (status = check_options(d)) ||
        (status = check_arrays(d, backward)))
        return status;
    *call = (struct ssm_call){.d = d,
                              .threads = d->threads ? d->threads : fftconv_default_threads()};
    if ((status = find_engine(d->isa, 8, &call->engine)))
        return status;
    call->lanes = call->engine->lanes;
    call->head_groups = ceil_div(d->heads, call->lanes);
    return FFTCONV_STATUS_OK;
}

int run_tasks(struct ssm_call *call, int64_t tasks, int64_t arena_bytes, task_fn *fn, void *context)
{
    const int threads = (int)min64(call->threads, tasks);
    const fftconv_ssm_desc *d = call->d;
    const int64_t bytes = size_mul(arena_bytes, threads);
    int status = check_bytes(bytes, "channels is %lld, states %lld and length %lld",
                             (long long)d->channels, (long long)d->states, (long long)d->length);
    if (status)
        return status;
    call->memory_bytes = arena_bytes;
    call->memory = aligned_new(bytes);
    if (!call->memory)
        return fail_memory(bytes);
    status = parallel_for(threads, tasks, fn, context);
    aligned_free(call->memory);
    return status;
}

int fftconv_ssm_kernel(const fftconv_ssm_desc *d)
{
    struct ssm_call call;
    const int status = prepare_call(&call, d, false);
    if (status)
        return status;
    return d->rank ? low_rank_kernel(&call) : diagonal_kernel(&call);
}

int fftconv_ssm_kernel_backward(const fftconv_ssm_desc *d)
{
    struct ssm_call call;
    const int status = prepare_call(&call, d, true);
    if (status)
        return status;
    return d->rank ? low_rank_gradients(&call) : diagonal_gradients(&call);
}
