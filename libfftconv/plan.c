/* Plans: checked arguments, a form, a length, a transform. */
#include "internal.h"

#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every size a call derives must fit: B H L elements of 8 bytes, twice over, and
 * whatever padding a row's transform adds. */
enum { SIZE_BITS = 58, ROW_BITS = 40 };

static int check_size(const char *name, int64_t value, int bits)
{
    if (value < 1 || value > (int64_t)1 << bits)
        return fail(FFTCONV_STATUS_INVALID, "%s is %lld, must be 1 ... 2^%d", name,
                    (long long)value, bits);
    return FFTCONV_STATUS_OK;
}

static int check_choice(const char *name, int value, int low, int high, const char *allowed)
{
    if (value < low || value > high)
        return fail(FFTCONV_STATUS_INVALID, "%s is %d, must be %s", name, value, allowed);
    return FFTCONV_STATUS_OK;
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

int check_desc(const fftconv_plan_desc *d)
{
    int status;
    if (!d)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (d->size != sizeof *d)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", d->size, sizeof *d);
    if ((status = check_size("batch", d->batch, SIZE_BITS)) ||
        (status = check_size("channels", d->channels, SIZE_BITS)) ||
        (status = check_size("length", d->length, ROW_BITS)) ||
        (status = check_size("k_length", d->k_length, ROW_BITS)) ||
        (status = check_choice("mode", d->mode, FFTCONV_MODE_CAUSAL, FFTCONV_MODE_TWO_SIDED,
                               "causal (0), circular (1) or two_sided (2)")) ||
        (status = check_choice("dtype", d->dtype, FFTCONV_DTYPE_FLOAT64, FFTCONV_DTYPE_COMPLEX64,
                               "float64 (1), float32 (2), float16 (3), bfloat16 (4), "
                               "complex128 (5) or complex64 (6)")) ||
        (status = check_choice("form", d->form, FFTCONV_FORM_AUTO, FFTCONV_FORM_COMPLEX,
                               "auto (0), right_angle (1), folded (2) or complex (3)")) ||
        (status = check_choice("dense", d->dense, 0, 1, "0 or 1")) ||
        (status = check_choice("single_block", d->single_block, 0, 1, "0 or 1")) ||
        (status = check_choice("history", d->history, 0, 1, "0 or 1")) ||
        (status = check_choice("threads", d->threads, 0, 255, "0 (all) ... 255")) ||
        (status = check_choice("order", d->order, 0, FFTCONV_MAX_ORDER, "0 (any) ... 16")) ||
        (status = check_choice("device", d->device, FFTCONV_DEVICE_CPU, FFTCONV_DEVICE_CUDA,
                               "cpu (0) or cuda (1)")))
        return status;
    if (d->device == FFTCONV_DEVICE_CPU && d->device_index)
        return fail(FFTCONV_STATUS_INVALID, "device_index is %d, must be 0 where device is cpu (0)",
                    d->device_index);
    if (d->device == FFTCONV_DEVICE_CPU && d->engine)
        return fail(
            FFTCONV_STATUS_INVALID,
            "engine is \"%.32s\", must be NULL where device is cpu (0): isa names how a CPU "
            "computes",
            d->engine);
    if (d->device == FFTCONV_DEVICE_CUDA && d->isa)
        return fail(
            FFTCONV_STATUS_INVALID,
            "isa is \"%.32s\", must be NULL where device is cuda (1): engine names how a GPU "
            "computes",
            d->isa);
    int64_t elements;
    if (__builtin_mul_overflow(d->batch, d->channels, &elements) ||
        __builtin_mul_overflow(elements, d->length, &elements) ||
        elements > (int64_t)1 << SIZE_BITS)
        return fail(FFTCONV_STATUS_INVALID,
                    "batch * channels * length is %lld * %lld * %lld, must be at most 2^58",
                    (long long)d->batch, (long long)d->channels, (long long)d->length);
    if (d->kernels < 0 || (d->kernels && d->channels % d->kernels))
        return fail(FFTCONV_STATUS_INVALID,
                    "kernels is %lld, must divide channels, %lld (or be 0: "
                    "one each)",
                    (long long)d->kernels, (long long)d->channels);
    if (d->kernel_batch != 0 && d->kernel_batch != 1 && d->kernel_batch != d->batch)
        return fail(FFTCONV_STATUS_INVALID, "kernel_batch is %lld, must be 1 or batch, %lld",
                    (long long)d->kernel_batch, (long long)d->batch);
    if (d->mode == FFTCONV_MODE_TWO_SIDED) {
        if ((status = check_size("k_rev_length", d->k_rev_length, ROW_BITS)))
            return status;
    } else if (d->k_rev_length != 0) {
        return fail(FFTCONV_STATUS_INVALID,
                    "k_rev_length is %lld, must be 0 unless mode is "
                    "two_sided (2)",
                    (long long)d->k_rev_length);
    }
    if (d->history && d->mode != FFTCONV_MODE_CAUSAL)
        return fail(FFTCONV_STATUS_INVALID, "history is 1, must be 0 unless mode is causal (0)");
    if (d->history && d->single_block)
        return fail(FFTCONV_STATUS_INVALID, "single_block is 1, must be 0 with history");
    if (d->mode != FFTCONV_MODE_CIRCULAR && d->fft_size != 0)
        return fail(FFTCONV_STATUS_INVALID,
                    "fft_size is %lld, must be 0 unless mode is circular (1): the library "
                    "chooses",
                    (long long)d->fft_size);
    static const char *const form_name[] = {"auto", "right_angle", "folded", "complex"};
    const int only = is_complex(d->dtype)               ? FFTCONV_FORM_COMPLEX
                     : d->mode != FFTCONV_MODE_CIRCULAR ? FFTCONV_FORM_RIGHT_ANGLE
                                                        : FFTCONV_FORM_AUTO;
    if (d->form != FFTCONV_FORM_AUTO && only != FFTCONV_FORM_AUTO && d->form != only)
        return fail(FFTCONV_STATUS_INVALID, "form is %s, must be %s (or auto) %s",
                    form_name[d->form], form_name[only],
                    is_complex(d->dtype) ? "for complex types" : "unless mode is circular (1)");
    if (d->mode == FFTCONV_MODE_CIRCULAR) {
        int64_t N = d->fft_size ? d->fft_size : d->length;
        if ((status = check_size("fft_size", N, ROW_BITS)))
            return status;
        if (d->length > N)
            return fail(FFTCONV_STATUS_INVALID,
                        "length is %lld, must be at most fft_size, %lld, in circular mode",
                        (long long)d->length, (long long)N);
        if (d->k_length > N)
            return fail(FFTCONV_STATUS_INVALID,
                        "k_length is %lld, must be at most fft_size, %lld, in "
                        "circular mode",
                        (long long)d->k_length, (long long)N);
    }
    if (d->weights) {
        const int64_t N = d->fft_size ? d->fft_size : d->length;
        if (d->mode != FFTCONV_MODE_CIRCULAR || is_complex(d->dtype))
            return fail(FFTCONV_STATUS_INVALID, "weights are given, must be NULL unless mode is "
                                                "circular (1) and dtype real");
        if (d->form == FFTCONV_FORM_RIGHT_ANGLE && is_smooth(N))
            return fail(FFTCONV_STATUS_INVALID, "form is right_angle, must be folded, complex or "
                                                "auto with weights");
        for (int64_t m = 0; m <= N / 2; m++)
            if (!isfinite(d->dtype == FFTCONV_DTYPE_FLOAT64 ? d->weights[m] : (float)d->weights[m]))
                return fail(FFTCONV_STATUS_INVALID,
                            "weights[%lld] is %g, must be finite in the "
                            "plan's arithmetic",
                            (long long)m, d->weights[m]);
    }
    if (d->radices) {
        if (d->order < 1)
            return fail(FFTCONV_STATUS_INVALID, "order is %d, must be the number of radices",
                        d->order);
        int64_t product;
        if ((status = check_radices(d->radices, d->order, ROW_BITS, &product)))
            return status;
    }
    return FFTCONV_STATUS_OK;
}

/* One way to compute the operation: M points, and how rows are cut. */
struct way {
    int form, packing;
    int64_t M, places, lead, V, blocks;
    bool wrap;
};

/* Circular, do any products meet beyond the circle's end? */
static bool comes_round(const struct fftconv_plan *plan)
{
    return plan->mode == FFTCONV_MODE_CIRCULAR && plan->L + plan->behind > plan->N;
}

/* Blocks of M points in a form whose length is ours to choose; false where a row
 * does not fit, or not in one. */
static bool cut(const struct fftconv_plan *plan, const fftconv_plan_desc *d, int form, int64_t M,
                struct way *way)
{
    const bool circular = comes_round(plan);
    const int64_t halo = plan->behind + plan->ahead;
    *way = (struct way){.form = form,
                        .M = M,
                        .wrap = circular,
                        .packing = form == FFTCONV_FORM_COMPLEX ? COMPLEX_ROW : LINEAR,
                        .places = form == FFTCONV_FORM_COMPLEX ? M : 2 * M};
    if (!circular && !plan->history && way->places >= plan->L + max64(plan->behind, plan->ahead)) {
        way->V = plan->L;
        way->blocks = 1;
        return true;
    }
    if (way->places <= halo)
        return false;
    way->lead = plan->behind;
    way->V = min64(plan->L, way->places - halo);
    way->blocks = ceil_div(plan->L, way->V);
    return !(d->single_block && way->blocks > 1);
}

static struct request request_of(const struct fftconv_plan *plan, const fftconv_plan_desc *d,
                                 int form, const struct sparsity *sparsity)
{
    return (struct request){.form = form,
                            .lanes = plan->engine->lanes,
                            .real_bytes = plan->engine->real_bytes,
                            .dense = d->dense,
                            .order = d->order,
                            .radices = d->radices,
                            .sparsity = d->weights ? sparsity : NULL};
}

/* Keep this way if it is the cheapest so far. */
static bool is_cheapest(struct fftconv_plan *plan, const struct way *way, double seconds)
{
    if (seconds < 0 || (plan->predicted >= 0 && seconds >= plan->predicted))
        return false;
    plan->predicted = seconds;
    plan->form = way->form;
    plan->parts = 1;
    plan->packing = way->packing;
    plan->places = way->places;
    plan->lead = way->lead;
    plan->V = way->V;
    plan->blocks = way->blocks;
    plan->wrap = way->wrap;
    return true;
}

static void try_way(struct fftconv_plan *plan, const fftconv_plan_desc *d, const struct way *way)
{
    const struct sparsity sparsity = {plan->N, 0, d->weights};
    struct request request = request_of(plan, d, way->form, &sparsity);
    request.both_planes = way->packing != LINEAR || way->lead + way->V > way->M;
    struct xform xf;
    int order;
    int64_t radices[FFTCONV_MAX_ORDER];
    double seconds = plan_xform(&xf, way->M, &request, &order, radices, &plan->status);
    if (seconds < 0)
        return;
    if (!is_cheapest(plan, way, seconds * (double)way->blocks))
        return;
    plan->part[0] = xf;
    plan->order = order;
    memcpy(plan->radices, radices, (size_t)order * sizeof *radices);
}

/* Right angles of N/4, N/8, ... points, as many as pay, and the rest.  Named
 * radices are the first part's. */
static void try_folds(struct fftconv_plan *plan, const fftconv_plan_desc *d, int64_t given)
{
    const int64_t N = plan->N;
    const struct way way = {.form = FFTCONV_FORM_FOLDED,
                            .packing = LINEAR,
                            .M = N / 4,
                            .places = N,
                            .V = plan->L,
                            .blocks = 1};
    struct xform part[MAX_PARTS];
    int order, rest_order;
    int64_t radices[FFTCONV_MAX_ORDER], rest_radices[FFTCONV_MAX_ORDER];
    double angles = 0;
    for (int level = 0; level < MAX_PARTS - 1 && (N >> level) % 4 == 0; level++) {
        const int64_t M = N >> (level + 2);
        struct sparsity sparsity = {N, level, d->weights};
        struct request request = request_of(plan, d, FFTCONV_FORM_RIGHT_ANGLE, &sparsity);
        request.both_planes = true;
        if (level > 0)
            request.radices = NULL, request.order = 0;
        else if (given && given != M)
            return;
        double seconds = plan_xform(&part[level], M, &request, level ? &rest_order : &order,
                                    level ? rest_radices : radices, &plan->status);
        if (seconds < 0)
            return;
        part[level].row = N >> (level + 1);
        /* sums and differences, there and back */
        angles += seconds + 1e-9 * (double)(N >> level) / plan->engine->lanes;
        sparsity.level = level + 1;
        request = request_of(plan, d, FFTCONV_FORM_COMPLEX, &sparsity);
        request.radices = NULL, request.order = 0;
        seconds = plan_xform(&part[level + 1], N >> (level + 1), &request, &rest_order,
                             rest_radices, &plan->status);
        if (seconds < 0)
            return;
        part[level + 1].row = 0;
        if (!is_cheapest(plan, &way, angles + seconds))
            continue;
        plan->parts = level + 2;
        memcpy(plan->part, part, sizeof part);
        plan->order = order;
        memcpy(plan->radices, radices, (size_t)order * sizeof *radices);
    }
}

/* Odd smooth numbers times the power of two that reaches `least`; and, where rows
 * may be cut, shorter lengths down to what the taps allow. */
static void try_cuts(struct fftconv_plan *plan, const fftconv_plan_desc *d, int form)
{
    static const int odd[] = {1, 3, 5, 7, 9, 15, 21, 25, 27, 35, 45, 49, 63, 75, 81, 105};
    enum { ODDS = sizeof odd / sizeof *odd, SHORT_ODDS = 3 };
    const int64_t planes = form == FFTCONV_FORM_COMPLEX ? 1 : 2, halo = plan->behind + plan->ahead;
    const bool whole = !comes_round(plan) && !plan->history;
    const int64_t least = max64(
        1, ceil_div(plan->L + (whole ? max64(plan->behind, plan->ahead) : halo), planes));
    struct way way;
    for (int i = 0; i < ODDS; i++) {
        int64_t M = odd[i];
        while (M < least)
            M *= 2;
        if (M >= 2 && M < 2 * least + 64 && cut(plan, d, form, M, &way))
            try_way(plan, d, &way);
    }
    /* a block of which less than a quarter is new costs more than a longer one */
    const int64_t shortest = max64(16, ceil_div(halo + halo / 3 + 1, planes));
    for (int i = 0; i < SHORT_ODDS && !d->single_block; i++)
        for (int64_t M = odd[i]; M < least; M *= 2)
            if (M >= shortest && cut(plan, d, form, M, &way))
                try_way(plan, d, &way);
}

/* The forms that compute this operation, and of each the length(s) it may have. */
static int choose(struct fftconv_plan *plan, const fftconv_plan_desc *d)
{
    const int64_t N = plan->N;
    const bool any = d->form == FFTCONV_FORM_AUTO, complex = is_complex(plan->dtype);
    const bool circular = plan->mode == FFTCONV_MODE_CIRCULAR;
    int64_t given = 0; /* checked before */
    if (d->radices)
        (void)check_radices(d->radices, d->order, ROW_BITS, &given);

    plan->predicted = -1;
    const int linear = complex ? FFTCONV_FORM_COMPLEX : FFTCONV_FORM_RIGHT_ANGLE;
    struct way way;
    if ((any || d->form == linear) && !d->weights) {
        if (!given)
            try_cuts(plan, d, linear);
        else if (cut(plan, d, linear, given, &way))
            try_way(plan, d, &way);
    }
    if (circular) {
        if ((any || d->form == FFTCONV_FORM_FOLDED) && !complex)
            try_folds(plan, d, given);
        way = (struct way){.form = FFTCONV_FORM_COMPLEX,
                           .packing = complex ? COMPLEX_ROW : LINEAR,
                           .M = N,
                           .places = N,
                           .V = plan->L,
                           .blocks = 1};
        if ((any || d->form == FFTCONV_FORM_COMPLEX) && (!given || given == N))
            try_way(plan, d, &way);
    }
    if (plan->predicted >= 0 || plan->status)
        return plan->status;
    const bool lines = (any || d->form == linear) && !d->weights; /* of length ours */
    const int planes = complex ? 1 : 2;
    const int64_t halo = plan->behind + plan->ahead;
    if (given) {
        char ways[3][64] = {"", "", ""};
        if (lines)
            snprintf(ways[0], sizeof ways[0], " at least %lld for %s;",
                     (long long)(d->single_block
                                     ? ceil_div(plan->L + (comes_round(plan)
                                                               ? halo
                                                               : max64(plan->behind, plan->ahead)),
                                                planes)
                                     : halo / planes + 1),
                     complex ? "complex" : "right_angle");
        if (circular && (any || d->form == FFTCONV_FORM_FOLDED) && N % 4 == 0 && !complex)
            snprintf(ways[1], sizeof ways[1], " %lld for folded;", (long long)(N / 4));
        if (circular && (any || d->form == FFTCONV_FORM_COMPLEX))
            snprintf(ways[2], sizeof ways[2], " %lld for complex;", (long long)N);
        return fail(FFTCONV_STATUS_INVALID,
                    "radices have product %lld, must be the form's complex "
                    "length M:%s%s%s with steps of at most %d",
                    (long long)given, ways[0], ways[1], ways[2], FFTCONV_MAX_RADIX);
    }
    if (d->order && (lines || (is_smooth(N) && (d->form != FFTCONV_FORM_FOLDED || N % 4 == 0))))
        return fail(FFTCONV_STATUS_INVALID,
                    "order is %d, must be large enough for radices up to %d at length %lld",
                    d->order, FFTCONV_MAX_RADIX, (long long)plan->L);
    return fail(FFTCONV_STATUS_INVALID,
                "form is %s, cannot be had for fft_size %lld: folded needs a multiple of 4, "
                "both need one without prime factors above 7 (right_angle takes any)",
                d->form == FFTCONV_FORM_FOLDED ? "folded" : "complex", (long long)N);
}

/* FNV-1a; never 0 */
static uint64_t hash(const void *data, int64_t bytes)
{
    uint64_t h = 14695981039346656037u;
    for (int64_t i = 0; i < bytes; i++)
        h = (h ^ ((const uint8_t *)data)[i]) * 1099511628211u;
    return h ? h : 1;
}

static int build(struct fftconv_plan *plan, const double *weights)
{
    int64_t spectra = 0;
    for (int i = 0; i < plan->parts; i++) {
        const struct sparsity sparsity = {plan->N, i, weights};
        const int status = xform_build(&plan->part[i], weights ? &sparsity : NULL);
        if (status)
            return status;
        plan->part[i].spectra = spectra;
        spectra += plan->part[i].spectra_reals;
    }
    return FFTCONV_STATUS_OK;
}

/* All that a call may hold of each kernel or channel must fit. */
static int check_bytes(const struct fftconv_plan *plan)
{
    int64_t rows, bytes;
    if (__builtin_mul_overflow(plan->KB * plan->chunks, plan->H, &rows) ||
        __builtin_mul_overflow(
            rows, (spectra_reals(plan) + plan->taps) * plan->part[0].real_bytes + 4 * ALIGNMENT,
            &bytes) ||
        bytes > (int64_t)1 << 62)
        return fail(FFTCONV_STATUS_INVALID,
                    "channels is %lld, must be fewer: spectra of %lld numbers "
                    "for each, and each of %lld parts of the batch, must fit in 2^62 bytes",
                    (long long)plan->H, (long long)spectra_reals(plan),
                    (long long)(plan->KB * plan->chunks));
    return FFTCONV_STATUS_OK;
}

/* ---- Choices, and who shares them ------------------------------------------------ */

/* All that a choice depends on. */
struct key {
    const struct engine *engine;
    int64_t L, N, taps, rev_taps, radices[FFTCONV_MAX_ORDER];
    int mode, complex, form, order, dense, history, single_block;
};

struct choice {
    struct choice *next;
    struct key key;
    int plans; /* that use it */
    struct fftconv_plan first;
};

/* Those in use, but for frequency-sparse ones, whose weights are no part of a key. */
static struct choice *choices;
static pthread_mutex_t choices_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_choices(void) { pthread_mutex_lock(&choices_lock); }
static void unlock_choices(void) { pthread_mutex_unlock(&choices_lock); }
/* a child must not find it locked by a thread it does not have */
static void keep_over_fork(void) { pthread_atfork(lock_choices, unlock_choices, unlock_choices); }

static void key_of(const struct fftconv_plan *plan, const fftconv_plan_desc *d, struct key *key)
{
    memset(key, 0, sizeof *key); /* compared byte by byte */
    key->engine = plan->engine;
    key->L = plan->L;
    key->N = plan->N;
    key->taps = plan->taps;
    key->rev_taps = plan->rev_taps;
    for (int i = 0; d->radices && i < d->order; i++)
        key->radices[i] = d->radices[i];
    key->mode = plan->mode;
    key->complex = is_complex(plan->dtype);
    key->form = d->form;
    key->order = d->order;
    key->dense = d->dense;
    key->history = d->history;
    key->single_block = d->single_block;
}

static void take_choice(struct fftconv_plan *plan, const struct fftconv_plan *from)
{
    const size_t begin = offsetof(struct fftconv_plan, part),
                 end = offsetof(struct fftconv_plan, chosen);
    memcpy((char *)plan + begin, (const char *)from + begin, end - begin);
}

static int choose_or_share(struct fftconv_plan *plan, const fftconv_plan_desc *d)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct key key;
    int status;
    pthread_once(&once, keep_over_fork);
    key_of(plan, d, &key);
    lock_choices();
    struct choice *c = d->weights ? NULL : choices;
    while (c && memcmp(&c->key, &key, sizeof key) != 0)
        c = c->next;
    if (c) {
        c->plans++;
        take_choice(plan, &c->first);
        plan->chosen = c;
    }
    unlock_choices();
    if (c)
        return FFTCONV_STATUS_OK;
    if ((status = choose(plan, d)) || (status = build(plan, d->weights)))
        return status;
    if (!(c = calloc(1, sizeof *c)))
        return fail_memory(sizeof *c);
    memcpy(&c->key, &key, sizeof key); /* with its padding, which is compared too */
    c->plans = 1;
    take_choice(&c->first, plan);
    plan->chosen = c;
    if (!d->weights) {
        lock_choices();
        c->next = choices;
        choices = c;
        unlock_choices();
    }
    return FFTCONV_STATUS_OK;
}

