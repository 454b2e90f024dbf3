/* What a call is given: checked before anything is written. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* First and one-past-last byte an operand touches, for any strides. */
static void span(const fftconv_tensor *t, intptr_t *low, intptr_t *high)
{
    intptr_t a = (intptr_t)t->data, b = a + dtype_size(t->dtype);
    for (int i = 0; i < 3; i++) {
        intptr_t reach = (intptr_t)((t->shape[i] - 1) * t->stride[i] * dtype_size(t->dtype));
        if (reach < 0)
            a += reach;
        else
            b += reach;
    }
    *low = a, *high = b;
}

/* Does the operand touch any of these bytes? */
bool touches(const fftconv_tensor *t, const void *memory, int64_t bytes)
{
    intptr_t low, high, from = (intptr_t)memory;
    span(t, &low, &high);
    return low < from + bytes && from < high;
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
    int64_t total = 0;
    for (int i = 0; i < 3; i++) {
        int64_t reach;
        if (t->stride[i] == INT64_MIN ||
            __builtin_mul_overflow(t->shape[i] - 1, t->stride[i] < 0 ? -t->stride[i] : t->stride[i],
                                   &reach) ||
            __builtin_add_overflow(total, reach, &total) || total > (int64_t)1 << 58)
            return fail(FFTCONV_STATUS_INVALID,
                        "%s has stride[%d] %lld, must stay within 2^58 "
                        "elements",
                        name, i, (long long)t->stride[i]);
    }
    if (!output)
        return FFTCONV_STATUS_OK;
    /* each axis must step over all that smaller steps reach */
    int axis[3] = {0, 1, 2};
    for (int i = 0; i < 3; i++)
        for (int j = i + 1; j < 3; j++)
            if (llabs(t->stride[axis[j]]) < llabs(t->stride[axis[i]])) {
                int s = axis[i];
                axis[i] = axis[j];
                axis[j] = s;
            }
    int64_t reach = 0;
    for (int i = 0; i < 3; i++) {
        const int a = axis[i];
        if (t->shape[a] == 1)
            continue;
        if (llabs(t->stride[a]) <= reach)
            return fail(FFTCONV_STATUS_INVALID,
                        "%s has strides (%lld, %lld, %lld), must give each of its elements "
                        "a place of its own",
                        name, (long long)t->stride[0], (long long)t->stride[1],
                        (long long)t->stride[2]);
        reach += (t->shape[a] - 1) * llabs(t->stride[a]);
    }
    return FFTCONV_STATUS_OK;
}

int check_tensor(const struct fftconv_plan *plan, const char *name, const fftconv_tensor *t,
                 const int64_t shape[3], bool output, bool kernel)
{
    const bool wide = kernel && (plan->dtype == FFTCONV_DTYPE_FLOAT16 ||
                                 plan->dtype == FFTCONV_DTYPE_BFLOAT16);
    if (t->dtype != plan->dtype && !(wide && t->dtype == FFTCONV_DTYPE_FLOAT32))
        return fail(FFTCONV_STATUS_INVALID, "%s has dtype %s, must be %s%s", name,
                    dtype_name(t->dtype) ? dtype_name(t->dtype) : "unknown",
                    dtype_name(plan->dtype), wide ? " or float32" : "");
    return check_layout(name, t, shape, output);
}

/* Is some b s0 + h s1 + l s2 = delta with |b| < shape0, ...?  The strides of an
 * output nest, so that the quotient or its successor is the only candidate. */
static bool reaches(const int64_t *shape, const int64_t *stride, int axes, int64_t delta)
{
    int widest = -1;
    for (int i = 0; i < axes; i++)
        if (shape[i] > 1 && (widest < 0 || llabs(stride[i]) > llabs(stride[widest])))
            widest = i;
    if (widest < 0)
        return delta == 0;
    int64_t rest_shape[3], rest_stride[3];
    memcpy(rest_shape, shape, sizeof rest_shape);
    memcpy(rest_stride, stride, sizeof rest_stride);
    rest_shape[widest] = 1;
    const int64_t s = llabs(stride[widest]);
    if (s == 0)
        return reaches(rest_shape, rest_stride, axes, delta);
    for (int64_t n = delta / s - 1; n <= delta / s + 1; n++)
        if (llabs(n) < shape[widest] && reaches(rest_shape, rest_stride, axes, delta - n * s))
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
    intptr_t alow, ahigh, blow, bhigh;
    span(a, &alow, &ahigh);
    span(b, &blow, &bhigh);
    if (ahigh <= blow || bhigh <= alow)
        return false;
    const int size = dtype_size(a->dtype);
    const int64_t delta = (intptr_t)b->data - (intptr_t)a->data;
    if (same_strides(a, b) && delta % size == 0)
        return reaches(a->shape, a->stride, 3, delta / size);
    return true;
}

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

