/* The cost model of Monarch decompositions, Equation 2 of FlashFFTConv (arXiv 2311.05908), and
 * the machines whose costs it can tell. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The A100 is Table 19 of the paper, which was measured.  The H100 SXM is not measured: its
 * numbers are the peaks of NVIDIA's datasheet (HBM3, dense float16 and float32) and, for the
 * SRAM, 128 bytes a clock for each of 132 multiprocessors at the 1.83 GHz of those peaks. */
static const fftconv_hardware machines[] = {
    {sizeof(fftconv_hardware), "A100", 1.35e12, 9.5e12, 234e12, 17.6e12, 16, 32768, 1, 0},
    {sizeof(fftconv_hardware), "H100", 3.35e12, 30.9e12, 989e12, 66.9e12, 16, 32768, 0, 0},
};
enum { MACHINES = sizeof machines / sizeof machines[0] };

const char *fftconv_hardware_name(int index)
{
    return index >= 0 && index < MACHINES ? machines[index].name
           : index == MACHINES            ? "host"
                                          : NULL;
}

static int check_hardware(const fftconv_hardware *h)
{
    if (!h)
        return fail(FFTCONV_STATUS_INVALID, "hardware is NULL");
    if (h->size != sizeof *h)
        return fail(FFTCONV_STATUS_INVALID, "hardware->size is %zu, must be %zu", h->size,
                    sizeof *h);
    if (!(h->sigma_h > 0 && h->sigma_s > 0 && h->tau_m > 0 && h->tau_g > 0))
        return fail(FFTCONV_STATUS_INVALID,
                    "hardware has sigma_h %g, sigma_s %g, tau_m %g, tau_g %g, must be positive",
                    h->sigma_h, h->sigma_s, h->tau_m, h->tau_g);
    if (h->mu < 1 || h->fast_points < 1)
        return fail(FFTCONV_STATUS_INVALID,
                    "hardware has mu %lld, fast_points %lld, must be positive", (long long)h->mu,
                    (long long)h->fast_points);
    return FFTCONV_STATUS_OK;
}

static double cost_of(const int64_t *radices, int order, const fftconv_hardware *h)
{
    double N = 1, seconds = 0;
    for (int i = 0; i < order; i++)
        N *= (double)radices[i];
    double rest = N; /* the length that is still to be transformed */
    for (int i = 0; i < order; i++) {
        double gamma = radices[i] < h->mu ? h->tau_g : h->tau_m;
        double omega = rest > (double)h->fast_points ? h->sigma_h : h->sigma_s;
        seconds += 16 * N * (double)radices[i] / gamma + 4 * N / omega;
        rest /= (double)radices[i];
    }
    return seconds;
}

int fftconv_monarch_cost(const int64_t *radices, int order, const fftconv_hardware *hardware,
                         double *seconds)
{
    int status = check_hardware(hardware);
    if (status)
        return status;
    if (!radices || !seconds)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", radices ? "seconds" : "radices");
    if (order < 1 || order > FFTCONV_MAX_ORDER)
        return fail(FFTCONV_STATUS_INVALID, "order is %d, must be 1 ... %d", order,
                    FFTCONV_MAX_ORDER);
    int64_t product = 1;
    for (int i = 0; i < order; i++) {
        if (radices[i] < 1)
            return fail(FFTCONV_STATUS_INVALID, "radices[%d] is %lld, must be positive", i,
                        (long long)radices[i]);
        if (__builtin_mul_overflow(product, radices[i], &product))
            return fail(FFTCONV_STATUS_INVALID,
                        "radices have a product above 2^63, must be below that");
    }
    *seconds = cost_of(radices, order, hardware);
    return FFTCONV_STATUS_OK;
}

static int check_power(int64_t n, int order, const int64_t *radices)
{
    if (!radices)
        return fail(FFTCONV_STATUS_INVALID, "radices is NULL");
    if (n < 2 || (n & (n - 1)))
        return fail(FFTCONV_STATUS_INVALID, "n is %lld, must be a power of two, at least 2",
                    (long long)n);
    int bits = __builtin_ctzll((unsigned long long)n);
    if (order < 1 || order > FFTCONV_MAX_ORDER || order > bits)
        return fail(FFTCONV_STATUS_INVALID, "order is %d, must be 1 ... %d for n = %lld", order,
                    bits < FFTCONV_MAX_ORDER ? bits : FFTCONV_MAX_ORDER, (long long)n);
    return FFTCONV_STATUS_OK;
}

int fftconv_balanced_radices(int64_t n, int order, int64_t *radices)
{
    int status = check_power(n, order, radices);
    if (status)
        return status;
    const int bits = __builtin_ctzll((unsigned long long)n);
    for (int i = 0; i < order; i++)
        radices[i] = (int64_t)1 << (bits / order + (i < bits % order));
    return FFTCONV_STATUS_OK;
}

/* Tries all radices 2^b for i and those after it whose product is 2^bits, each at least 2, and
 * keeps the cheapest in *best and radices. */
static void descend(int i, int bits, int order, int64_t *trial, const fftconv_hardware *h,
                    double *best, int64_t *radices)
{
    if (i == order - 1) {
        trial[i] = (int64_t)1 << bits;
        double cost = cost_of(trial, order, h);
        if (cost < *best) {
            *best = cost;
            memcpy(radices, trial, (size_t)order * sizeof *radices);
        }
        return;
    }
    for (int b = bits - (order - 1 - i); b >= 1; b--) {
        trial[i] = (int64_t)1 << b;
        descend(i + 1, bits - b, order, trial, h, best, radices);
    }
}

