/* What a plan and a call are given: checked before anything is written. */
#include "check.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Numbers --------------------------------------------------------------------------------- */

int check_number(const char *name, int64_t value, int64_t low, int64_t high, const char *allowed)
{
    if (value < low || value > high)
        return fail(FFTCONV_STATUS_INVALID, "%s is %lld, must be %s", name, (long long)value,
                    allowed);
    return FFTCONV_STATUS_OK;
}

int check_activation(int activation)
{
    return check_number("activation", activation, FFTCONV_ACTIVATION_IDENTITY,
                        FFTCONV_ACTIVATION_SILU, "identity (0), gelu (1) or silu (2)");
}

int check_radices(const int64_t *radices, int order, int bits, int64_t *product)
{
    *product = 1;
    for (int i = 0; i < order; i++) {
        if (radices[i] < 1 || radices[i] > FFTCONV_MAX_RADIX)
            return fail(FFTCONV_STATUS_INVALID, "radices[%d] is %lld, must be 1 ... %d", i,
                        (long long)radices[i], FFTCONV_MAX_RADIX);
        if (*product > ((int64_t)1 << bits) / radices[i])
            return fail(FFTCONV_STATUS_INVALID,
                        "radices have a product above 2^%d, must be at most that", bits);
        *product *= radices[i];
    }
    return FFTCONV_STATUS_OK;
}

/* ---- Tensors --------------------------------------------------------------------------------- */

bool bytes_overlap(const void *a, int64_t a_bytes, const void *b, int64_t b_bytes)
{
    const uintptr_t from = (uintptr_t)a, other = (uintptr_t)b;
    return from <= other ? other - from < (uint64_t)a_bytes : from - other < (uint64_t)b_bytes;
}

const void *bytes_spanned(const void *data, int axes, const int64_t *shape, const int64_t *stride,
                          int64_t entry_bytes, int64_t *bytes)
{
    int64_t low = 0, high = entry_bytes;
    for (int i = 0; i < axes; i++) {
        const int64_t reach = (shape[i] - 1) * stride[i] * entry_bytes;
        *(reach < 0 ? &low : &high) += reach;
    }
    *bytes = high - low;
    return (const void *)((uintptr_t)data + (uintptr_t)low);
}

static const void *span(const fftconv_tensor *t, int64_t *bytes)
{
    return bytes_spanned(t->data, 3, t->shape, t->stride, dtype_size(t->dtype), bytes);
}

fftconv_tensor contiguous_row(const void *data, int dtype, int64_t n)
{
    return (fftconv_tensor){
        .data = (void *)data, .dtype = dtype, .shape = {1, 1, n}, .stride = {0, 0, 1}};
}

bool touches(const fftconv_tensor *t, const void *memory, int64_t bytes)
{
    int64_t own;
    const void *first = span(t, &own);
    return bytes_overlap(first, own, memory, bytes);
}

/* Each axis must step over all that the axes with smaller steps reach. */
static bool elements_apart(const fftconv_tensor *t)
{
    int axis[3] = {0, 1, 2};
    for (int i = 0; i < 3; i++)
        for (int j = i + 1; j < 3; j++)
            if (llabs(t->stride[axis[j]]) < llabs(t->stride[axis[i]])) {
                const int swap = axis[i];
                axis[i] = axis[j];
                axis[j] = swap;
            }
    int64_t reach = 0;
    for (int i = 0; i < 3; i++) {
        const int a = axis[i];
        if (t->shape[a] == 1)
            continue;
        if (llabs(t->stride[a]) <= reach)
            return false;
        reach += (t->shape[a] - 1) * llabs(t->stride[a]);
    }
    return true;
}

int64_t stride_reach(int64_t shape, int64_t stride, int64_t unit)
{
    return stride == INT64_MIN ? INT64_MAX : size_mul(size_mul(shape - 1, llabs(stride)), unit);
}

