/* How a call shares out its work and its memory. */
#include "plan.h"

/* Rows that are not contiguous while channels are: each element is on a cache line of its
 * own. */
static bool is_scattered(const fftconv_tensor *t)
{
    const int64_t size = dtype_size(t->dtype);
    const int64_t n = t->stride[2], h = t->stride[1], far = size ? 32 / size : 0;
    return t->data && t->shape[1] > 1 && t->shape[2] > 1 && size && h != 0 && h < 64 / size &&
           h > -64 / size && (n >= far || n <= -far);
}

struct call_shape call_shape_of(const struct fftconv_plan *plan, const fftconv_operands *o,
                                int direction, int threads, bool has_spectrum)
{
    struct call_shape call = {
        .direction = direction, .threads = threads, .has_spectrum = has_spectrum};
    const bool forward = direction == FFTCONV_DIRECTION_FORWARD;
    for (int i = 0; i < ROW_OPERANDS; i++)
        if (i <= OUT_GATE || (forward ? i == Y : i >= DY))
            call.scattered |= call.copied[i] = is_scattered(row_tensor(o, i));
    if (forward && plan->chosen.blocks > 1 && o->u.data && o->y.data == o->u.data)
        call.in_place = call.copied[U] = true;
    return call;
}

/* The tasks of a call, and its threads: over tasks where there are enough of them, else
 * inside one row. */
static void share_work(struct layout *l, const struct fftconv_plan *plan)
{
    const struct call_shape *call = &l->call;
    const struct transform *t = &plan->chosen.part[0];
    const bool forward = call->direction == FFTCONV_DIRECTION_FORWARD;
    const int64_t channels = plan->channels_per_kernel;

    /* Channels beside each other are copied together: with a kernel for each, those kernels
     * are taken together; else they are some of one kernel's channels. */
    l->group_channels = l->group_kernels = 1;
    if (call->scattered)
        l->group_channels = (int)min64(GROUP_CHANNELS, channels > 1 ? channels : plan->H);
    if (channels == 1) {
        l->group_channels = (int)min64(l->group_channels, ceil_div(plan->H, call->threads));
        l->group_kernels = l->group_channels;
    }
    l->kernel_tasks = plan->KB * ceil_div(plan->G, l->group_kernels);
    l->row_tasks = plan->B / plan->KB * (channels > 1 ? ceil_div(channels, l->group_channels) : 1);
    l->segments = 1;
    int64_t tasks = l->kernel_tasks * (forward ? l->row_tasks : plan->chunks);
    if (forward && !call->in_place && tasks < 4 * call->threads)
        l->segments = min64(plan->chosen.blocks, ceil_div(4 * call->threads, tasks));
    tasks = call->rows ? call->rows : tasks * l->segments;
    const bool uneven = tasks < call->threads ||
                        (tasks % call->threads && tasks < 4 * call->threads);
    l->threads = (int)min64(call->threads, tasks);
    l->inside = 1;
    if (t->depth > 0 && t->M >= 16384 && uneven)
        l->threads = 1, l->inside = call->threads;
    l->by_kernel = !call->has_spectrum && l->inside == 1 &&
                   (forward ? l->kernel_tasks >= l->threads : plan->chunks == 1);
    l->whole = forward &&
               (l->by_kernel || (l->segments == 1 && l->inside == 1 &&
                                 (l->threads == 1 || l->kernel_tasks >= 4 * l->threads)));
    l->split = !forward && plan->chunks * plan->KB > 1;
}

/* A worker's memory for the backward pass. */
static void take_backward(struct layout *l, const struct fftconv_plan *plan, bool halo)
{
    const int64_t element = element_bytes(plan);
    int64_t *at = &l->worker_bytes;
    const int64_t row = is_direct(plan) ? direct_row_bytes(plan) : l->spectra_bytes;
    l->z = take_bytes(at, row);
    l->g = take_bytes(at, row);
    l->p = take_bytes(at, size_mul(plan->chosen.block_length, element));
    l->dz = take_bytes(at, size_mul(halo ? plan->chosen.padded_length : plan->L, element));
    if (plan->chunks == 1)
        l->sum = take_bytes(at, size_mul(l->spectra_bytes, l->group_kernels));
    if (!l->split)
        l->dskips = take_bytes(at, size_mul(size_mul(l->group_kernels, plan->channels_per_kernel),
                                            sizeof(struct scalar)));
    l->carry = take_bytes(at, size_mul(l->carry_bytes, l->group_channels));
    l->wrapped = take_bytes(at, size_mul(l->wrap_bytes, l->group_channels));
}

/* Copies of rows that are not contiguous. */
static void take_copies(struct layout *l, const struct fftconv_plan *plan)
{
    const int64_t window = min64(plan->chosen.padded_length, plan->L);
    for (int i = 0; i < ROW_OPERANDS; i++)
        if (l->call.copied[i]) {
            const bool input = i == U || i == IN_GATE || i == DU || i == DIN_GATE;
            const int64_t elements = input ? window : plan->chosen.block_length;
            /* an odd number of lines, so that rows do not meet in one set of a cache */
            l->copy_bytes[i] = round_up(elements * dtype_size(plan->dtype), 2 * ALIGNMENT) +
                               ALIGNMENT;
            l->copy[i] = take_bytes(&l->worker_bytes,
                                    size_mul(l->copy_bytes[i], l->group_channels));
        }
}

