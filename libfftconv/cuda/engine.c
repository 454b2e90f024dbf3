/* The choice of an engine for a plan on a GPU, and the passes over a row that every engine
 * makes in a call.  All of it is arithmetic on shapes and addresses: it runs, and is tested,
 * without a GPU. */
#include "engine.h"

#include <stdio.h>
#include <string.h>

static void set_shapes(struct cuda_plan *p, const fftconv_plan_desc *d,
                       const struct cuda_machine *machine)
{
    *p = (struct cuda_plan){.machine = machine,
                            .device = d->device_index,
                            .mode = d->mode,
                            .dtype = d->dtype,
                            .B = d->batch,
                            .H = d->channels,
                            .L = d->length,
                            .Lk = d->k_length,
                            .Lk_rev = d->k_rev_length,
                            .G = d->kernels ? d->kernels : d->channels,
                            .KB = d->kernel_batch ? d->kernel_batch : 1,
                            .N = d->fft_size ? d->fft_size : d->length,
                            .only_right_angle = d->form == FFTCONV_FORM_RIGHT_ANGLE};
    p->wraps = d->mode == FFTCONV_MODE_CIRCULAR && p->L + p->Lk - 1 > p->N;
    p->taps = p->wraps ? p->Lk : min64(p->Lk, p->L);
    p->rev_taps = min64(p->Lk_rev, p->L);
}

int cuda_plan_init(struct cuda_plan *p, const fftconv_plan_desc *d,
                   const struct cuda_machine *machine)
{
    static const struct cuda_engine *const engines[] = {&cuda_fused, &cuda_padded};
    enum { COUNT = sizeof engines / sizeof *engines };
    char first_reason[256] = "";
    set_shapes(p, d, machine);
    for (int i = 0; i < COUNT; i++) {
        if (d->engine && strcmp(d->engine, engines[i]->name) != 0)
            continue;
        p->engine = engines[i];
        const int status = p->engine->init(p);
        if (!status)
            return FFTCONV_STATUS_OK;
        cuda_plan_clear(p);
        if (status != FFTCONV_STATUS_UNSUPPORTED || d->engine)
            return status;
        char reason[sizeof first_reason];
        snprintf(reason, sizeof reason, "%s", fftconv_last_error());
        if (i == COUNT - 1)
            return fail(FFTCONV_STATUS_UNSUPPORTED, "%s; %s", first_reason, reason);
        memcpy(first_reason, reason, sizeof first_reason);
    }
    return fail(FFTCONV_STATUS_INVALID, "engine is \"%.32s\", must be NULL, \"fused\" or \"cufft\"",
                d->engine);
}

void cuda_plan_clear(struct cuda_plan *p)
{
    if (p->engine)
        p->engine->destroy(p);
    p->engine = NULL;
}

int64_t cuda_take(int64_t *total, int64_t bytes)
{
    const int64_t at = *total;
    *total = size_add(at, round_up(bytes, WORKSPACE_ALIGNMENT));
    return at;
}

Operand cuda_operand(const fftconv_tensor *t)
{
    Operand o = {.data = t->data, .type = t->dtype};
    memcpy(o.stride, t->stride, sizeof o.stride);
    return o;
}

/* A pass whose input is z = u in_gate. */
static Pass pass_over_z(const struct cuda_plan *p, const fftconv_operands *o, int flags, int sink)
{
    return (Pass){.flags = flags,
                  .sink = sink,
                  .to = (int32_t)p->L,
                  .sink_to = (int32_t)p->L,
                  .add = -1,
                  .activation = o->activation,
                  .x = cuda_operand(&o->u),
                  .gate = cuda_operand(&o->in_gate),
                  .skip = cuda_operand(&o->skip),
                  .mask = cuda_operand(&o->mask),
                  .u = cuda_operand(&o->u),
                  .in_gate = cuda_operand(&o->in_gate),
                  .out_gate = cuda_operand(&o->out_gate)};
}

/* A pass whose input is g = dy mask out_gate act'(p).  Where an earlier pass has stored g in
 * the block's own row, it is read from there; else there is no activation, act' is 1, and g
 * is made from dy. */
static Pass pass_over_g(const struct cuda_plan *p, const fftconv_operands *o, int flags,
                        bool stored)
{
    Pass pass = pass_over_z(p, o, flags, SPREAD);
    pass.own = stored;
    pass.x = pass.dy = cuda_operand(&o->dy);
    pass.gate = cuda_operand(&o->out_gate);
    if (!stored)
        pass.scale = cuda_operand(&o->mask);
    pass.du = cuda_operand(&o->du);
    pass.din_gate = cuda_operand(&o->din_gate);
    return pass;
}

int cuda_forward_passes(const struct cuda_plan *p, const fftconv_operands *o, Pass *pass)
{
    *pass = pass_over_z(p, o, TRANSFORM | MULTIPLY | BACK, OUTPUT);
    pass->y = cuda_operand(&o->y);
    return 1;
}

bool cuda_wants_dk(const fftconv_operands *o) { return o->dk.data || o->dk_rev.data; }

/* Let p be the value before the activation, act, and Z and G the transforms of z and of
 * g = dy mask out_gate act'(p).  Then
 *     dz = inverse(conj(K) G) + skip g,   du = dz in_gate,   din_gate = dz u,
 *     dk = the taps of the sum over rows of conj(Z) G,       dskip = sum of g z.
 * So a row is transformed twice: first z, whose Z is kept for dk, and whose p gives g and
 * dout_gate; then g.  Either pass is left out where nothing needs it. */
int cuda_backward_passes(const struct cuda_plan *p, const fftconv_operands *o, Pass *pass)
{
    const Pass *const first = pass;
    const bool need_p = o->activation != FFTCONV_ACTIVATION_IDENTITY || o->dout_gate.data;
    const bool need_dk = cuda_wants_dk(o);
    const bool need_dz = o->du.data || o->din_gate.data || o->dskip.data;
    if (need_p || need_dk) {
        *pass = pass_over_z(p, o, TRANSFORM | (need_dk ? KEEP : 0) | (need_p ? MULTIPLY | BACK : 0),
                            GRADIENT);
        pass->dy = cuda_operand(&o->dy);
        pass++->dout_gate = cuda_operand(&o->dout_gate);
    }
    if (need_dz || need_dk)
        *pass++ = pass_over_g(
            p, o, TRANSFORM | (need_dk ? SUM : 0) | (need_dz ? MULTIPLY | ADJOINT | BACK : 0),
            need_p);
    return (int)(pass - first);
}