int check_layout(const char *name, const fftconv_tensor *t, const int64_t shape[3], bool output)
{
    for (int i = 0; i < 3; i++)
        if (t->shape[i] != shape[i])
            return fail(FFTCONV_STATUS_INVALID,
                        "%s has shape (%lld, %lld, %lld), must be (%lld, %lld, %lld)", name,
                        (long long)t->shape[0], (long long)t->shape[1], (long long)t->shape[2],
                        (long long)shape[0], (long long)shape[1], (long long)shape[2]);
    const int alignment = dtype_size(t->dtype) / (is_complex(t->dtype) ? 2 : 1);
    if ((uintptr_t)t->data % (unsigned)alignment)
        return fail(FFTCONV_STATUS_INVALID, "%s is at %p, must be aligned to its %d-byte numbers",
                    name, t->data, alignment);
    if (size_mul(size_mul(shape[0], shape[1]), shape[2]) > (int64_t)1 << SIZE_BITS)
        return fail(FFTCONV_STATUS_INVALID,
                    "%s has shape (%lld, %lld, %lld), must have at most 2^%d elements, repeated "
                    "ones included",
                    name, (long long)shape[0], (long long)shape[1], (long long)shape[2], SIZE_BITS);
    int64_t total = 0;
    for (int i = 0; i < 3; i++) {
        total = size_add(total, stride_reach(t->shape[i], t->stride[i], 1));
        if (total > (int64_t)1 << SIZE_BITS)
            return fail(FFTCONV_STATUS_INVALID,
                        "%s has stride[%d] %lld, must stay within 2^%d elements", name, i,
                        (long long)t->stride[i], SIZE_BITS);
    }
    if (output && !elements_apart(t))
        return fail(FFTCONV_STATUS_INVALID,
                    "%s has strides (%lld, %lld, %lld), must give each of its elements a place of "
                    "its own",
                    name, (long long)t->stride[0], (long long)t->stride[1],
                    (long long)t->stride[2]);
    return FFTCONV_STATUS_OK;
}

/* Is some b s0 + h s1 + l s2 = delta, with |b| < shape[0], ...?  The strides of an output
 * nest, so only the quotients near delta / s can work for the widest stride s. */
static bool reaches(const int64_t *shape, const int64_t *stride, int64_t delta)
{
    int widest = -1;
    for (int i = 0; i < 3; i++)
        if (shape[i] > 1 && (widest < 0 || llabs(stride[i]) > llabs(stride[widest])))
            widest = i;
    if (widest < 0)
        return delta == 0;
    int64_t rest[3];
    memcpy(rest, shape, sizeof rest);
    rest[widest] = 1;
    const int64_t s = llabs(stride[widest]);
    if (s == 0)
        return reaches(rest, stride, delta);
    for (int64_t n = delta / s - 1; n <= delta / s + 1; n++)
        if (llabs(n) < shape[widest] && reaches(rest, stride, delta - n * s))
            return true;
    return false;
}

/* The same steps, where there is a step to make. */
static bool same_strides(const fftconv_tensor *a, const fftconv_tensor *b)
{
    for (int i = 0; i < 3; i++)
        if (a->shape[i] != b->shape[i] || (a->shape[i] > 1 && a->stride[i] != b->stride[i]))
            return false;
    return a->dtype == b->dtype;
}

bool tensors_overlap(const fftconv_tensor *a, const fftconv_tensor *b)
{
    int64_t bytes;
    const void *first = span(a, &bytes);
    if (!touches(b, first, bytes))
        return false;
    const int size = dtype_size(a->dtype);
    const int64_t delta = (intptr_t)b->data - (intptr_t)a->data;
    if (same_strides(a, b) && delta % size == 0)
        return reaches(a->shape, a->stride, delta / size);
    return true;
}

/* ---- Tables of operands ---------------------------------------------------------------------- */

unsigned kernel_dtypes(int dtype)
{
    const bool sixteen = dtype == FFTCONV_DTYPE_FLOAT16 || dtype == FFTCONV_DTYPE_BFLOAT16;
    return DTYPE_BIT(dtype) | (sixteen ? DTYPE_BIT(FFTCONV_DTYPE_FLOAT32) : 0);
}

static int check_dtype(const char *name, int dtype, unsigned allowed)
{
    char list[96] = "";
    size_t length = 0;
    if (dtype_name(dtype) && allowed & DTYPE_BIT(dtype))
        return FFTCONV_STATUS_OK;
    for (int d = FFTCONV_DTYPE_FLOAT64; d <= FFTCONV_DTYPE_COMPLEX64; d++)
        if (allowed & DTYPE_BIT(d)) {
            const bool last = allowed >> (d + 1) == 0;
            const char *before = length == 0 ? "" : last ? " or " : ", ";
            length += (size_t)snprintf(list + length, sizeof list - length, "%s%s", before,
                                       dtype_name(d));
        }
    return fail(FFTCONV_STATUS_INVALID, "%s has dtype %s, must be %s", name,
                dtype_name(dtype) ? dtype_name(dtype) : "unknown", list);
}

