/* Compares the CPU engine with FFTW and with the peak rates of this machine.
 *
 * The operation is y = u * k, causal, float32, with u (B, H, L) and FFTs of 2L points, on one
 * thread; both sides make the spectrum of k beforehand.  If FFTW was found, `fftw_rows` runs
 * it row by row, as a careful user of FFTW would.  Every method's result is compared with a
 * float64 FFT before the methods are timed, in turn.
 *
 *     bench_cpu [--quick | --full] [--length L]... [--isa NAME]... [--no-fftw]
 *               [--plans N] [--plan-up-to L] [--wisdom DIR] [--commit TEXT]
 *               [--json FILE]
 *
 * A table goes to stderr, and JSON to FILE or stdout.
 *
 *     --isa         an instruction set of the library to run; default: the machine's best,
 *                   and avx2
 *     --plans       how many times FFTW plans each size; the fastest plan is used
 *     --wisdom      the directory that stores FFTW's plans from one run to the next
 *     --plan-up-to  the longest rows that FFTW plans (default: any; with --quick: 2^16), because
 *                   planning 2^21 points takes minutes; longer rows are measured without
 *                   FFTW, unless --wisdom has its plans
 */
#include "config.h"

#include "bench_kernels.h"
#include "fftconv.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#ifdef HAVE_FFTW
#include <fftw3.h>
#endif

#define ERROR_LIMIT 5e-7 /* the largest error of a row, as worst_error defines it */

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("bench_cpu: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void need(int status)
{
    if (status)
        die("%s", fftconv_last_error());
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void) { return seconds(CLOCK_MONOTONIC); }

/* Allocates zeroed memory; writing the zeros also maps its pages. */
static void *memory(int64_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, 4096, (size_t)bytes))
        die("no memory: %lld bytes", (long long)bytes);
    return memset(p, 0, (size_t)bytes);
}

/* Fills x with numbers uniform in [-1, 1). */
static void randomise(float *x, int64_t count, uint64_t seed)
{
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;
    for (int64_t i = 0; i < count; i++) {
        s ^= s << 13, s ^= s >> 7, s ^= s << 17;
        x[i] = (float)((double)(s >> 40) * 0x1p-23 - 1);
    }
}

/* ---- Options -------------------------------------------------------------------- */

enum { MOST = 16 };

static struct {
    const char *grid, *wisdom, *commit, *json;
    int lengths, isas, plans, samples;
    int64_t planned; /* the longest rows that FFTW plans */
    int64_t length[MOST];
    const char *isa[MOST];
    bool fftw;
    double sample; /* seconds of one sample */
} options = {.grid = "default", .commit = "unknown", .fftw = true};

static void parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (!strcmp(name, "--quick") || !strcmp(name, "--full")) {
            options.grid = name + 2;
            continue;
        }
        if (!strcmp(name, "--no-fftw")) {
            options.fftw = false;
            continue;
        }
        const char *value = i + 1 < argc ? argv[++i] : NULL;
        if (!value)
            die("%s is unknown, or lacks its value; see the top of bench_cpu.c", name);
        if (!strcmp(name, "--length") && options.lengths < MOST) {
            const long long length = atoll(value);
            if (length < 1 || length > 1 << 24)
                die("--length is %s, must be 1 ... 2^24", value);
            options.length[options.lengths++] = length;
        } else if (!strcmp(name, "--isa") && options.isas < MOST) {
            if (!fftconv_isa_available(value))
                die("--isa is %s, which this build or machine does not have", value);
            options.isa[options.isas++] = value;
        } else if (!strcmp(name, "--plans")) {
            if ((options.plans = atoi(value)) < 1)
                die("--plans is %s, must be at least 1", value);
        } else if (!strcmp(name, "--plan-up-to")) {
            options.planned = atoll(value);
        } else if (!strcmp(name, "--wisdom")) {
            options.wisdom = value;
        } else if (!strcmp(name, "--commit")) {
            options.commit = value;
        } else if (!strcmp(name, "--json")) {
            options.json = value;
        } else {
            die("%s is unknown, or given too often; see the top of bench_cpu.c", name);
        }
    }
    const bool quick = !strcmp(options.grid, "quick"), full = !strcmp(options.grid, "full");
    options.samples = quick ? 5 : full ? 15 : 9;
    options.sample = quick ? 2e-3 : full ? 20e-3 : 8e-3;
    if (!options.planned)
        options.planned = quick ? 1 << 16 : INT64_MAX;
    if (!options.plans)
        options.plans = quick ? 1 : 3;
    if (!options.lengths)
        for (int64_t length = 256; length <= 1 << 20; length *= 4)
            options.length[options.lengths++] = length;
    if (!options.isas) {
        const char *best = fftconv_isa_name(0);
        for (int i = 0; !fftconv_isa_available(best); i++)
            best = fftconv_isa_name(i);
        options.isa[options.isas++] = best;
        if (strcmp(best, "avx2") && fftconv_isa_available("avx2"))
            options.isa[options.isas++] = "avx2";
    }
}