int check_on_cpu(const struct fftconv_plan *plan)
{
    return plan->cuda ? fail(FFTCONV_STATUS_UNSUPPORTED,
                             "plan is of a CUDA device, where this call does not run: it must be "
                             "of the CPU")
                      : FFTCONV_STATUS_OK;
}

int check_whole_spectra(const struct fftconv_plan *plan)
{
    if (plan->form == FFTCONV_FORM_FOLDED || plan->pattern)
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

int check_kernels(const struct fftconv_plan *plan, const fftconv_tensor *k,
                  const fftconv_tensor *k_rev)
{
    int status;
    const bool two_sided = plan->mode == FFTCONV_MODE_TWO_SIDED, given = k_rev && k_rev->data;
    const int64_t shape[3] = {plan->KB, plan->G, plan->Lk};
    const int64_t rev_shape[3] = {plan->KB, plan->G, plan->Lrev};
    if (!k || !k->data)
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
    if (o->activation < FFTCONV_ACTIVATION_IDENTITY || o->activation > FFTCONV_ACTIVATION_SILU)
        return fail(FFTCONV_STATUS_INVALID,
                    "activation is %d, must be identity (0), gelu (1) or "
                    "silu (2)",
                    o->activation);
    if (o->activation != FFTCONV_ACTIVATION_IDENTITY && is_complex(plan->dtype))
        return fail(FFTCONV_STATUS_INVALID, "activation is %d, must be identity (0) for %s",
                    o->activation, dtype_name(plan->dtype));
    const bool back = direction == FFTCONV_DIRECTION_BACKWARD;
    if (back && plan->history)
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

    enum { FORWARD_ONLY = 1, BACKWARD_ONLY = 2, OUTPUT = 4, KERNEL = 8 };
    const struct {
        const char *name;
        const fftconv_tensor *t;
        int64_t n0, n1, n2;
        int is;
    } all[] = {
#define ROWS plan->B, plan->H, L
#define TAPS plan->KB, plan->G
        {"u", &o->u, ROWS, 0},
        {"k", &o->k, TAPS, plan->Lk, KERNEL},
        {"k_rev", &o->k_rev, TAPS, plan->Lrev, KERNEL},
        {"in_gate", &o->in_gate, ROWS, 0},
        {"out_gate", &o->out_gate, ROWS, 0},
        {"skip", &o->skip, 1, plan->H, 1, KERNEL},
        {"mask", &o->mask, plan->B, plan->H, 1, KERNEL},
        {"history", &o->history, plan->B, plan->H, plan->behind, FORWARD_ONLY | KERNEL},
        {"dy", &o->dy, ROWS, BACKWARD_ONLY},
        {"y", &o->y, ROWS, FORWARD_ONLY | OUTPUT},
        {"du", &o->du, ROWS, BACKWARD_ONLY | OUTPUT},
        {"dk", &o->dk, TAPS, plan->Lk, BACKWARD_ONLY | OUTPUT | KERNEL},
        {"dk_rev", &o->dk_rev, TAPS, plan->Lrev, BACKWARD_ONLY | OUTPUT | KERNEL},
        {"din_gate", &o->din_gate, ROWS, BACKWARD_ONLY | OUTPUT},
        {"dout_gate", &o->dout_gate, ROWS, BACKWARD_ONLY | OUTPUT},
        {"dskip", &o->dskip, 1, plan->H, 1, BACKWARD_ONLY | OUTPUT | KERNEL},
#undef ROWS
#undef TAPS
    };
    enum { COUNT = sizeof all / sizeof *all };
    int used[COUNT], count = 0;
    for (int i = 0; i < COUNT; i++) {
        if (!all[i].t->data)
            continue;
        const bool taps = all[i].t == &o->k || all[i].t == &o->k_rev;
        const bool nothing = all[i].t == &o->history && plan->history && plan->behind == 0;
        if (nothing || (back && all[i].is & FORWARD_ONLY) || (!back && all[i].is & BACKWARD_ONLY) ||
            (taps && spectrum))
            continue;
        used[count++] = i;
        if (all[i].t == &o->dk_rev && plan->mode != FFTCONV_MODE_TWO_SIDED)
            return fail(FFTCONV_STATUS_INVALID,
                        "dk_rev is given, must be NULL unless mode is two_sided "
                        "(2)");
        if (all[i].t == &o->history && !plan->history)
            return fail(FFTCONV_STATUS_INVALID,
                        "history is given, must be NULL unless the plan was "
                        "made with history");
        const int64_t shape[3] = {all[i].n0, all[i].n1, all[i].n2};
        if ((status = check_tensor(plan, all[i].name, all[i].t, shape, all[i].is & OUTPUT,
                                   all[i].is & KERNEL)))
            return status;
    }
    if (plan->history && plan->behind > 0 && !o->history.data)
        return fail(FFTCONV_STATUS_INVALID,
                    "history is NULL, must be given: the plan was made for it");
    if (!back && !o->y.data)
        return fail(FFTCONV_STATUS_INVALID, "y is NULL, must be given");
    if (back && !o->dy.data)
        return fail(FFTCONV_STATUS_INVALID, "dy is NULL, must be given");
    if (o->din_gate.data && back && !o->in_gate.data)
        return fail(FFTCONV_STATUS_INVALID,
                    "din_gate is given, must be NULL where in_gate is NULL");
    if (o->dout_gate.data && back && !o->out_gate.data)
        return fail(FFTCONV_STATUS_INVALID,
                    "dout_gate is given, must be NULL where out_gate is NULL");
    if (o->dskip.data && back && !o->skip.data)
        return fail(FFTCONV_STATUS_INVALID, "dskip is given, must be NULL where skip is NULL");
    /* y may be u: what a block reads is read before it is written */
    for (int a = 0; a < count; a++)
        for (int b = 0; all[used[a]].is & OUTPUT && b < count; b++) {
            const int i = used[a], j = used[b];
            const bool before = !(all[j].is & OUTPUT) || j < i;
            if (!before || i == j || !tensors_overlap(all[i].t, all[j].t))
                continue;
            const bool may = all[i].t == &o->y && all[j].t == &o->u;
            if (!(may && o->y.data == o->u.data && same_strides(&o->y, &o->u)))
                return fail(FFTCONV_STATUS_INVALID, "%s overlaps %s, must not%s", all[i].name,
                            all[j].name, may ? " unless it is the same array" : "");
        }
    if (o->workspace && (uintptr_t)o->workspace % ALIGNMENT)
        return fail(FFTCONV_STATUS_INVALID, "workspace is at %p, must be aligned to %d bytes",
                    o->workspace, ALIGNMENT);
    for (int a = 0; o->workspace && a < count; a++)
        if (touches(all[used[a]].t, o->workspace, max64(0, o->workspace_bytes)))
            return fail(FFTCONV_STATUS_INVALID, "workspace overlaps %s, must not",
                        all[used[a]].name);
    return FFTCONV_STATUS_OK;
}

int check_spectrum(const struct fftconv_plan *plan, const struct fftconv_spectrum *s)
{
    if (!plan->cuda != !s->cuda)
        return fail(FFTCONV_STATUS_INVALID, "spectrum is of %s, must be of %s, as the plan",
                    s->cuda ? "a CUDA device" : "the CPU", s->cuda ? "the CPU" : "a CUDA device");
    if (plan->cuda)
        return cuda_check_spectrum(plan, s);
    bool fits = s->KB == plan->KB && s->G == plan->G && s->taps == plan->taps &&
                s->rev_taps == plan->rev_taps && s->form == plan->form && s->parts == plan->parts &&
                s->packing == plan->packing && s->pattern == plan->pattern;
    for (int i = 0; fits && i < plan->parts; i++) {
        const struct xform *a = &s->part[i], *b = &plan->part[i];
        fits = a->M == b->M && a->lanes == b->lanes && a->real_bytes == b->real_bytes &&
               a->stages == b->stages && a->split == b->split && a->depth == b->depth &&
               a->kept == b->kept;
        for (int l = 0; fits && l < b->stages; l++)
            fits = a->stage[l].radix == b->stage[l].radix;
    }
    if (!fits)
        return fail(FFTCONV_STATUS_INVALID,
                    "spectrum was made for another plan ((%lld, %lld) kernels of %lld and %lld "
                    "taps, M %lld, form %d, %d lanes%s), must be of this one ((%lld, %lld), "
                    "%lld, %lld, %lld, %d, %d%s) or one that chose the same stages",
                    (long long)s->KB, (long long)s->G, (long long)s->taps, (long long)s->rev_taps,
                    (long long)s->part[0].M, s->form, s->part[0].lanes,
                    s->pattern ? ", a pattern" : "", (long long)plan->KB, (long long)plan->G,
                    (long long)plan->taps, (long long)plan->rev_taps, (long long)plan->part[0].M,
                    plan->form, plan->part[0].lanes, plan->pattern ? ", its pattern" : "");
    return FFTCONV_STATUS_OK;
}