int check_tensor(const struct fftconv_plan *plan, const char *name, const fftconv_tensor *t,
                 const int64_t shape[3], bool output, bool kernel)
{
    const int status = check_dtype(name, t->dtype,
                                   kernel ? kernel_dtypes(plan->dtype) : DTYPE_BIT(plan->dtype));
    return status ? status : check_layout(name, t, shape, output);
}

/* One row of a table: is it there, and is it right by itself? */
static int check_operand(const struct operand *o, bool backward, bool *used)
{
    int status;
    *used = o->t->data && !(o->is & (backward ? FORWARD_ONLY : BACKWARD_ONLY)) &&
            !(o->is & IGNORED);
    if (o->is & (backward ? FORWARD_ONLY : BACKWARD_ONLY))
        return FFTCONV_STATUS_OK;
    if (!o->t->data && o->is & NEEDED)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", o->name);
    if (!*used)
        return FFTCONV_STATUS_OK;
    if (o->unless)
        return fail(FFTCONV_STATUS_INVALID, "%s is given, must be NULL unless %s", o->name,
                    o->unless);
    if (o->of && !o->of->data)
        return fail(FFTCONV_STATUS_INVALID, "%s is given, must be NULL where %s is NULL", o->name,
                    o->name + 1);
    if ((status = check_dtype(o->name, o->t->dtype, o->dtypes)))
        return status;
    return check_layout(o->name, o->t, o->shape, o->is & OUTPUT);
}

int check_table(const struct operand *all, int count, bool backward, bool *used)
{
    for (int i = 0; i < count; i++) {
        const int status = check_operand(&all[i], backward, &used[i]);
        if (status)
            return status;
    }
    for (int a = 0; a < count; a++)
        for (int b = 0; b < count; b++) {
            const struct operand *out = &all[a], *other = &all[b];
            const bool once = !(other->is & OUTPUT) || b < a; /* of two outputs, one order */
            if (!used[a] || !used[b] || !(out->is & OUTPUT) || a == b || !once ||
                !tensors_overlap(out->t, other->t))
                continue;
            const bool may = out->may_be == other->t;
            if (!(may && out->t->data == other->t->data && same_strides(out->t, other->t)))
                return fail(FFTCONV_STATUS_INVALID, "%s overlaps %s, must not%s", out->name,
                            other->name, may ? " unless it is the same array" : "");
        }
    return FFTCONV_STATUS_OK;
}

/* ---- Plans and spectra ----------------------------------------------------------------------- */

int check_has_transforms(const struct fftconv_plan *plan)
{
    if (plan->cuda)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "plan is of a CUDA device, where this call does not run: it must be of the "
                    "CPU");
    if (is_direct(plan))
        return fail(FFTCONV_STATUS_INVALID,
                    "plan has form direct, must have a form with transforms");
    return FFTCONV_STATUS_OK;
}

int check_whole_spectra(const struct fftconv_plan *plan)
{
    if (plan->chosen.form == FFTCONV_FORM_FOLDED || plan->pattern)
        return fail(FFTCONV_STATUS_INVALID,
                    "plan has %s, must be of form right_angle or complex, without weights",
                    plan->pattern ? "weights" : "form folded");
    return FFTCONV_STATUS_OK;
}

int check_launch(const struct fftconv_plan *plan, const fftconv_operands *o)
{
    int threads;
    if (o->stream && !plan->cuda)
        return fail(FFTCONV_STATUS_INVALID,
                    "stream is given, must be NULL where the plan is of the CPU");
    return resolve_threads(plan, o->threads, &threads);
}