/* ---- The machine ---------------------------------------------------------------- */

extern const struct kernels bench_kernels_baseline;
#ifdef FFTCONV_HAVE_AVX2
extern const struct kernels bench_kernels_avx2;
#endif
#ifdef FFTCONV_HAVE_AVX512
extern const struct kernels bench_kernels_avx512;
#endif

/* The kernels of an instruction set.  "wide" has only baseline instructions, so it gets the
 * baseline's kernels. */
static const struct kernels *kernels_of(const char *isa)
{
    static const struct kernels *const table[] = {
#ifdef FFTCONV_HAVE_AVX512
        &bench_kernels_avx512,
#endif
#ifdef FFTCONV_HAVE_AVX2
        &bench_kernels_avx2,
#endif
        &bench_kernels_baseline,
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i]->isa, isa))
            return table[i];
    return &bench_kernels_baseline;
}

enum level { L1, L2, L3, DRAM, LEVELS };
static const char *const level_name[LEVELS] = {"l1", "l2", "l3", "memory"};
static int64_t cache[LEVELS]; /* bytes; unlimited for DRAM */

/* Cache sizes as Linux reports them in /sys, which has precedence over the C library: on some
 * virtual machines the latter reports wrong sizes. */
static void find_caches(void)
{
    const int name[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
    const int64_t usual[] = {32 << 10, 1 << 20, 16 << 20};
    for (int i = L1; i < DRAM; i++) {
        const long bytes = sysconf(name[i]);
        cache[i] = bytes > 0 ? bytes : usual[i];
    }
    cache[DRAM] = INT64_MAX;
    for (int i = 0; i < 8; i++) {
        const char *const part[] = {"level", "type", "size"};
        char text[3][32] = {"", "", ""};
        for (int j = 0; j < 3; j++) {
            char path[96];
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", i,
                     part[j]);
            FILE *file = fopen(path, "r");
            if (file && !fgets(text[j], sizeof text[j], file))
                text[j][0] = 0;
            if (file)
                fclose(file);
        }
        const int level = atoi(text[0]) - 1;
        const long long kib = atoll(text[2]);
        if (level >= L1 && level < DRAM && kib > 0 && strncmp(text[1], "Instruction", 11))
            cache[level] = kib << 10;
    }
}

/* The first level of the memory hierarchy that holds so many bytes. */
static enum level level_of(double bytes)
{
    int i = L1;
    while (bytes > (double)cache[i])
        i++;
    return i;
}

static struct peak {
    const struct kernels *kernels;
    double add, fma, mixed;             /* flop/s */
    double copy[LEVELS], triad[LEVELS]; /* bytes read plus written, per second */
} peak[MOST];

static double rate(double (*work)(int64_t), double budget)
{
    double best = 0;
    for (double end = now() + budget; now() < end;) {
        const double t = now(), flops = work(100000);
        best = fmax(best, flops / (now() - t));
    }
    return best;
}

static void measure_peaks(void)
{
    const double budget = !strcmp(options.grid, "quick") ? 0.03 : 0.2;
    int64_t most = 4 * cache[L3] < 256 << 20 ? 4 * cache[L3] : 256 << 20;
    float *data = memory(most);
    for (int i = 0; i < options.isas; i++) {
        struct peak *p = &peak[i];
        const struct kernels *kn = p->kernels = kernels_of(options.isa[i]);
        p->add = rate(kn->add, budget);
        p->fma = rate(kn->fma, budget);
        p->mixed = rate(kn->mixed, budget);
        for (int level = L1; level < LEVELS; level++) {
            /* The arrays fill half of a cache; of L3, which is shared, an eighth, but at
             * least three times the size of L2. */
            int64_t bytes = level == DRAM ? most : cache[level] / (level == L3 ? 8 : 2);
            if (level == L3 && bytes < 3 * cache[L2])
                bytes = 3 * cache[L2];
            for (int arrays = 2; arrays <= 3; arrays++) {
                const int64_t count = bytes / 4 / arrays / 1024 * 1024;
                const int64_t repeats = 1 + (4 << 20) / (4 * count);
                double best = 0;
                for (double end = now() + budget; now() < end;) {
                    const double t = now();
                    if (arrays == 2)
                        kn->copy(data, data + count, count, repeats);
                    else
                        kn->triad(data, data + count, data + 2 * count, count, repeats);
                    best = fmax(best, 4.0 * (double)(arrays * count * repeats) / (now() - t));
                }
                (arrays == 2 ? p->copy : p->triad)[level] = best;
            }
        }
        fprintf(stderr,
                "%s, %d-byte vectors: ADD %.1f, FMA %.1f, both %.1f Gflop/s; copy L1 %.0f, "
                "L2 %.0f, L3 %.0f, memory %.1f GB/s; triad %.0f, %.0f, %.0f, %.1f\n",
                options.isa[i], kn->vector_bytes, p->add / 1e9, p->fma / 1e9, p->mixed / 1e9,
                p->copy[0] / 1e9, p->copy[1] / 1e9, p->copy[2] / 1e9, p->copy[3] / 1e9,
                p->triad[0] / 1e9, p->triad[1] / 1e9, p->triad[2] / 1e9, p->triad[3] / 1e9);
    }
    free(data);
}

