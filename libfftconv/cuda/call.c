/* The public calls that run on a GPU. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

struct fftconv_cuda_plan {
    struct fftconv_plan shapes; /* as far as checks of operands look */
    struct cuda_plan plan;
};

struct fftconv_cuda_spectrum {
    const struct cuda_machine *machine;
    struct cuda_plan of; /* what it was made for */
    void *data;
};

int fftconv_cuda_devices(void)
{
    const struct cuda_machine *m = cuda_machine();
    return m ? m->devices() : 0;
}

/* What is the CPU's alone. */
static int check_choices(const fftconv_plan_desc *d)
{
    const struct {
        const char *name;
        bool asked;
    } options[] = {{"dense", d->dense},     {"order", d->order},
                   {"radices", d->radices}, {"history", d->history},
                   {"weights", d->weights}, {"form", d->form > FFTCONV_RIGHT_ANGLE}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (options[i].asked)
            return fail(FFTCONV_INVALID, "%s is given, must be left to the library on a GPU",
                        options[i].name);
    return FFTCONV_OK;
}

int fftconv_cuda_plan_create(fftconv_cuda_plan **out, const fftconv_plan_desc *d, int device)
{
    const struct cuda_machine *m;
    int before, status;
    if (!out)
        return fail(FFTCONV_INVALID, "plan is NULL, must point at a place for the plan");
    *out = NULL;
    if ((status = check_desc(d)) || (status = check_choices(d)) ||
        (status = cuda_enter(&m, device, &before)))
        return status;
    struct fftconv_cuda_plan *c = calloc(1, sizeof *c);
    status = c ? cuda_plan_init(&c->plan, d, m, device) : fail_memory(sizeof *c);
    m->leave(device, before);
    if (!c)
        return status;
    c->shapes = (struct fftconv_plan){.B = d->batch,
                                      .H = d->channels,
                                      .L = d->length,
                                      .Lk = d->kernel_length,
                                      .Lrev = d->reverse_length,
                                      .G = c->plan.G,
                                      .KB = c->plan.KB,
                                      .members = d->channels / max64(1, c->plan.G),
                                      .N = c->plan.N,
                                      .mode = d->mode,
                                      .dtype = d->dtype,
                                      .taps = c->plan.taps,
                                      .rev_taps = c->plan.rev_taps,
                                      .behind = c->plan.taps - 1,
                                      .ahead = max64(0, c->plan.rev_taps - 1),
                                      .threads = 1};
    if (status)
        fftconv_cuda_plan_destroy(c);
    else
        *out = c;
    return status;
}

void fftconv_cuda_plan_destroy(fftconv_cuda_plan *c)
{
    int before;
    if (c && c->plan.engine && !c->plan.machine->enter(c->plan.device, &before)) {
        cuda_plan_destroy(&c->plan);
        c->plan.machine->leave(c->plan.device, before);
    }
    free(c);
}

int fftconv_cuda_plan_get_info(const fftconv_cuda_plan *c, fftconv_plan_info *info)
{
    if (!c || !info)
        return fail(FFTCONV_INVALID, "%s is NULL", c ? "info" : "plan");
    if (info->size != sizeof *info)
        return fail(FFTCONV_INVALID, "info->size is %zu, must be %zu", info->size, sizeof *info);
    const struct cuda_plan *p = &c->plan;
    memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    info->mode = c->shapes.mode;
    info->dtype = c->shapes.dtype;
    info->threads = info->lanes = 1;
    info->io_bytes = (double)p->B * (double)p->H * (double)p->L * 2 * dtype_size(c->shapes.dtype);
    info->spectrum_bytes = p->engine->spectrum_bytes(p);
    info->forward_workspace_bytes = p->engine->workspace_bytes(p, FFTCONV_FORWARD, false);
    info->backward_workspace_bytes = p->engine->workspace_bytes(p, FFTCONV_BACKWARD, false);
    info->isa = p->engine->name;
    info->blocks = 1;
    info->block_length = p->L;
    info->kept = info->computed = 1;
    p->engine->describe(p, info);
    return FFTCONV_OK;
}

int fftconv_cuda_spectrum_create(fftconv_cuda_spectrum **out, const fftconv_cuda_plan *c,
                                 const fftconv_tensor *k, const fftconv_tensor *k_rev, void *stream)
{
    int before, status;
    void *workspace = NULL;
    if (!out)
        return fail(FFTCONV_INVALID, "spectrum is NULL, must point at a place for it");
    *out = NULL;
    if (!c || !k)
        return fail(FFTCONV_INVALID, "%s is NULL", c ? "k" : "plan");
    if ((status = check_kernels(&c->shapes, k, k_rev)))
        return status;
    const struct cuda_machine *m = c->plan.machine;
    const struct cuda_engine *e = c->plan.engine;
    const int64_t bytes = e->making_bytes(&c->plan);
    struct fftconv_cuda_spectrum *s = calloc(1, sizeof *s);
    if (!s)
        return fail_memory(sizeof *s);
    *s = (struct fftconv_cuda_spectrum){.machine = m, .of = c->plan};
    if (!(status = m->enter(c->plan.device, &before))) {
        if (!(status = m->allocate(&s->data, e->spectrum_bytes(&c->plan))) &&
            (bytes == 0 || !(status = m->allocate_on(&workspace, bytes, stream)))) {
            status = e->make_spectrum(&c->plan, k, k_rev, s->data, workspace, stream);
            if (workspace)
                m->release_on(workspace, stream);
        }
        m->leave(c->plan.device, before);
    }
    if (status)
        fftconv_cuda_spectrum_destroy(s);
    else
        *out = s;
    return status;
}

void fftconv_cuda_spectrum_destroy(fftconv_cuda_spectrum *s)
{
    int before;
    if (s && s->data && !s->machine->enter(s->of.device, &before)) {
        s->machine->release(s->data);
        s->machine->leave(s->of.device, before);
    }
    free(s);
}

static int check_spectrum_of(const fftconv_cuda_plan *c, const fftconv_cuda_spectrum *s)
{
    const struct cuda_plan *a = &s->of, *b = &c->plan;
    if (a->device != b->device || a->engine != b->engine || a->shape != b->shape ||
        a->even_odd != b->even_odd || a->points != b->points ||
        (a->points && a->dtype != b->dtype) || a->turn != b->turn || a->G != b->G ||
        a->KB != b->KB || a->taps != b->taps || a->rev_taps != b->rev_taps ||
        a->circle != b->circle || (a->circle && a->N != b->N))
        return fail(FFTCONV_INVALID,
                    "spectrum was made for another plan (%s on device %d, "
                    "(%lld, %lld) kernels of %lld and %lld taps, rows of %lld), must be of one "
                    "alike (%s on device %d, (%lld, %lld), %lld, %lld, %lld)",
                    a->engine->name, a->device, (long long)a->KB, (long long)a->G,
                    (long long)a->taps, (long long)a->rev_taps, (long long)a->L, b->engine->name,
                    b->device, (long long)b->KB, (long long)b->G, (long long)b->taps,
                    (long long)b->rev_taps, (long long)b->L);
    return FFTCONV_OK;
}

static int call(const fftconv_cuda_plan *c, const fftconv_cuda_spectrum *s,
                const fftconv_operands *o, int direction, void *stream)
{
    /* check_operands asks no more of a spectrum than whether there is one */
    int before, status = check_operands(c ? &c->shapes : NULL, (const void *)s, o, direction);
    if (status || (s && (status = check_spectrum_of(c, s))))
        return status;
    const struct cuda_machine *m = c->plan.machine;
    const struct cuda_engine *e = c->plan.engine;
    const int64_t bytes = e->workspace_bytes(&c->plan, direction, s != NULL);
    void *workspace = o->workspace;
    if (workspace && o->workspace_bytes < bytes)
        return fail(FFTCONV_INVALID, "workspace_bytes is %lld, must be at least %lld",
                    (long long)o->workspace_bytes, (long long)bytes);
    if ((status = m->enter(c->plan.device, &before)))
        return status;
    if (!workspace && bytes > 0)
        status = m->allocate_on(&workspace, bytes, stream);
    if (!status)
        status = (direction == FFTCONV_FORWARD ? e->forward : e->backward)(
            &c->plan, s ? s->data : NULL, o, workspace, stream);
    if (workspace && !o->workspace)
        m->release_on(workspace, stream);
    m->leave(c->plan.device, before);
    return status;
}

int fftconv_cuda_forward(const fftconv_cuda_plan *plan, const fftconv_cuda_spectrum *spectrum,
                         const fftconv_operands *operands, void *stream)
{
    return call(plan, spectrum, operands, FFTCONV_FORWARD, stream);
}

int fftconv_cuda_backward(const fftconv_cuda_plan *plan, const fftconv_cuda_spectrum *spectrum,
                          const fftconv_operands *operands, void *stream)
{
    return call(plan, spectrum, operands, FFTCONV_BACKWARD, stream);
}
