/* The public calls that run on a GPU. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

struct fftconv_cuda_plan {
    struct fftconv_plan shapes; /* as far as checks of operands look           */
    struct cuda_plan plan;
    int device;
    void *tables;
};

struct fftconv_cuda_spectrum {
    const struct cuda_machine *machine;
    struct cuda_plan of; /* what it was made for                               */
    int mode, device;
    void *data;
};

int fftconv_cuda_devices(void)
{
    const struct cuda_machine *m = cuda_machine();
    return m ? m->devices() : 0;
}

/* What one launch cannot do. */
static int check_choices(const fftconv_plan_desc *d)
{
    const struct {
        const char *name;
        bool asked;
    } options[] = {{"dense", d->dense},     {"order", d->order},
                   {"radices", d->radices}, {"isa", d->isa},
                   {"history", d->history}, {"weights", d->weights},
                   {"form", d->form > FFTCONV_RIGHT_ANGLE}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (options[i].asked)
            return fail(FFTCONV_INVALID, "%s is given, must be left to the library on a GPU",
                        options[i].name);
    return FFTCONV_OK;
}

/* On the entered device. */
static int build(struct fftconv_cuda_plan *c, const fftconv_plan_desc *d,
                 const struct cuda_machine *m)
{
    int64_t shared_bytes, blocks;
    int status;
    if ((status = m->limits(c->device, &shared_bytes)) ||
        (status = cuda_plan_init(&c->plan, d, m, shared_bytes, 1)) ||
        (status = m->prepare_rows(c->device, c->plan.single, c->plan.index, &blocks)))
        return status;
    c->plan.blocks = max64(1, blocks);
    const int64_t bytes = c->plan.shape->table_bytes;
    unsigned char *tables = aligned_new(bytes);
    if (!tables)
        return fail_memory(bytes);
    c->plan.shape->build_tables(tables);
    if (!(status = m->allocate(&c->tables, bytes)))
        status = m->copy(c->tables, tables, bytes, NULL);
    c->plan.tables = c->tables;
    aligned_free(tables);
    return status;
}

int fftconv_cuda_plan_create(fftconv_cuda_plan **out, const fftconv_plan_desc *d, int device)
{
    const struct cuda_machine *m = cuda_machine();
    int before, status;
    if (!out)
        return fail(FFTCONV_INVALID, "plan is NULL, must point at a place for the plan");
    *out = NULL;
    if ((status = check_desc(d)) || (status = check_choices(d)))
        return status;
    if (!m)
        return fail(FFTCONV_UNSUPPORTED, "this library was built without CUDA");
    const int devices = m->devices();
    if (devices < 1)
        return fail(FFTCONV_UNSUPPORTED, "no CUDA device, or no driver, was found");
    if (device < 0 || device >= devices)
        return fail(FFTCONV_INVALID, "device is %d, must be 0 ... %d", device, devices - 1);
    struct fftconv_cuda_plan *c = calloc(1, sizeof *c);
    if (!c)
        return fail_memory(sizeof *c);
    c->device = device;
    if (!(status = m->enter(device, &before))) {
        status = build(c, d, m);
        m->leave(device, before);
    }
    c->shapes = (struct fftconv_plan){
        .B = d->batch, .H = d->channels, .L = d->length, .Lk = d->kernel_length,
        .Lrev = d->reverse_length, .G = c->plan.G, .KB = c->plan.KB,
        .members = d->channels / max64(1, c->plan.G), .N = c->plan.N, .mode = d->mode,
        .dtype = d->dtype, .taps = c->plan.taps, .rev_taps = c->plan.rev_taps,
        .behind = c->plan.taps - 1, .ahead = max64(0, c->plan.rev_taps - 1), .threads = 1};
    if (status)
        fftconv_cuda_plan_destroy(c);
    else
        *out = c;
    return status;
}

void fftconv_cuda_plan_destroy(fftconv_cuda_plan *c)
{
    int before;
    if (c && c->tables && !c->plan.machine->enter(c->device, &before)) {
        c->plan.machine->release(c->tables);
        c->plan.machine->leave(c->device, before);
    }
    free(c);
}

int fftconv_cuda_plan_get_info(const fftconv_cuda_plan *c, fftconv_plan_info *info)
{
    if (!c || !info)
        return fail(FFTCONV_INVALID, "%s is NULL", c ? "info" : "plan");
    if (info->size != sizeof *info)
        return fail(FFTCONV_INVALID, "info->size is %zu, must be %zu", info->size,
                    sizeof *info);
    const struct cuda_plan *p = &c->plan;
    const double points = (double)p->B * (double)p->H * p->shape->M;
    memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    info->form = FFTCONV_RIGHT_ANGLE;
    info->mode = c->shapes.mode;
    info->dtype = c->shapes.dtype;
    info->dense = 1;
    info->threads = info->lanes = 1;
    info->fft_size = info->mode == FFTCONV_CIRCULAR ? p->N : 2 * (int64_t)p->shape->M;
    info->transform_length = p->shape->M;
    info->order = info->stages = 3;
    for (int i = 0; i < 3; i++) {
        const int radix = p->shape->radices[i];
        info->radices[i] = info->stage_radices[i] = radix;
        /* complex products, of which stage 1 and its inverse need half; and twiddles */
        info->stage_flops[i] = 2 * points * (radix * (i ? 8 : 4) + (i < 2 ? 6 : 0));
    }
    info->product_flops = 6 * points;
    info->io_bytes = (double)p->B * (double)p->H * (double)p->L * 2 *
                     dtype_size(c->shapes.dtype);
    info->l1_bytes = 4 * points * p->shape->point_bytes; /* shared memory, both directions */
    info->spectrum_bytes = cuda_spectrum_bytes(p);
    info->spectra_row_bytes = (int64_t)p->shape->M * p->shape->point_bytes;
    info->forward_workspace_bytes = cuda_workspace_bytes(p, FFTCONV_FORWARD, false);
    info->backward_workspace_bytes = cuda_workspace_bytes(p, FFTCONV_BACKWARD, false);
    info->isa = "cuda";
    info->blocks = 1;
    info->block_length = p->L;
    info->kept = info->computed = 1;
    return FFTCONV_OK;
}

int fftconv_cuda_spectrum_create(fftconv_cuda_spectrum **out, const fftconv_cuda_plan *c,
                                 const fftconv_tensor *k, const fftconv_tensor *k_rev,
                                 void *stream)
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
    const int64_t wide = c->plan.KB * c->plan.G * c->plan.shape->M * 2 * (int64_t)sizeof(float);
    struct fftconv_cuda_spectrum *s = calloc(1, sizeof *s);
    if (!s)
        return fail_memory(sizeof *s);
    *s = (struct fftconv_cuda_spectrum){.machine = m, .of = c->plan, .mode = c->shapes.mode,
                                        .device = c->device};
    if (!(status = m->enter(c->device, &before))) {
        if (!(status = m->allocate(&s->data, cuda_spectrum_bytes(&c->plan))) &&
            !(status = m->allocate_on(&workspace, wide, stream))) {
            status = cuda_make_spectrum(&c->plan, k, k_rev, s->data, workspace, stream);
            m->release_on(workspace, stream);
        }
        m->leave(c->device, before);
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
    if (s && s->data && !s->machine->enter(s->device, &before)) {
        s->machine->release(s->data);
        s->machine->leave(s->device, before);
    }
    free(s);
}

static int check_spectrum_of(const fftconv_cuda_plan *c, const fftconv_cuda_spectrum *s)
{
    const struct cuda_plan *a = &s->of, *b = &c->plan;
    if (s->device != c->device || a->shape != b->shape || a->G != b->G || a->KB != b->KB ||
        a->taps != b->taps || a->rev_taps != b->rev_taps || a->circle != b->circle ||
        (a->circle && a->N != b->N))
        return fail(FFTCONV_INVALID, "spectrum was made for another plan ((%lld, %lld) kernels of "
                    "%lld and %lld taps, M %d, device %d), must be of one alike ((%lld, %lld), "
                    "%lld, %lld, %d, %d)", (long long)a->KB, (long long)a->G,
                    (long long)a->taps, (long long)a->rev_taps, a->shape->M, s->device,
                    (long long)b->KB, (long long)b->G, (long long)b->taps,
                    (long long)b->rev_taps, b->shape->M, c->device);
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
    const int64_t bytes = cuda_workspace_bytes(&c->plan, direction, s != NULL);
    void *workspace = o->workspace;
    if (workspace && o->workspace_bytes < bytes)
        return fail(FFTCONV_INVALID, "workspace_bytes is %lld, must be at least %lld",
                    (long long)o->workspace_bytes, (long long)bytes);
    if ((status = m->enter(c->device, &before)))
        return status;
    if (!workspace && bytes > 0)
        status = m->allocate_on(&workspace, bytes, stream);
    if (!status)
        status = (direction == FFTCONV_FORWARD ? cuda_forward : cuda_backward)(
            &c->plan, s ? s->data : NULL, o, workspace, stream);
    if (workspace && !o->workspace)
        m->release_on(workspace, stream);
    m->leave(c->device, before);
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