/* ---- The float64 reference ------------------------------------------------------ */

struct complex {
    double re, im;
};

/* DFT of n points in place, by decimation in frequency; the frequencies stay in bit-reversed
 * order.  w[j step] is exp(-2 pi i j / n).  dft_back is its adjoint: the inverse DFT without
 * the factor 1/n, from bit-reversed frequencies. */
static void dft(struct complex *x, int64_t n, const struct complex *w, int64_t step)
{
    const int64_t half = n / 2;
    if (n == 1)
        return;
    for (int64_t j = 0; j < half; j++) {
        const struct complex a = x[j], b = x[j + half], r = w[j * step];
        const double re = a.re - b.re, im = a.im - b.im;
        x[j] = (struct complex){a.re + b.re, a.im + b.im};
        x[j + half] = (struct complex){re * r.re - im * r.im, re * r.im + im * r.re};
    }
    dft(x, half, w, 2 * step);
    dft(x + half, half, w, 2 * step);
}

static void dft_back(struct complex *x, int64_t n, const struct complex *w, int64_t step)
{
    const int64_t half = n / 2;
    if (n == 1)
        return;
    dft_back(x, half, w, 2 * step);
    dft_back(x + half, half, w, 2 * step);
    for (int64_t j = 0; j < half; j++) {
        const struct complex a = x[j], b = x[j + half], r = w[j * step];
        const double re = b.re * r.re + b.im * r.im, im = b.im * r.re - b.re * r.im;
        x[j] = (struct complex){a.re + re, a.im + im};
        x[j + half] = (struct complex){a.re - re, a.im - im};
    }
}

static struct problem {
    int64_t B, H, L;
    float *u, *k, *y; /* (B, H, L), (H, L), (B, H, L) */
    double *exact;    /* the float64 result, (B, H, L) */
    double *scale;    /* ||k|| ||u|| of each row */
} p;

static double norm(const float *x, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum);
}

static void make_problem(int64_t L)
{
    p = (struct problem){.B = 4, .H = L >= 1 << 20 ? 4 : L >= 1 << 18 ? 16 : 64, .L = L};
    const int64_t rows = p.B * p.H;
    p.u = memory(4 * rows * L);
    p.k = memory(4 * p.H * L);
    p.y = memory(4 * rows * L);
    p.exact = memory(8 * rows * L);
    p.scale = memory(8 * rows);
    randomise(p.u, rows * L, 1);
    randomise(p.k, p.H * L, 2);
    for (int64_t i = 0; i < p.H * L; i++)
        p.k[i] /= sqrtf((float)L); /* makes y O(1) */

    int64_t n = 2;
    while (n < 2 * L)
        n *= 2;
    struct complex *w = memory(n / 2 * (int64_t)sizeof *w), *K = memory(n * (int64_t)sizeof *K),
                   *x = memory(n * (int64_t)sizeof *x);
    for (int64_t j = 0; j < n / 2; j++) {
        const double angle = -2 * 3.14159265358979323846 * (double)j / (double)n;
        w[j] = (struct complex){cos(angle), sin(angle)};
    }
    for (int64_t h = 0; h < p.H; h++) {
        memset(K, 0, (size_t)n * sizeof *K);
        for (int64_t i = 0; i < L; i++)
            K[i].re = p.k[h * L + i] / (double)n;
        dft(K, n, w, 1);
        for (int64_t b = 0; b < p.B; b += 2) { /* two real rows share a complex one */
            const int64_t r0 = b * p.H + h, r1 = r0 + p.H;
            memset(x, 0, (size_t)n * sizeof *x);
            for (int64_t i = 0; i < L; i++)
                x[i] = (struct complex){p.u[r0 * L + i], p.u[r1 * L + i]};
            dft(x, n, w, 1);
            for (int64_t i = 0; i < n; i++)
                x[i] = (struct complex){x[i].re * K[i].re - x[i].im * K[i].im,
                                        x[i].re * K[i].im + x[i].im * K[i].re};
            dft_back(x, n, w, 1);
            for (int64_t i = 0; i < L; i++) {
                p.exact[r0 * L + i] = x[i].re;
                p.exact[r1 * L + i] = x[i].im;
            }
            for (int64_t r = r0; r <= r1; r += p.H)
                p.scale[r] = norm(p.u + r * L, L) * norm(p.k + h * L, L);
        }
    }
    free(w), free(K), free(x);
}

