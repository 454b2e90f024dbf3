/* Plans, spectra and calls on a GPU: the library's side of them.  Each makes the plan's device the
 * calling thread's, finds the memory that is needed, and lets the plan's engine launch the work. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

struct cuda_spectrum {
    const struct cuda_machine *machine;
    struct cuda_plan of; /* the plan that it was made for */
    void *data;
};

int fftconv_cuda_devices(void)
{
    const struct cuda_machine *m = cuda_machine();
    return m ? m->devices() : 0;
}

/* Refuses what only plans on a CPU can choose. */
static int check_choices(const fftconv_plan_desc *d)
{
    const struct {
        const char *name;
        bool asked;
    } options[] = {{"dense", d->dense},     {"order", d->order},
                   {"radices", d->radices}, {"history", d->history},
                   {"weights", d->weights}, {"form", d->form > FFTCONV_FORM_RIGHT_ANGLE}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (options[i].asked)
            return fail(FFTCONV_STATUS_INVALID, "%s is given, must be left to the library on a GPU",
                        options[i].name);
    return FFTCONV_STATUS_OK;
}

int cuda_plan_create(struct fftconv_plan *plan, const fftconv_plan_desc *d)
{
    const struct cuda_machine *m;
    int before, status;
    if ((status = check_choices(d)) || (status = cuda_enter(&m, d->device_index, &before)))
        return status;
    struct cuda_plan *p = plan->cuda = calloc(1, sizeof *p);
    status = p ? cuda_plan_init(p, d, m) : fail_memory(sizeof *p);
    m->leave(d->device_index, before);
    if (status)
        return status;
    plan->taps = p->taps;
    plan->rev_taps = p->rev_taps;
    plan->threads = 1;
    return check_bytes(max64(p->engine->spectrum_bytes(p),
                             max64(p->engine->spectrum_workspace_bytes(p),
                                   cuda_workspace_bytes(plan, FFTCONV_DIRECTION_BACKWARD, false))),
                       "channels is %lld and batch is %lld", (long long)d->channels,
                       (long long)d->batch);
}

void cuda_plan_destroy(struct cuda_plan *p)
{
    int before;
    if (p && p->engine && !p->machine->enter(p->device, &before)) {
        cuda_plan_clear(p);
        p->machine->leave(p->device, before);
    }
    free(p);
}

void cuda_plan_describe(const struct fftconv_plan *plan, fftconv_plan_info *info)
{
    const struct cuda_plan *p = plan->cuda;
    info->device = FFTCONV_DEVICE_CUDA;
    info->device_index = p->device;
    info->engine = p->engine->name;
    info->lanes = 1;
    info->spectrum_bytes = p->engine->spectrum_bytes(p);
    info->forward_workspace_bytes = cuda_workspace_bytes(plan, FFTCONV_DIRECTION_FORWARD, false);
    info->backward_workspace_bytes = cuda_workspace_bytes(plan, FFTCONV_DIRECTION_BACKWARD, false);
    info->blocks = 1;
    info->block_length = p->L;
    info->computed = 1;
    p->engine->describe(p, info);
}

int64_t cuda_workspace_bytes(const struct fftconv_plan *plan, int direction, bool prepared)
{
    return plan->cuda->engine->workspace_bytes(plan->cuda, direction, prepared);
}

int cuda_spectrum_create(struct fftconv_spectrum *spectrum, const struct fftconv_plan *plan,
                         const fftconv_operands *o)
{
    const struct cuda_plan *p = plan->cuda;
    const struct cuda_machine *m = p->machine;
    const struct cuda_engine *e = p->engine;
    const int64_t bytes = e->spectrum_workspace_bytes(p);
    void *workspace = NULL;
    int before, status;
    struct cuda_spectrum *s = spectrum->cuda = calloc(1, sizeof *s);
    if (!s)
        return fail_memory(sizeof *s);
    *s = (struct cuda_spectrum){.machine = m, .of = *p};
    if ((status = m->enter(p->device, &before)))
        return status;
    if (!(status = m->allocate(&s->data, e->spectrum_bytes(p))) &&
        (bytes == 0 || !(status = m->allocate_on(&workspace, bytes, o->stream)))) {
        status = e->make_spectrum(p, &o->k, &o->k_rev, s->data, workspace, o->stream);
        if (workspace)
            m->release_on(workspace, o->stream);
    }
    m->leave(p->device, before);
    return status;
}

void cuda_spectrum_destroy(struct cuda_spectrum *s)
{
    int before;
    if (s && s->data && !s->machine->enter(s->of.device, &before)) {
        s->machine->release(s->data);
        s->machine->leave(s->of.device, before);
    }
    free(s);
}

int cuda_check_spectrum(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum)
{
    const struct cuda_plan *a = &spectrum->cuda->of, *b = plan->cuda;
    if (a->device != b->device || a->engine != b->engine || a->shape != b->shape ||
        a->even_odd != b->even_odd || a->points != b->points ||
        (a->points && a->dtype != b->dtype) || a->wrapped_from != b->wrapped_from || a->G != b->G ||
        a->KB != b->KB || a->taps != b->taps || a->rev_taps != b->rev_taps ||
        a->wraps != b->wraps || (a->wraps && a->N != b->N))
        return fail(FFTCONV_STATUS_INVALID,
                    "spectrum was made for another plan: for the %s engine on device %d, (%lld, "
                    "%lld) kernels of %lld and %lld taps, and rows of %lld; this plan has the %s "
                    "engine on device %d, (%lld, %lld) kernels of %lld and %lld taps, and rows of "
                    "%lld",
                    a->engine->name, a->device, (long long)a->KB, (long long)a->G,
                    (long long)a->taps, (long long)a->rev_taps, (long long)a->L, b->engine->name,
                    b->device, (long long)b->KB, (long long)b->G, (long long)b->taps,
                    (long long)b->rev_taps, (long long)b->L);
    return FFTCONV_STATUS_OK;
}

int cuda_execute(const struct fftconv_plan *plan, const struct fftconv_spectrum *spectrum,
                 const fftconv_operands *o, int direction)
{
    const struct cuda_plan *p = plan->cuda;
    const struct cuda_machine *m = p->machine;
    const struct cuda_engine *e = p->engine;
    const void *data = spectrum ? spectrum->cuda->data : NULL;
    const int64_t bytes = cuda_workspace_bytes(plan, direction, spectrum != NULL);
    void *workspace = o->workspace;
    int before, status;
    if (workspace && o->workspace_bytes < bytes)
        return fail(FFTCONV_STATUS_INVALID, "workspace_bytes is %lld, must be at least %lld",
                    (long long)o->workspace_bytes, (long long)bytes);
    if ((status = m->enter(p->device, &before)))
        return status;
    if (!workspace && bytes > 0)
        status = m->allocate_on(&workspace, bytes, o->stream);
    if (!status)
        status = (direction == FFTCONV_DIRECTION_FORWARD ? e->forward : e->backward)(
            p, data, o, workspace, o->stream);
    if (workspace && !o->workspace)
        m->release_on(workspace, o->stream);
    m->leave(p->device, before);
    return status;
}