static void leave_choice(struct fftconv_plan *plan)
{
    struct choice *c = plan->chosen;
    if (c) {
        lock_choices();
        const bool last = --c->plans == 0;
        struct choice **at = &choices;
        while (last && *at && *at != c)
            at = &(*at)->next;
        if (last && *at)
            *at = c->next;
        unlock_choices();
        if (!last)
            return;
    }
    for (int i = 0; i < plan->parts; i++)
        xform_clear(&plan->part[i]);
    free(c);
}

/* Bytes of a row for each of its tiles; 0 where looking ahead is of no use: rows in
 * blocks, rows that are in a cache, and where a transform leaves no room in it. */
static int64_t bytes_ahead(const struct fftconv_plan *plan)
{
    const int64_t row = plan->L * dtype_size(plan->dtype);
    int64_t tiles = 0;
    for (int i = 0; i < plan->parts; i++)
        tiles += plan->part[i].M / (plan->part[i].lanes * plan->part[i].lanes) *
                 plan->part[i].kept / plan->part[i].stage[0].radix;
    if (plan->blocks > 1 || stage_level(&plan->part[0], 0) > 1 || row > cache_bytes(2) ||
        (double)plan->B * (double)plan->H * (double)row < (double)cache_bytes(2) / 2)
        return 0;
    return ceil_div(row, max64(1, tiles));
}