static void free_problem(void) { free(p.u), free(p.k), free(p.y), free(p.exact), free(p.scale); }

/* The largest ||y - exact|| / max(||exact||, ||k|| ||u||) of all rows. */
static double worst_error(void)
{
    double worst = 0;
    for (int64_t r = 0; r < p.B * p.H; r++) {
        double off = 0, size = 0;
        for (int64_t i = r * p.L; i < (r + 1) * p.L; i++) {
            const double e = p.y[i] - p.exact[i];
            off += e * e;
            size += p.exact[i] * p.exact[i];
        }
        const double error = sqrt(off) / fmax(sqrt(size), p.scale[r]);
        worst = error <= worst ? worst : error;
        if (isnan(error))
            return error;
    }
    return worst;
}

/* ---- Methods -------------------------------------------------------------------- */

struct method {
    char name[32];
    const char *isa; /* of our methods; NULL for FFTW, which chooses its own */
    void (*call)(struct method *);
    /* For our methods. */
    fftconv_plan *plan;
    fftconv_spectrum *spectrum;
    fftconv_operands operands;
    fftconv_plan_info info;
    void *workspace;
    const struct peak *peak;
    /* For FFTW's methods. */
    const struct kernels *kernels;
    bool pairs;
    float *buffer, *bins, *K;
#ifdef HAVE_FFTW
    fftwf_plan forward, inverse;
    char *plan_text;
#endif
    /* Error and timing. */
    double error;
    int inner; /* calls in a sample */
    struct sample {
        double wall, processor;
    } sample[64];
    int samples, kept;
    double low, median, high;
    const char *clock;
};

static void run_ours(struct method *m)
{
    need(fftconv_forward(m->plan, m->spectrum, &m->operands));
}

static fftconv_tensor rows(float *data, int64_t B, int64_t H, int64_t L)
{
    return (fftconv_tensor){
        .data = data, .dtype = FFTCONV_DTYPE_FLOAT32, .shape = {B, H, L}, .stride = {H * L, L, 1}};
}

static void make_ours(struct method *m, const char *isa, const struct peak *peak)
{
    *m = (struct method){.isa = isa, .call = run_ours, .peak = peak};
    snprintf(m->name, sizeof m->name, "fftconv %s", isa);
    fftconv_plan_desc desc = {.size = sizeof desc,
                              .batch = p.B,
                              .channels = p.H,
                              .length = p.L,
                              .k_length = p.L,
                              .dtype = FFTCONV_DTYPE_FLOAT32,
                              .threads = 1,
                              .isa = isa};
    m->info.size = sizeof m->info;
    need(fftconv_plan_create(&m->plan, &desc));
    need(fftconv_plan_get_info(m->plan, &m->info));
    m->operands = (fftconv_operands){.size = sizeof m->operands,
                                     .u = rows(p.u, p.B, p.H, p.L),
                                     .k = rows(p.k, 1, p.H, p.L),
                                     .y = rows(p.y, p.B, p.H, p.L)};
    need(fftconv_spectrum_create(&m->spectrum, m->plan, &m->operands));
    m->operands.workspace_bytes = m->info.forward_workspace_bytes;
    if (m->operands.workspace_bytes > 0)
        m->operands.workspace = m->workspace = memory(m->operands.workspace_bytes);
}

#ifdef HAVE_FFTW
static void unplan_fftw(struct method *m)
{
    if (m->forward)
        fftwf_destroy_plan(m->forward);
    if (m->inverse)
        fftwf_destroy_plan(m->inverse);
    m->forward = m->inverse = NULL;
}
#endif

static void free_method(struct method *m)
{
    fftconv_spectrum_destroy(m->spectrum);
    fftconv_plan_destroy(m->plan);
    free(m->workspace);
#ifdef HAVE_FFTW
    unplan_fftw(m);
    free(m->plan_text);
    fftwf_free(m->buffer);
    fftwf_free(m->bins);
    fftwf_free(m->K);
#endif
}