int fftconv_best_radices(int64_t n, int order, const fftconv_hardware *hardware, int64_t *radices)
{
    int64_t trial[FFTCONV_MAX_ORDER];
    double best = 1e300;
    int status = check_power(n, order, radices);
    if (status || (status = check_hardware(hardware)))
        return status;
    if (order > 6)
        return fail(FFTCONV_STATUS_INVALID, "order is %d, must be 1 ... 6 to search all radices",
                    order);
    descend(0, __builtin_ctzll((unsigned long long)n), order, trial, hardware, &best, radices);
    return FFTCONV_STATUS_OK;
}

/* ---- One core of this machine, in the same four numbers --------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The least seconds of a call, of all calls within a budget of seconds: the least is the time
 * on a machine that nothing else disturbs. */
static double fastest(void (*fn)(void *), void *context, double budget)
{
    double best = 1e300, end = now() + budget;
    do {
        double t = now();
        fn(context);
        t = now() - t;
        best = t < best ? t : best;
    } while (now() < end);
    return best;
}

struct copy_job {
    char *to, *from;
    size_t bytes;
    int repeats;
};

static void copy(void *context)
{
    struct copy_job *job = context;
    for (int i = 0; i < job->repeats; i++) {
        memcpy(job->to, job->from, job->bytes);
        __asm__ volatile("" ::: "memory"); /* so that no copy is left out */
    }
}

struct stage_job {
    const struct engine *engine;
    struct stage *stage;
    void *t;
    int repeats;
};

static void run_stage(void *context)
{
    struct stage_job *job = context;
    for (int i = 0; i < job->repeats; i++)
        job->engine->transform.column_stages(job->stage, 1, job->t);
}

/* The flop/s of a stage of n points in every lane, with its data in the first or second
 * cache. */
static int stage_rate(const struct engine *engine, int64_t radix, int64_t n, bool dense,
                      double *rate)
{
    struct stage stage[2] = {{0}};
    const int64_t radices[2] = {radix, n / radix};
    void *t = aligned_new(n * 2 * engine->lanes * engine->real_bytes);
    int status = t ? stages_build(stage, 2, radices, dense, engine->real_bytes)
                   : fail_memory(n * 2 * engine->lanes * engine->real_bytes);
    if (!status) {
        memset(t, 0, (size_t)(n * 2 * engine->lanes * engine->real_bytes));
        struct stage_job job = {engine, stage, t, 16};
        double flops = ((dense ? 8.0 * (double)radix : radix_flops((int)radix, false)) +
                        6.0 * (double)(radix - 1) / (double)radix) *
                       (double)n * engine->lanes * job.repeats;
        *rate = flops / fastest(run_stage, &job, 0.05);
    }
    stages_clear(stage, 2);
    aligned_free(t);
    return status;
}

/* tau_m is the rate of a dense stage of radix 32, and tau_g that of a codelet of radix 4 with
 * its twiddles.  sigma_s and sigma_h are the bytes read plus the bytes written by copies within
 * the second cache and far beyond every cache: that is how bandwidths are quoted. */
static int measure_host(fftconv_hardware *h)
{
    const struct engine *engine;
    int status = find_engine(NULL, 4, &engine);
    if (status || (status = stage_rate(engine, 32, 1024, true, &h->tau_m)) ||
        (status = stage_rate(engine, 4, 256, false, &h->tau_g)))
        return status;
    const size_t small = 96 << 10, large = 96 << 20;
    char *memory = aligned_new(2 * (int64_t)large);
    if (!memory)
        return fail_memory(2 * (int64_t)large);
    memset(memory, 1, 2 * large);
    struct copy_job in_cache = {memory, memory + small, small, 200};
    struct copy_job in_memory = {memory, memory + large, large, 1};
    h->sigma_s = 2.0 * (double)small * in_cache.repeats / fastest(copy, &in_cache, 0.05);
    h->sigma_h = 2.0 * (double)large / fastest(copy, &in_memory, 0.15);
    aligned_free(memory);
    /* The longest row of complex64 that stays in the second cache. */
    long cache = -1;
#ifdef _SC_LEVEL2_CACHE_SIZE
    cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    h->fast_points = 1024;
    while (h->fast_points * 2 * 8 <= (cache > 0 ? cache : 1 << 20))
        h->fast_points *= 2;
    h->mu = 16;
    h->measured = 1;
    snprintf(h->name, sizeof h->name, "host");
    return FFTCONV_STATUS_OK;
}

int fftconv_hardware_get(const char *name, fftconv_hardware *hardware)
{
    if (!name || !hardware)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL", name ? "hardware" : "name");
    if (hardware->size != sizeof *hardware)
        return fail(FFTCONV_STATUS_INVALID, "hardware->size is %zu, must be %zu", hardware->size,
                    sizeof *hardware);
    for (int i = 0; i < MACHINES; i++)
        if (strcmp(name, machines[i].name) == 0) {
            *hardware = machines[i];
            return FFTCONV_STATUS_OK;
        }
    if (strcmp(name, "host") == 0)
        return measure_host(hardware);
    return fail(FFTCONV_STATUS_INVALID, "name is \"%.32s\", must be A100, H100 or host", name);
}