static void take_worker(struct layout *l, const struct fftconv_plan *plan)
{
    const struct choice *chosen = &plan->chosen;
    const struct call_shape *call = &l->call;
    const bool forward = call->direction == FFTCONV_DIRECTION_FORWARD;
    const bool makes_spectra = !call->has_spectrum || !forward;
    const int real = plan->engine->real_bytes, lanes = plan->engine->lanes;
    const int64_t element = element_bytes(plan);
    int64_t x = 0, scratch = 0, *at = &l->worker_bytes;
    for (int i = 0; i < chosen->parts; i++) {
        x = max64(x, chosen->part[i].x_reals);
        scratch = max64(scratch, chosen->part[i].scratch_reals);
    }
    l->spectra_bytes = spectra_bytes(plan);
    l->scratch_bytes = round_up(scratch * real, ALIGNMENT);
    const bool halo = chosen->blocks > 1 || chosen->wrap || is_direct(plan);
    if (halo)
        l->carry_bytes = round_up((plan->past_taps + plan->future_taps) * element, ALIGNMENT);
    if (chosen->wrap)
        l->wrap_bytes = round_up(plan->past_taps * element, ALIGNMENT);

    l->x = take_bytes(at, is_direct(plan) ? direct_row_bytes(plan) : x * real);
    if (chosen->parts > 1)
        l->row = take_bytes(at, chosen->padded_length * element);
    l->scratch = take_bytes(at, size_mul(l->scratch_bytes, l->inside));
    if (l->by_kernel)
        l->made = take_bytes(at, size_mul(l->spectra_bytes, l->group_kernels));
    if ((plan->rev_taps || plan->filter) && makes_spectra)
        l->taps = take_bytes(at, chosen->padded_length * element);
    if (plan->filter && makes_spectra) /* a row */
        l->filter = take_bytes(at, plan->N * (int64_t)sizeof(double));
    if (!forward)
        take_backward(l, plan, halo);
    if (plan->direct_outputs && call->has_spectrum)
        l->direct_work = take_bytes(at, (plan->taps + plan->direct_outputs + 2 * lanes) * element);
    take_copies(l, plan);
}

struct layout layout_of(const struct fftconv_plan *plan, const struct call_shape *call)
{
    const int64_t kernels = size_mul(plan->KB, plan->G);
    struct layout l = {.call = *call};
    share_work(&l, plan);
    take_worker(&l, plan);
    if (!call->has_spectrum && !l.by_kernel)
        l.shared_spectra = take_bytes(&l.shared_bytes, size_mul(kernels, l.spectra_bytes));
    if (call->direction == FFTCONV_DIRECTION_BACKWARD) {
        if (plan->chunks > 1)
            l.shared_sums = take_bytes(&l.shared_bytes,
                                       size_mul(size_mul(kernels, plan->chunks), l.spectra_bytes));
        if (l.split)
            l.shared_dskips = take_bytes(
                &l.shared_bytes, size_mul(size_mul(size_mul(plan->KB, plan->chunks), plan->H),
                                          sizeof(struct scalar)));
    }
    l.total_bytes = size_add(l.shared_bytes, size_mul(l.worker_bytes, l.threads));
    return l;
}

int check_layout_bytes(const struct fftconv_plan *plan, const struct layout *l)
{
    return check_bytes(l->total_bytes, "the plan's batch is %lld, channels %lld and length %lld",
                       (long long)plan->B, (long long)plan->H, (long long)plan->L);
}

int64_t plain_workspace_bytes(const struct fftconv_plan *plan, int direction, int threads)
{
    struct call_shape call = {.direction = direction, .threads = threads};
    const int64_t bytes = layout_of(plan, &call).total_bytes;
    call.has_spectrum = true;
    return max64(bytes, layout_of(plan, &call).total_bytes);
}

int fftconv_workspace_bytes(const fftconv_plan *plan, const fftconv_spectrum *spectrum,
                            const fftconv_operands *o, int direction, int64_t *bytes)
{
    int threads, status;
    if (!plan || !o || !bytes)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL",
                    !plan ? "plan"
                    : !o  ? "operands"
                          : "bytes");
    if (o->size != sizeof *o)
        return fail(FFTCONV_STATUS_INVALID, "operands->size is %zu, must be %zu", o->size,
                    sizeof *o);
    if (direction != FFTCONV_DIRECTION_FORWARD && direction != FFTCONV_DIRECTION_BACKWARD)
        return fail(FFTCONV_STATUS_INVALID, "direction is %d, must be forward (0) or backward (1)",
                    direction);
    if ((status = resolve_threads(plan, o->threads, &threads)))
        return status;
    if (plan->cuda) {
        *bytes = cuda_workspace_bytes(plan, direction, spectrum != NULL);
        return FFTCONV_STATUS_OK;
    }
    const struct call_shape call = call_shape_of(plan, o, direction, threads, spectrum != NULL);
    const struct layout layout = layout_of(plan, &call);
    if ((status = check_layout_bytes(plan, &layout)))
        return status;
    *bytes = layout.total_bytes;
    return FFTCONV_STATUS_OK;
}