#ifdef HAVE_FFTW
/* Convolves one row, or one pair of rows, at a time, so that it stays in cache: copies it to a
 * buffer, pads it with zeros, transforms, multiplies, transforms back and copies the result. */
static void fftw_rows(struct method *m)
{
    const int64_t L = p.L, points = m->pairs ? 2 * L : L + 1;
    for (int64_t h = 0; h < p.H; h++)
        for (int64_t b = 0; b < p.B; b += m->pairs ? 2 : 1) {
            const float *u = p.u + (b * p.H + h) * L;
            float *y = p.y + (b * p.H + h) * L;
            if (m->pairs)
                m->kernels->join(m->buffer, u, u + p.H * L, L);
            else
                memcpy(m->buffer, u, (size_t)L * sizeof *u);
            const int64_t there = m->pairs ? 2 * L : L;
            memset(m->buffer + there, 0, (size_t)there * sizeof *u);
            fftwf_execute(m->forward);
            m->kernels->multiply(m->bins, m->K + h * points * 2, points);
            fftwf_execute(m->inverse);
            if (m->pairs)
                m->kernels->split(m->buffer, y, y + p.H * L, L);
            else
                memcpy(y, m->buffer, (size_t)L * sizeof *u);
        }
}

static void plan_fftw(struct method *m, unsigned flags)
{
    flags |= FFTW_DESTROY_INPUT; /* allowed, since the input is always a buffer of ours */
    const int n = (int)(2 * p.L);
    fftwf_complex *bins = (fftwf_complex *)m->bins, *z = (fftwf_complex *)m->buffer;
    if (m->pairs) {
        m->forward = fftwf_plan_dft_1d(n, z, bins, FFTW_FORWARD, flags);
        m->inverse = fftwf_plan_dft_1d(n, bins, z, FFTW_BACKWARD, flags);
    } else {
        m->forward = fftwf_plan_dft_r2c_1d(n, m->buffer, bins, flags);
        m->inverse = fftwf_plan_dft_c2r_1d(n, bins, m->buffer, flags);
    }
}

static char *fftw_wisdom_file(const struct method *m)
{
    static char name[4096];
    if (!options.wisdom)
        return NULL;
    snprintf(name, sizeof name, "%s/fftw-%s-%lld-best-of-%d.wisdom", options.wisdom,
             strchr(m->name, ' ') + 1, (long long)(2 * p.L), options.plans);
    return name;
}

/* Plans with FFTW_MEASURE.  Its plans vary from one time to the next, so it plans
 * options.plans times and keeps the fastest plan.  Returns false if the row is longer than
 * options.planned and its plan is not stored. */
static bool make_fftw(struct method *m, bool pairs)
{
    *m = (struct method){.call = fftw_rows, .pairs = pairs, .kernels = kernels_of(options.isa[0])};
    snprintf(m->name, sizeof m->name, "FFTW %s", pairs ? "pairs" : "r2c");
    const int64_t points = pairs ? 2 * p.L : p.L + 1, reals = 2 * points;
    m->buffer = fftwf_malloc(4 * (size_t)reals);
    m->bins = fftwf_malloc(4 * (size_t)reals);
    m->K = fftwf_malloc(4 * (size_t)(reals * p.H));
    if (!m->buffer || !m->bins || !m->K)
        die("no memory for FFTW's rows");
    memset(m->buffer, 0, 4 * (size_t)reals);
    memset(m->bins, 0, 4 * (size_t)reals);
    memset(m->K, 0, 4 * (size_t)(reals * p.H));

    fftwf_forget_wisdom();
    char *file = fftw_wisdom_file(m), *best = NULL;
    if (file && fftwf_import_wisdom_from_filename(file))
        plan_fftw(m, FFTW_MEASURE | FFTW_WISDOM_ONLY);
    if (!m->forward || !m->inverse) {
        if (p.L > options.planned) {
            free_method(m);
            return false;
        }
        double least = INFINITY;
        for (int i = 0; i < options.plans; i++) {
            unplan_fftw(m);
            fftwf_forget_wisdom();
            plan_fftw(m, FFTW_MEASURE);
            double t = INFINITY;
            for (int j = 0; j < 4; j++) {
                const double start = now();
                fftw_rows(m);
                t = fmin(t, now() - start);
            }
            if (t < least) {
                least = t;
                free(best);
                best = fftwf_export_wisdom_to_string();
            }
        }
        unplan_fftw(m);
        fftwf_forget_wisdom();
        fftwf_import_wisdom_from_string(best);
        free(best);
        plan_fftw(m, FFTW_MEASURE | FFTW_WISDOM_ONLY);
        if (file && !fftwf_export_wisdom_to_filename(file))
            die("cannot write %s", file);
    }
    if (!m->forward || !m->inverse)
        die("FFTW made no plan of %lld points", (long long)(2 * p.L));
    m->plan_text = fftwf_sprint_plan(m->forward);

    for (int64_t h = 0; h < p.H; h++) { /* the spectrum of k, times the inverse's 1 / 2L */
        memset(m->buffer, 0, 4 * (size_t)reals);
        for (int64_t i = 0; i < p.L; i++)
            m->buffer[pairs ? 2 * i : i] = p.k[h * p.L + i];
        fftwf_execute(m->forward);
        for (int64_t i = 0; i < reals; i++)
            m->K[h * reals + i] = m->bins[i] / (float)(2 * p.L);
    }
    return true;
}
#endif