int check_spectrum(const struct fftconv_plan *plan, const struct fftconv_spectrum *s)
{
    if (!plan->cuda != !s->cuda)
        return fail(FFTCONV_STATUS_INVALID, "spectrum is of %s, must be of %s, as the plan",
                    s->cuda ? "a CUDA device" : "the CPU", s->cuda ? "the CPU" : "a CUDA device");
    if (plan->cuda)
        return cuda_check_spectrum(plan, s);
    const struct spectrum_key *a = &s->key, b = spectrum_key_of(plan);
    if (memcmp(a, &b, sizeof b) != 0)
        return fail(FFTCONV_STATUS_INVALID,
                    "spectrum was made for another plan ((%lld, %lld) kernels of %lld and %lld "
                    "taps, M %lld, form %d, %d lanes%s), must be of this one ((%lld, %lld), "
                    "%lld, %lld, %lld, %d, %d%s) or one that chose the same stages",
                    (long long)a->KB, (long long)a->G, (long long)a->taps, (long long)a->rev_taps,
                    (long long)a->part[0].M, a->form, a->lanes, a->pattern ? ", a pattern" : "",
                    (long long)b.KB, (long long)b.G, (long long)b.taps, (long long)b.rev_taps,
                    (long long)b.part[0].M, b.form, b.lanes, b.pattern ? ", its pattern" : "");
    return FFTCONV_STATUS_OK;
}

/* ---- Operands of the convolution --------------------------------------------------------------- */

const fftconv_tensor *row_tensor(const fftconv_operands *o, int row_operand)
{
#define AT(name) offsetof(fftconv_operands, name)
    static const size_t at[ROW_OPERANDS] = {[U] = AT(u),
                                            [IN_GATE] = AT(in_gate),
                                            [OUT_GATE] = AT(out_gate),
                                            [Y] = AT(y),
                                            [DY] = AT(dy),
                                            [DU] = AT(du),
                                            [DIN_GATE] = AT(din_gate),
                                            [DOUT_GATE] = AT(dout_gate)};
#undef AT
    return (const fftconv_tensor *)((const char *)o + at[row_operand]);
}

int check_kernels(const struct fftconv_plan *plan, const fftconv_tensor *k,
                  const fftconv_tensor *k_rev)
{
    int status;
    const bool two_sided = plan->mode == FFTCONV_MODE_TWO_SIDED, given = k_rev->data;
    const int64_t shape[3] = {plan->KB, plan->G, plan->Lk};
    const int64_t rev_shape[3] = {plan->KB, plan->G, plan->Lk_rev};
    if (!k->data)
        return fail(FFTCONV_STATUS_INVALID, "k is NULL, must be given where spectrum is NULL");
    if (given != two_sided)
        return fail(FFTCONV_STATUS_INVALID, "k_rev is %s, must be %s", given ? "given" : "NULL",
                    given ? "NULL unless mode is two_sided (2)"
                          : "given where spectrum is NULL and mode is two_sided (2)");
    if ((status = check_tensor(plan, "k", k, shape, false, true)) ||
        (given && (status = check_tensor(plan, "k_rev", k_rev, rev_shape, false, true))))
        return status;
    return FFTCONV_STATUS_OK;
}

/* The workspace, which no operand in use may touch. */
static int check_workspace(const fftconv_operands *o, const struct operand *all, int count,
                           const bool *used)
{
    if (o->workspace && (uintptr_t)o->workspace % ALIGNMENT)
        return fail(FFTCONV_STATUS_INVALID, "workspace is at %p, must be aligned to %d bytes",
                    o->workspace, ALIGNMENT);
    for (int i = 0; o->workspace && i < count; i++)
        if (used[i] && touches(all[i].t, o->workspace, max64(0, o->workspace_bytes)))
            return fail(FFTCONV_STATUS_INVALID, "workspace overlaps %s, must not", all[i].name);
    return FFTCONV_STATUS_OK;
}