/* Stages ask for their rows before their time where those are in no cache: a block ahead,
 * where it, its gates and outputs are a part of the second cache; else 2 KB, in tiles of
 * 256 bytes of a row, so that the requests come evenly. */
static void ask_ahead(struct fftconv_plan *plan)
{
    const double rows = (double)plan->B * (double)plan->H * (double)plan->L;
    for (int i = 0; i < plan->parts; i++) {
        struct xform *xf = &plan->part[i];
        const int64_t bytes = xf->real_bytes;
        const bool folded = plan->parts > 1 && 2 * plan->places * bytes >= cache_bytes(2);
        if (stage_level(xf, 0) < 2 && !folded &&
            (plan->blocks == 1 || rows * (double)bytes < (double)cache_bytes(2) / 2))
            continue;
        const bool block = plan->blocks > 1 && plan->V * bytes <= cache_bytes(2) / 8;
        xf->ahead = block ? plan->V : 2048 / bytes;
        xf->ahead_columns = block ? xf->tile_columns
                                  : max64(1, min64(xf->tile_columns, 256 / (xf->lanes * bytes)));
    }
}

/* What the descriptor says of shapes, and what follows from it on any device. */
static void take_shapes(struct fftconv_plan *plan, const fftconv_plan_desc *d)
{
    plan->B = d->batch;
    plan->H = d->channels;
    plan->L = d->length;
    plan->Lk = d->k_length;
    plan->Lrev = d->k_rev_length;
    plan->mode = d->mode;
    plan->dtype = d->dtype;
    plan->dense = d->dense;
    plan->threads = d->threads ? d->threads : fftconv_default_threads();
    plan->N = d->fft_size ? d->fft_size : d->length;
    plan->G = d->kernels ? d->kernels : d->channels;
    plan->KB = d->kernel_batch ? d->kernel_batch : 1;
    plan->members = plan->H / plan->G;
    plan->history = d->history;
    /* taps beyond a row's length meet zeros only; not those that come round, nor
     * with samples from before */
    const bool all = d->mode == FFTCONV_MODE_CIRCULAR || d->history;
    plan->taps = all ? d->k_length : min64(d->k_length, d->length);
    plan->rev_taps = min64(d->k_rev_length, d->length);
    const int64_t kernels = plan->KB * plan->G;
    plan->chunks = kernels >= 8 ? 1
                                : min64(plan->members * (plan->B / plan->KB), ceil_div(8, kernels));
    plan->kept = 1;
}