/* ---- Timing --------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Whether the sample was undisturbed.  If its processor time is below 95 % of its wall time,
 * other work used the processor meanwhile. */
static bool quiet(const struct sample *s) { return s->processor >= 0.95 * s->wall; }

static int quiet_samples(const struct method *m)
{
    int count = 0;
    for (int i = 0; i < m->samples; i++)
        count += quiet(&m->sample[i]);
    return count;
}

static void take_sample(struct method *m)
{
    const double wall = now(), processor = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < m->inner; i++)
        m->call(m);
    const double p1 = seconds(CLOCK_PROCESS_CPUTIME_ID), w1 = now();
    m->sample[m->samples++] = (struct sample){(w1 - wall) / m->inner, (p1 - processor) / m->inner};
}

/* Times the methods in turn, in an order that rotates from round to round, and stores medians.
 * Up to three more rounds replace disturbed samples.  If any method has fewer than three quiet
 * samples, the processor time of all samples of all methods is reported in place of the wall
 * time. */
static void interleave(struct method *method, int count)
{
    for (int i = 0; i < count; i++) {
        struct method *m = &method[i];
        m->inner = 1;
        take_sample(m);
        m->inner = (int)fmax(1, ceil(options.sample / m->sample[0].processor));
        m->samples = 0;
    }
    for (int round = 0; round < options.samples + 3; round++)
        for (int i = 0; i < count; i++) {
            struct method *m = &method[(i + round) % count];
            if (quiet_samples(m) < options.samples)
                take_sample(m);
        }
    bool disturbed = false;
    for (int i = 0; i < count; i++)
        disturbed |= quiet_samples(&method[i]) < 3;
    for (int i = 0; i < count; i++) {
        struct method *m = &method[i];
        double t[64];
        m->kept = 0;
        for (int s = 0; s < m->samples; s++)
            if (disturbed || quiet(&m->sample[s]))
                t[m->kept++] = disturbed ? m->sample[s].processor : m->sample[s].wall;
        qsort(t, (size_t)m->kept, sizeof *t, ascending);
        m->low = t[m->kept / 4];
        m->median = (t[(m->kept - 1) / 2] + t[m->kept / 2]) / 2;
        m->high = t[m->kept - 1 - m->kept / 4];
        m->clock = disturbed ? "processor" : "wall";
    }
}

static void check(struct method *m)
{
    memset(p.y, 0xff, 4 * (size_t)(p.B * p.H * p.L)); /* NaN */
    m->call(m);
    m->error = worst_error();
    if (!(m->error <= ERROR_LIMIT))
        die("%s, L = %lld: relative error %.3g is above %.3g", m->name, (long long)p.L, m->error,
            ERROR_LIMIT);
}

/* ---- What limits a call --------------------------------------------------------- */

struct limits {
    double flops, bytes[LEVELS];       /* of a call, as the plan counts them */
    double arithmetic, moving[LEVELS]; /* seconds that these take at the measured peaks */
    double floor;                      /* seconds of the additions of real FFTs alone */
    const char *binds;                 /* the name of the largest: "arithmetic" or a level */
    double bound;                      /* its seconds */
};