/* Every operand by itself, and beside the others.  L: the length of this call's rows. */
static int check_all_operands(const struct fftconv_plan *plan, const fftconv_operands *o,
                              bool has_spectrum, bool backward, int64_t L)
{
    const unsigned rows = DTYPE_BIT(plan->dtype), kernels = kernel_dtypes(plan->dtype);
    const int taps = has_spectrum ? IGNORED : 0; /* check_kernels has seen them otherwise */
    const int no_history = plan->history && plan->past_taps == 0 ? IGNORED : 0;
    const char *two_sided = plan->mode == FFTCONV_MODE_TWO_SIDED ? NULL : "mode is two_sided (2)";
    const char *history = plan->history ? NULL : "the plan was made with history";
#define ROWS {plan->B, plan->H, L}, rows
#define TAPS(n) {plan->KB, plan->G, (n)}, kernels
    const struct operand all[] = {
        {"u", &o->u, ROWS, .is = NEEDED},
        {"k", &o->k, TAPS(plan->Lk), .is = taps},
        {"k_rev", &o->k_rev, TAPS(plan->Lk_rev), .is = taps},
        {"in_gate", &o->in_gate, ROWS, .is = 0},
        {"out_gate", &o->out_gate, ROWS, .is = 0},
        {"skip", &o->skip, {1, plan->H, 1}, kernels, .is = 0},
        {"mask", &o->mask, {plan->B, plan->H, 1}, kernels, .is = 0},
        {"history",
         &o->history,
         {plan->B, plan->H, plan->past_taps},
         kernels,
         .is = FORWARD_ONLY | no_history,
         .unless = history},
        {"dy", &o->dy, ROWS, .is = NEEDED | BACKWARD_ONLY},
        {"y", &o->y, ROWS, .is = NEEDED | FORWARD_ONLY | OUTPUT, .may_be = &o->u},
        {"du", &o->du, ROWS, .is = BACKWARD_ONLY | OUTPUT},
        {"dk", &o->dk, TAPS(plan->Lk), .is = BACKWARD_ONLY | OUTPUT},
        {"dk_rev", &o->dk_rev, TAPS(plan->Lk_rev), .is = BACKWARD_ONLY | OUTPUT,
         .unless = two_sided},
        {"din_gate", &o->din_gate, ROWS, .is = BACKWARD_ONLY | OUTPUT, .of = &o->in_gate},
        {"dout_gate", &o->dout_gate, ROWS, .is = BACKWARD_ONLY | OUTPUT, .of = &o->out_gate},
        {"dskip",
         &o->dskip,
         {1, plan->H, 1},
         kernels,
         .is = BACKWARD_ONLY | OUTPUT,
         .of = &o->skip},
    };
#undef ROWS
#undef TAPS
    enum { COUNT = sizeof all / sizeof *all };
    bool used[COUNT];
    const int status = check_table(all, COUNT, backward, used);
    if (status)
        return status;
    if (plan->history && plan->past_taps > 0 && !o->history.data)
        return fail(FFTCONV_STATUS_INVALID,
                    "history is NULL, must be given: the plan was made for it");
    return check_workspace(o, all, COUNT, used);
}

int check_operands(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum,
                   const fftconv_operands *o, int direction)
{
    int status;
    if (!plan)
        return fail(FFTCONV_STATUS_INVALID, "plan is NULL");
    if (!o)
        return fail(FFTCONV_STATUS_INVALID, "operands is NULL");
    if (o->size != sizeof *o)
        return fail(FFTCONV_STATUS_INVALID, "operands->size is %zu, must be %zu", o->size,
                    sizeof *o);
    if ((status = check_activation(o->activation)))
        return status;
    if (o->activation != FFTCONV_ACTIVATION_IDENTITY && is_complex(plan->dtype))
        return fail(FFTCONV_STATUS_INVALID, "activation is %d, must be identity (0) for %s",
                    o->activation, dtype_name(plan->dtype));
    const bool backward = direction == FFTCONV_DIRECTION_BACKWARD;
    if (backward && plan->history)
        return fail(FFTCONV_STATUS_UNSUPPORTED,
                    "plan was made with history, which has no backward");
    if (!o->u.data)
        return fail(FFTCONV_STATUS_INVALID, "u is NULL, must be given");
    const int64_t L = plan->history ? o->u.shape[2] : plan->L;
    if (L < 1 || L > plan->L)
        return fail(FFTCONV_STATUS_INVALID, "u has length %lld, must be 1 ... %lld", (long long)L,
                    (long long)plan->L);
    status = spectrum ? check_spectrum(plan, spectrum) : check_kernels(plan, &o->k, &o->k_rev);
    if (status || (status = check_launch(plan, o)))
        return status;
    return check_all_operands(plan, o, spectrum != NULL, backward, L);
}

/* ---- Descriptors of plans ---------------------------------------------------------------------- */

static const char *const form_name[] = {"auto", "right_angle", "folded", "complex"};

/* The direct form has no stages that could be named, or that weights could be for. */
static int check_direct(const fftconv_plan_desc *d)
{
    const char *given = d->device == FFTCONV_DEVICE_CUDA ? "device is cuda (1)"
                        : is_complex(d->dtype)           ? "dtype is complex"
                        : d->weights                     ? "weights are given"
                        : d->radices || d->order         ? "radices or order are given"
                        : d->dense                       ? "dense is 1"
                        : d->single_block                ? "single_block is 1"
                                                         : NULL;
    return given ? fail(FFTCONV_STATUS_INVALID, "form is direct, must be another where %s", given)
                 : FFTCONV_STATUS_OK;
}