/* Weights of the frequencies: the work of the stages; or, on a circle whose length they do
 * not have, of a filter that acts on the kernel beforehand and leaves fft_size taps of it. */
static int take_weights(struct fftconv_plan *plan, fftconv_plan_desc *d)
{
    int64_t bins = 0;
    for (int64_t m = 0; m <= plan->N / 2; m++) /* a bin and its mirror */
        bins += d->weights[m] == 0 ? 0 : m == 0 || 2 * m == plan->N ? 1 : 2;
    plan->kept = (double)bins / (double)plan->N;
    plan->pattern = hash(d->weights, (plan->N / 2 + 1) * (int64_t)sizeof *d->weights);
    if (is_smooth(plan->N))
        return FFTCONV_STATUS_OK;
    const double *weights = d->weights;
    d->weights = NULL;
    plan->taps = plan->N;
    return filter_create(&plan->filter, plan->N, weights, plan->engine->isa);
}

static int make_cpu_plan(struct fftconv_plan *plan, const fftconv_plan_desc *given)
{
    fftconv_plan_desc d = *given;
    const bool wide = dtype_size(d.dtype) >= 8 && d.dtype != FFTCONV_DTYPE_COMPLEX64;
    int status = find_engine(d.isa, wide ? 8 : 4, &plan->engine);
    if (status || (d.weights && (status = take_weights(plan, &d))))
        return status;
    plan->behind = plan->taps - 1;
    plan->ahead = max64(0, plan->rev_taps - 1);
    if ((status = choose_or_share(plan, &d)) || (status = check_bytes(plan)))
        return status;
    plan->fetched = bytes_ahead(plan);
    ask_ahead(plan);
    /* about four products a cycle, and as many outputs as a block has at most */
    if (plan->history && !is_complex(plan->dtype))
        plan->direct = min64(plan->V, (int64_t)(plan->predicted / (double)plan->blocks * 1.4e10 /
                                                (double)plan->taps));
    return FFTCONV_STATUS_OK;
}