static struct limits limits_of(const struct method *m)
{
    const fftconv_plan_info *info = &m->info;
    struct limits l = {.flops = info->product_flops + info->fold_flops};
    for (int i = 0; i < info->stages; i++)
        l.flops += info->stage_flops[i];
    /* u, y and the spectrum are moved once to or from the level that holds all of them.  For
     * each further batch entry, a row of the spectrum is read again, from the level that holds
     * two such rows. */
    const double spectrum = (double)info->spectrum_bytes;
    const double row = spectrum / (double)p.H;
    l.bytes[L1] = info->l1_bytes;
    l.bytes[L2] = info->l2_bytes;
    l.bytes[level_of((double)info->spectra_row_bytes) > L3 ? DRAM : L3] += info->memory_bytes;
    l.bytes[level_of(info->io_bytes + spectrum)] += info->io_bytes + spectrum;
    l.bytes[level_of(2 * row)] += spectrum * (double)(p.B - 1);
    l.arithmetic = l.flops / fmax(m->peak->mixed, m->peak->fma);
    l.bound = l.arithmetic;
    l.binds = "arithmetic";
    for (int i = L1; i < LEVELS; i++) {
        l.moving[i] = l.bytes[i] / m->peak->copy[i];
        if (l.moving[i] > l.bound)
            l.bound = l.moving[i], l.binds = level_name[i];
    }
    /* The butterflies of a complex FFT of M points take 2 M log2 M real additions.  A
     * right-angle row needs one of M = L points in each direction: about 4 log2 L additions per
     * output, counted here as 4 (log2 2L - 3/4). */
    l.floor = (double)(p.B * p.H * p.L) * 4 * (log2(2.0 * (double)p.L) - 0.75) / m->peak->add;
    return l;
}

/* ---- JSON ----------------------------------------------------------------------- */

static FILE *json;

static void put_string(const char *name, const char *text)
{
    fprintf(json, "\"%s\": \"", name);
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            fprintf(json, "\\%c", *text);
        else if (*text == '\n')
            fputs("\\n", json);
        else if ((unsigned char)*text >= ' ')
            fputc(*text, json);
    fputs("\"", json);
}

static void put_levels(const char *name, const double *value)
{
    fprintf(json, "\"%s\": {", name);
    for (int i = L1; i < LEVELS; i++)
        fprintf(json, "%s\"%s\": %.6g", i ? ", " : "", level_name[i], value[i]);
    fputs("}", json);
}

static void put_head(void)
{
    struct utsname system;
    char cpu[256] = "";
    FILE *file = fopen("/proc/cpuinfo", "r");
    for (char line[512]; file && fgets(line, sizeof line, file);)
        if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
            snprintf(cpu, sizeof cpu, "%s", strchr(line, ':') + 2);
            cpu[strcspn(cpu, "\n")] = 0;
            break;
        }
    if (file)
        fclose(file);
    if (uname(&system) < 0)
        die("uname failed");
    fputs("{\n \"machine\": {", json);
    put_string("cpu", cpu);
    fprintf(json,
            ", \"processors\": %d, \"cache_bytes\": {\"l1\": %lld, \"l2\": %lld, \"l3\": %lld}, ",
            fftconv_default_threads(), (long long)cache[L1], (long long)cache[L2],
            (long long)cache[L3]);
    put_string("system", system.release);
    fputs("},\n ", json);
    put_string("compiler", "C " __VERSION__);
    fputs(",\n ", json);
    put_string("fftconv", fftconv_version());
    fputs(",\n ", json);
    put_string("commit", options.commit);
    fputs(",\n ", json);
    put_string("grid", options.grid);
    fputs(",\n ", json);
#ifdef HAVE_FFTW
    put_string("fftw", fftwf_version);
    fputs(",\n ", json);
    put_string("fftw_flags", "FFTW_MEASURE | FFTW_DESTROY_INPUT");
    fprintf(json, ",\n \"fftw_plans\": %d,\n", options.plans);
#else
    fputs("\"fftw\": null,\n", json);
#endif
    fputs(" \"peaks\": [", json);
    for (int i = 0; i < options.isas; i++) {
        fprintf(json, "%s\n  {", i ? "," : "");
        put_string("isa", options.isa[i]);
        fprintf(json,
                ", \"vector_bytes\": %d, \"add_flops\": %.6g, \"fma_flops\": %.6g, "
                "\"mixed_flops\": %.6g,\n   ",
                peak[i].kernels->vector_bytes, peak[i].add, peak[i].fma, peak[i].mixed);
        put_levels("copy_bytes", peak[i].copy);
        fputs(",\n   ", json);
        put_levels("triad_bytes", peak[i].triad);
        fputs("}", json);
    }
    fputs("],\n \"rows\": [", json);
}