static int check_fields(const fftconv_plan_desc *d)
{
    const int64_t size = (int64_t)1 << SIZE_BITS, row = (int64_t)1 << ROW_BITS;
    const struct {
        const char *name;
        int64_t value, low, high;
        const char *allowed;
    } fields[] = {
        {"batch", d->batch, 1, size, "1 ... 2^58"},
        {"channels", d->channels, 1, size, "1 ... 2^58"},
        {"length", d->length, 1, row, "1 ... 2^40"},
        {"k_length", d->k_length, 1, row, "1 ... 2^40"},
        {"mode", d->mode, FFTCONV_MODE_CAUSAL, FFTCONV_MODE_TWO_SIDED,
         "causal (0), circular (1) or two_sided (2)"},
        {"dtype", d->dtype, FFTCONV_DTYPE_FLOAT64, FFTCONV_DTYPE_COMPLEX64,
         "float64 (1), float32 (2), float16 (3), bfloat16 (4), complex128 (5) or complex64 (6)"},
        {"form", d->form == FFTCONV_FORM_DIRECT ? FFTCONV_FORM_AUTO : d->form, FFTCONV_FORM_AUTO,
         FFTCONV_FORM_COMPLEX, "auto (0), right_angle (1), folded (2), complex (3) or direct (5)"},
        {"dense", d->dense, 0, 1, "0 or 1"},
        {"single_block", d->single_block, 0, 1, "0 or 1"},
        {"history", d->history, 0, 1, "0 or 1"},
        {"threads", d->threads, 0, MAX_THREADS, "0 (all) ... 255"},
        {"order", d->order, 0, FFTCONV_MAX_ORDER, "0 (any) ... 16"},
        {"device", d->device, FFTCONV_DEVICE_CPU, FFTCONV_DEVICE_CUDA, "cpu (0) or cuda (1)"},
    };
    int status = FFTCONV_STATUS_OK;
    for (size_t i = 0; !status && i < sizeof fields / sizeof *fields; i++)
        status = check_number(fields[i].name, fields[i].value, fields[i].low, fields[i].high,
                              fields[i].allowed);
    return status;
}

/* Kernels, and the sizes that several fields make together. */
static int check_shapes(const fftconv_plan_desc *d)
{
    int64_t elements;
    if (__builtin_mul_overflow(d->batch, d->channels, &elements) ||
        __builtin_mul_overflow(elements, d->length, &elements) ||
        elements > (int64_t)1 << SIZE_BITS)
        return fail(FFTCONV_STATUS_INVALID,
                    "batch * channels * length is %lld * %lld * %lld, must be at most 2^58",
                    (long long)d->batch, (long long)d->channels, (long long)d->length);
    if (d->kernels < 0 || (d->kernels && d->channels % d->kernels))
        return fail(FFTCONV_STATUS_INVALID,
                    "kernels is %lld, must divide channels, %lld (or be 0: one each)",
                    (long long)d->kernels, (long long)d->channels);
    if (d->kernel_batch != 0 && d->kernel_batch != 1 && d->kernel_batch != d->batch)
        return fail(FFTCONV_STATUS_INVALID, "kernel_batch is %lld, must be 1 or batch, %lld",
                    (long long)d->kernel_batch, (long long)d->batch);
    if (d->mode == FFTCONV_MODE_TWO_SIDED)
        return check_number("k_rev_length", d->k_rev_length, 1, (int64_t)1 << ROW_BITS,
                            "1 ... 2^40");
    if (d->k_rev_length != 0)
        return fail(FFTCONV_STATUS_INVALID,
                    "k_rev_length is %lld, must be 0 unless mode is two_sided (2)",
                    (long long)d->k_rev_length);
    return FFTCONV_STATUS_OK;
}

static int check_form(const fftconv_plan_desc *d)
{
    const bool complex = is_complex(d->dtype);
    const int only = complex                            ? FFTCONV_FORM_COMPLEX
                     : d->mode != FFTCONV_MODE_CIRCULAR ? FFTCONV_FORM_RIGHT_ANGLE
                                                        : FFTCONV_FORM_AUTO;
    if (d->form == FFTCONV_FORM_DIRECT)
        return check_direct(d);
    if (d->form != FFTCONV_FORM_AUTO && only != FFTCONV_FORM_AUTO && d->form != only)
        return fail(FFTCONV_STATUS_INVALID, "form is %s, must be %s (or auto) %s",
                    form_name[d->form], form_name[only],
                    complex ? "for complex types" : "unless mode is circular (1)");
    return FFTCONV_STATUS_OK;
}