int fftconv_plan_create(fftconv_plan **out, const fftconv_plan_desc *d)
{
    int status;
    if (!out)
        return fail(FFTCONV_STATUS_INVALID, "plan is NULL, must point at a place for the plan");
    *out = NULL;
    if ((status = check_desc(d)))
        return status;
    struct fftconv_plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return fail_memory(sizeof *plan);
    take_shapes(plan, d);
    status = d->device == FFTCONV_DEVICE_CUDA ? cuda_plan_create(plan, d) : make_cpu_plan(plan, d);
    if (status)
        fftconv_plan_destroy(plan);
    else
        *out = plan;
    return status;
}

void fftconv_plan_destroy(fftconv_plan *plan)
{
    if (plan) {
        cuda_plan_destroy(plan->cuda);
        filter_destroy(plan->filter);
        leave_choice(plan);
    }
    free(plan);
}

int64_t spectra_reals(const struct fftconv_plan *plan)
{
    const struct xform *last = &plan->part[plan->parts - 1];
    return last->spectra + last->spectra_reals;
}

int resolve_threads(const struct fftconv_plan *plan, int threads, int *out)
{
    if (threads < 0 || threads > 255)
        return fail(FFTCONV_STATUS_INVALID, "threads is %d, must be 0 (the plan's) ... 255",
                    threads);
    *out = threads ? threads : plan->threads;
    return FFTCONV_STATUS_OK;
}