static void put_method(const struct method *m, bool first)
{
    const double outputs = (double)(p.B * p.H * p.L);
    fprintf(json, "%s\n  {", first ? "" : ",");
    put_string("method", m->name);
    fprintf(json,
            ", \"length\": %lld, \"batch\": %lld, \"channels\": %lld, \"ns_per_output\": %.6g,"
            "\n   \"median_s\": %.6g, \"low_s\": %.6g, \"high_s\": %.6g, \"samples\": %d, "
            "\"rejected\": %d, \"calls\": %d, \"error\": %.3g, ",
            (long long)p.L, (long long)p.B, (long long)p.H, 1e9 * m->median / outputs, m->median,
            m->low, m->high, m->kept, m->samples - m->kept, m->inner, m->error);
    put_string("clock", m->clock);
    if (m->plan) {
        const struct limits l = limits_of(m);
        fputs(",\n   ", json);
        put_string("isa", m->isa);
        fputs(", \"stages\": [", json);
        for (int i = 0; i < m->info.stages; i++)
            fprintf(json, "%s%lld", i ? ", " : "", (long long)m->info.stage_radices[i]);
        fprintf(json,
                "], \"predicted_s\": %.6g, \"flops\": %.6g, \"gflops\": %.6g, \"of_add\": %.4g, "
                "\"of_fma\": %.4g,\n   ",
                m->info.predicted_seconds, l.flops, l.flops / m->median / 1e9,
                l.flops / m->median / m->peak->add, l.flops / m->median / m->peak->fma);
        put_levels("bytes", l.bytes);
        fputs(", ", json);
        put_levels("moving_s", l.moving);
        fprintf(json,
                ",\n   \"arithmetic_s\": %.6g, \"floor_ns\": %.4g, \"of_floor\": %.4g, "
                "\"of_bound\": %.4g, ",
                l.arithmetic, 1e9 * l.floor / outputs, l.floor / m->median, l.bound / m->median);
        put_string("binds", l.binds);
    } else {
#ifdef HAVE_FFTW
        fputs(",\n   ", json);
        put_string("fftw_plan", m->plan_text);
#endif
    }
    fputs("}", json);
}

/* ---- One length ----------------------------------------------------------------- */

static void run_length(int64_t L, bool first)
{
    struct method method[MOST + 4];
    int count = 0, ours = 0;
    make_problem(L);
    for (int i = 0; i < options.isas; i++)
        make_ours(&method[count++], options.isa[i], &peak[i]);
    ours = count;
#ifdef HAVE_FFTW
    for (int pairs = 0; options.fftw && pairs < 2; pairs++)
        count += make_fftw(&method[count], pairs);
#endif
    for (int i = 0; i < count; i++)
        check(&method[i]);
    interleave(method, count);
    double fftw = INFINITY;
    for (int i = ours; i < count; i++)
        fftw = fmin(fftw, method[i].median);
    for (int i = 0; i < count; i++) {
        const struct method *m = &method[i];
        const double outputs = (double)(p.B * p.H * p.L);
        put_method(m, first && i == 0);
        fprintf(stderr, "%8lld  %-18s %8.3f", (long long)L, m->name, 1e9 * m->median / outputs);
        if (i < ours) {
            const struct limits l = limits_of(m);
            if (fftw < INFINITY)
                fprintf(stderr, " %7.2f", fftw / m->median);
            else
                fputs("       -", stderr);
            fprintf(stderr, " %8.1f %6.0f %6.0f %7.3f %5.0f  %-10s %4.0f ",
                    l.flops / m->median / 1e9, 100 * l.flops / m->median / m->peak->add,
                    100 * l.flops / m->median / m->peak->fma, 1e9 * l.floor / outputs,
                    100 * l.floor / m->median, l.binds, 100 * l.bound / m->median);
            for (int s = 0; s < m->info.stages; s++)
                fprintf(stderr, "%s%lld", s ? "." : " ", (long long)m->info.stage_radices[s]);
        }
        fprintf(stderr, "%s\n", strcmp(m->clock, "wall") ? "  (processor time)" : "");
    }
    for (int i = 0; i < count; i++)
        free_method(&method[i]);
    free_problem();
}

int main(int argc, char **argv)
{
    const double started = now();
    parse(argc, argv);
    json = options.json ? fopen(options.json, "w") : stdout;
    if (!json)
        die("cannot write %s", options.json);
    find_caches();
#ifdef HAVE_FFTW
    fprintf(stderr, "%s, FFTW_MEASURE, best of %d plans\n", fftwf_version, options.plans);
#else
    fputs("built without FFTW: install its single-precision library and configure again\n", stderr);
#endif
    measure_peaks();
    fputs("       L  method              ns/out  x FFTW  Gflop/s  % ADD  % FMA   floor % of   binds"
          "       %    stages\n",
          stderr);
    put_head();
    for (int i = 0; i < options.lengths; i++)
        run_length(options.length[i], i == 0);
    fprintf(json, "],\n \"seconds\": %.1f\n}\n", now() - started);
    if (ferror(json) || (json != stdout && fclose(json)))
        die("cannot write the JSON");
    return 0;
}