static int check_history(const fftconv_plan_desc *d)
{
    if (d->history && d->mode != FFTCONV_MODE_CAUSAL)
        return fail(FFTCONV_STATUS_INVALID, "history is 1, must be 0 unless mode is causal (0)");
    if (d->history && d->single_block)
        return fail(FFTCONV_STATUS_INVALID, "single_block is 1, must be 0 with history");
    return FFTCONV_STATUS_OK;
}

static int check_circle(const fftconv_plan_desc *d)
{
    const int64_t N = d->fft_size ? d->fft_size : d->length;
    int status;
    if (d->mode != FFTCONV_MODE_CIRCULAR) {
        if (d->fft_size != 0)
            return fail(FFTCONV_STATUS_INVALID,
                        "fft_size is %lld, must be 0 unless mode is circular (1): the library "
                        "chooses",
                        (long long)d->fft_size);
        return FFTCONV_STATUS_OK;
    }
    if ((status = check_number("fft_size", N, 1, (int64_t)1 << ROW_BITS, "1 ... 2^40")))
        return status;
    if (d->length > N)
        return fail(FFTCONV_STATUS_INVALID,
                    "length is %lld, must be at most fft_size, %lld, in circular mode",
                    (long long)d->length, (long long)N);
    if (d->k_length > N)
        return fail(FFTCONV_STATUS_INVALID,
                    "k_length is %lld, must be at most fft_size, %lld, in circular mode",
                    (long long)d->k_length, (long long)N);
    return FFTCONV_STATUS_OK;
}

static int check_weights(const fftconv_plan_desc *d)
{
    const int64_t N = d->fft_size ? d->fft_size : d->length;
    if (!d->weights)
        return FFTCONV_STATUS_OK;
    if (d->mode != FFTCONV_MODE_CIRCULAR || is_complex(d->dtype))
        return fail(FFTCONV_STATUS_INVALID,
                    "weights are given, must be NULL unless mode is circular (1) and dtype real");
    if (d->form == FFTCONV_FORM_RIGHT_ANGLE && is_smooth(N))
        return fail(FFTCONV_STATUS_INVALID,
                    "form is right_angle, must be folded, complex or auto with weights");
    for (int64_t m = 0; m <= N / 2; m++)
        if (!isfinite(d->dtype == FFTCONV_DTYPE_FLOAT64 ? d->weights[m] : (float)d->weights[m]))
            return fail(FFTCONV_STATUS_INVALID,
                        "weights[%lld] is %g, must be finite in the plan's arithmetic",
                        (long long)m, d->weights[m]);
    return FFTCONV_STATUS_OK;
}

static int check_device(const fftconv_plan_desc *d)
{
    if (d->device == FFTCONV_DEVICE_CUDA && d->isa)
        return fail(
            FFTCONV_STATUS_INVALID,
            "isa is \"%.32s\", must be NULL where device is cuda (1): engine names how a GPU "
            "computes",
            d->isa);
    if (d->device == FFTCONV_DEVICE_CPU && d->engine)
        return fail(
            FFTCONV_STATUS_INVALID,
            "engine is \"%.32s\", must be NULL where device is cpu (0): isa names how a CPU "
            "computes",
            d->engine);
    if (d->device == FFTCONV_DEVICE_CPU && d->device_index != 0)
        return fail(FFTCONV_STATUS_INVALID, "device_index is %d, must be 0 where device is cpu (0)",
                    d->device_index);
    return FFTCONV_STATUS_OK;
}

int check_desc(const fftconv_plan_desc *d)
{
    int status;
    int64_t product;
    if (!d)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (d->size != sizeof *d)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", d->size, sizeof *d);
    if ((status = check_fields(d)) || (status = check_device(d)) || (status = check_shapes(d)) ||
        (status = check_history(d)) || (status = check_circle(d)) || (status = check_form(d)) ||
        (status = check_weights(d)))
        return status;
    if (d->radices && d->order < 1)
        return fail(FFTCONV_STATUS_INVALID, "order is %d, must be the number of radices", d->order);
    return d->radices ? check_radices(d->radices, d->order, ROW_BITS, &product) : FFTCONV_STATUS_OK;
}