/* Bytes at the cursor, rounded up; returns where they begin. */
static int64_t take(int64_t *cursor, int64_t bytes)
{
    const int64_t at = *cursor;
    *cursor += round_up(bytes, ALIGNMENT);
    return at;
}

/* Threads go over rows where there are enough of them, else inside one row. */
struct layout layout_of(const struct fftconv_plan *plan, const struct shape_of_call *call)
{
    const struct xform *xf = &plan->part[0];
    const bool forward = call->direction == FFTCONV_DIRECTION_FORWARD;
    const int64_t reals = (1 + is_complex(plan->dtype)) * xf->real_bytes; /* of an element */
    struct layout l = {.call = *call, .inside = 1, .tile = 1, .kernels = 1};

    /* A tile is of channels beside each other: with a kernel each, those kernels
     * are taken together; else it lies within a kernel's channels. */
    if (call->tiled)
        l.tile = (int)min64(TILE, plan->members > 1 ? plan->members : plan->H);
    if (plan->members == 1)
        l.tile = l.kernels = (int)min64(l.tile, ceil_div(plan->H, call->threads));
    l.kernel_tasks = plan->KB * ceil_div(plan->G, l.kernels);
    l.runs = plan->B / plan->KB * (plan->members > 1 ? ceil_div(plan->members, l.tile) : 1);
    l.segments = 1;
    int64_t tasks = l.kernel_tasks * (forward ? l.runs : plan->chunks);
    if (forward && !call->in_place && tasks < 4 * call->threads)
        l.segments = min64(plan->blocks, ceil_div(4 * call->threads, tasks));
    tasks = call->rows ? call->rows : tasks * l.segments;
    const bool uneven = tasks < call->threads ||
                        (tasks % call->threads && tasks < 4 * call->threads);
    l.threads = (int)min64(call->threads, tasks);
    if (xf->depth > 0 && xf->M >= 16384 && uneven)
        l.threads = 1, l.inside = call->threads;
    l.by_kernel = !call->prepared && l.inside == 1 &&
                  (forward ? l.kernel_tasks >= l.threads : plan->chunks == 1);
    l.whole = forward && (l.by_kernel || (l.segments == 1 && l.inside == 1 &&
                                          (l.threads == 1 || l.kernel_tasks >= 4 * l.threads)));

    l.spectra = round_up(spectra_reals(plan) * xf->real_bytes, ALIGNMENT);
    int64_t x = 0, scratch = 0;
    for (int i = 0; i < plan->parts; i++) {
        x = max64(x, plan->part[i].x_reals);
        scratch = max64(scratch, plan->part[i].scratch_reals);
    }
    l.scratch_bytes = round_up(scratch * xf->real_bytes, ALIGNMENT);
    const int64_t window = min64(plan->places, plan->L);
    const bool halo = plan->blocks > 1 || plan->wrap;
    l.carry_bytes = halo ? round_up((plan->behind + plan->ahead) * reals, ALIGNMENT) : 0;
    l.wrap_bytes = plan->wrap ? round_up(plan->behind * reals, ALIGNMENT) : 0;

    int64_t *at = &l.worker;
    l.x = take(at, x * xf->real_bytes);
    if (plan->parts > 1)
        l.row = take(at, plan->places * reals);
    l.scratch = take(at, l.scratch_bytes * l.inside);
    if (l.by_kernel)
        l.made = take(at, l.spectra * l.kernels);
    if ((plan->rev_taps || plan->filter) && (!call->prepared || !forward))
        l.taps = take(at, plan->places * reals);
    if (plan->filter && (!call->prepared || !forward)) /* a row, and its bins */
        l.filter = take(at, (plan->N + 2 * (plan->N / 2 + 1)) * (int64_t)sizeof(double));
    if (!forward) {
        l.z = take(at, l.spectra);
        l.g = take(at, l.spectra);
        l.p = take(at, plan->V * reals);
        l.dz = take(at, (halo ? plan->places : plan->L) * reals);
        l.split = plan->chunks * plan->KB > 1;
        if (plan->chunks == 1)
            l.sum = take(at, l.spectra * l.kernels);
        if (!l.split)
            l.dskips = take(at, l.kernels * plan->members * (int64_t)sizeof(struct scalar));
        l.carry = take(at, l.carry_bytes * l.tile);
        l.wrapped = take(at, l.wrap_bytes * l.tile);
    }
    if (plan->direct && call->prepared)
        l.direct = take(at, (plan->taps + plan->direct + 2 * xf->lanes) * reals);
    for (int i = 0; i < ROW_OPERANDS; i++)
        if (call->staged[i]) {
            const bool input = i == U || i == IN_GATE || i == DU || i == DIN_GATE;
            /* an odd number of lines, so that rows do not meet in one set of a cache */
            l.stage_bytes[i] = round_up((input ? window : plan->V) * dtype_size(plan->dtype),
                                        2 * ALIGNMENT) +
                               ALIGNMENT;
            l.stage[i] = take(at, l.stage_bytes[i] * l.tile);
        }

    if (!call->prepared && !l.by_kernel)
        l.shared_spectra = take(&l.shared, plan->KB * plan->G * l.spectra);
    if (!forward) {
        if (plan->chunks > 1)
            l.shared_sums = take(&l.shared, plan->KB * plan->G * plan->chunks * l.spectra);
        if (l.split)
            l.shared_dskips = take(&l.shared, plan->KB * plan->chunks * plan->H *
                                                  (int64_t)sizeof(struct scalar));
    }
    l.total = l.shared + l.worker * l.threads;
    return l;
}

int64_t plain_workspace_bytes(const struct fftconv_plan *plan, int direction, int threads)
{
    struct shape_of_call call = {.direction = direction, .threads = threads};
    const int64_t bytes = layout_of(plan, &call).total;
    call.prepared = true;
    return max64(bytes, layout_of(plan, &call).total);
}

int fftconv_plan_get_info(const fftconv_plan *plan, fftconv_plan_info *info)
{
    if (!plan || !info)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", plan ? "info" : "plan");
    if (info->size != sizeof *info)
        return fail(FFTCONV_STATUS_INVALID, "info->size is %zu, must be %zu", info->size,
                    sizeof *info);
    const double rows = (double)plan->B * (double)plan->H;
    memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    info->mode = plan->mode;
    info->dtype = plan->dtype;
    info->dense = plan->dense;
    info->threads = plan->threads;
    info->fft_size = plan->mode == FFTCONV_MODE_CIRCULAR ? plan->N : 0;
    info->io_bytes = rows * (double)plan->L * 2 * dtype_size(plan->dtype);
    info->kept = plan->kept;
    if (plan->cuda) {
        cuda_plan_describe(plan, info);
        return FFTCONV_STATUS_OK;
    }
    const struct xform *xf = &plan->part[0];
    const double blocks = rows * (double)plan->blocks;
    info->form = plan->form;
    info->lanes = xf->lanes;
    info->padded_length = plan->places;
    info->transform_length = xf->M;
    info->order = plan->order;
    memcpy(info->radices, plan->radices, (size_t)plan->order * sizeof *plan->radices);
    double level[3] = {0}, points = 0, computed = 0;
    for (int i = 0; i < plan->parts; i++) {
        xf = &plan->part[i];
        const double M = (double)xf->M, kept = (double)xf->kept / xf->stage[0].radix;
        for (int l = 0; l < xf->stages; l++) {
            const struct stage *st = &xf->stage[l];
            if (i == 0)
                info->stage_radices[l] = st->radix;
            const double twiddles = l < xf->stages - 1 ? 6.0 * (st->radix - 1) / st->radix : 0;
            double live = l < xf->split ? 0 : xf->computed;
            for (int64_t b = 0; l < xf->split && b < st->blocks; b++)
                live += (st->live ? st->live[b] != NOTHING : 1) / (double)st->blocks;
            live *= l > 0 ? kept : 1;
            info->stage_flops[min64(l, plan->part[0].stages - 1)] +=
                2 * blocks * live * M * (radix_flops(st->radix, st->dense) + twiddles);
            /* both directions read and write M complex points */
            level[stage_level(xf, l)] += blocks * live * 4 * M * 2 * xf->real_bytes;
        }
        info->product_flops += 6 * blocks * M * xf->computed * kept;
        if (i < plan->parts - 1) /* sums and differences, there and back */
            info->fold_flops += blocks * 8 * M;
        points += M;
        computed += M * xf->computed;
    }
    info->stages = plan->part[0].stages;
    info->l1_bytes = level[0];
    info->l2_bytes = level[1];
    info->memory_bytes = level[2];
    info->spectrum_bytes = plan->KB * plan->G * xf->real_bytes *
                           (spectra_reals(plan) +
                            (plan->direct ? round_up(plan->taps, xf->lanes) : 0));
    info->spectra_row_bytes = spectra_reals(plan) * xf->real_bytes;
    info->forward_workspace_bytes = plain_workspace_bytes(plan, FFTCONV_DIRECTION_FORWARD,
                                                          plan->threads);
    info->backward_workspace_bytes = plain_workspace_bytes(plan, FFTCONV_DIRECTION_BACKWARD,
                                                           plan->threads);
    info->predicted_seconds = plan->predicted * rows;
    info->isa = plan->engine->isa;
    info->blocks = plan->blocks;
    info->block_length = plan->V;
    info->computed = computed / points;
    return FFTCONV_STATUS_OK;
}
