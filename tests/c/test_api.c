/* test_api: the library as a C program sees it, through the public header.
 *
 * Every result is compared with a direct sum in double, and outputs are filled with NaN before the
 * call.  There is no framework: CHECK counts, and main reports. */
#include <fftconv.h>

#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int failures, checks;

#define CHECK(condition, ...) \
    do { \
        atomic_fetch_add(&checks, 1); \
        if (!(condition)) { \
            atomic_fetch_add(&failures, 1); \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            printf(__VA_ARGS__); \
            printf("\n"); \
        } \
    } while (0)

/* Returns from the test unless the status is FFTCONV_STATUS_OK. */
#define MUST(call) \
    do { \
        int status_ = (call); \
        CHECK(status_ == FFTCONV_STATUS_OK, "status %d: %s", status_, fftconv_last_error()); \
        if (status_ != FFTCONV_STATUS_OK) \
            return; \
    } while (0)

/* Whether `word` is in `text`, with no letter, digit or _ on either side. */
static int names(const char *text, const char *word)
{
    const char *letters = "abcdefghijklmnopqrstuvwxyz"
                          "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    size_t n = strlen(word);

    for (const char *p = text; (p = strstr(p, word)); p++)
        if ((p == text || !strchr(letters, p[-1])) && (!p[n] || !strchr(letters, p[n])))
            return 1;
    return 0;
}

/* The status must be FFTCONV_STATUS_INVALID, and the message must name `argument`. */
#define CHECK_INVALID(call, argument) \
    do { \
        int status_ = (call); \
        CHECK(status_ == FFTCONV_STATUS_INVALID, "%s: status %d", argument, status_); \
        CHECK(names(fftconv_last_error(), argument), "the message does not name %s: \"%s\"", \
              argument, fftconv_last_error()); \
    } while (0)

/* ---- Data and the reference ---------------------------------------------- */

/* Numbers uniform in (-1, 1), the same on every run and machine. */
static float *random_floats(size_t n, uint64_t seed)
{
    float *x = malloc(n * sizeof *x);
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;

    for (size_t i = 0; x && i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((double)(s >> 11) / (double)(1ull << 52) - 1);
    }
    return x;
}

static float *poison(size_t n)
{
    float *x = malloc(n * sizeof *x);

    for (size_t i = 0; x && i < n; i++)
        x[i] = NAN;
    return x;
}

/* A dense float32 tensor of shape (B, H, L). */
static fftconv_tensor tensor(float *data, int64_t B, int64_t H, int64_t L)
{
    return (fftconv_tensor){
        .data = data, .dtype = FFTCONV_DTYPE_FLOAT32, .shape = {B, H, L}, .stride = {H * L, L, 1}};
}

/* y[t] = sum_s k[s] z[t-s].  For N > 0, t-s is taken modulo N; for N = 0, y is causal. */
static void direct(double *y, const float *k, int64_t Lk, const float *z, int64_t L, int64_t N)
{
    for (int64_t t = 0; t < L; t++) {
        y[t] = 0;
        for (int64_t s = 0; s < Lk; s++) {
            int64_t i = N ? ((t - s) % N + N) % N : t - s;
            if (i >= 0 && i < L)
                y[t] += (double)k[s] * z[i];
        }
    }
}

static double norm(const float *x, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum);
}

/* ||got - want|| / max(||want||, ||k|| ||z||); NaN where got has a NaN. */
static double row_error(const float *got, const double *want, int64_t L, double scale)
{
    double error = 0, size = 0;

    for (int64_t t = 0; t < L; t++) {
        error += (got[t] - want[t]) * (got[t] - want[t]);
        size += want[t] * want[t];
    }
    return sqrt(error) / fmax(sqrt(size), scale);
}

/* Compares every row of y with the direct sum. */
static void check_rows(const char *what, const float *y, const float *k, const float *u, int64_t B,
                       int64_t H, int64_t L, int64_t Lk, int64_t N)
{
    double *want = malloc(L * sizeof *want);

    for (int64_t row = 0; want && row < B * H; row++) {
        const float *k_row = k + row % H * Lk;
        double error;

        direct(want, k_row, Lk, u + row * L, L, N);
        error = row_error(y + row * L, want, L, norm(k_row, Lk) * norm(u + row * L, L));
        CHECK(error <= 5e-7, "%s: row %d, L=%d: error %g", what, (int)row, (int)L, error);
    }
    free(want);
}

static fftconv_plan_desc plan_desc(int64_t B, int64_t H, int64_t L, int64_t Lk)
{
    return (fftconv_plan_desc){.size = sizeof(fftconv_plan_desc),
                               .batch = B,
                               .channels = H,
                               .length = L,
                               .k_length = Lk,
                               .mode = FFTCONV_MODE_CAUSAL,
                               .dtype = FFTCONV_DTYPE_FLOAT32};
}

/* ---- Tests --------------------------------------------------------------- */

static void test_library(void)
{
    int count = 0;

    CHECK(fftconv_abi() == FFTCONV_ABI, "%d", fftconv_abi());
    CHECK(strcmp(fftconv_version(), "") != 0, "empty");
    CHECK(fftconv_default_threads() >= 1, "%d", fftconv_default_threads());
    while (fftconv_isa_name(count))
        count++;
    CHECK(count >= 2, "%d instruction sets", count);
    CHECK(fftconv_isa_name(count + 7) == NULL, "a name past the last");
    CHECK(fftconv_isa_name(-1) == NULL, "a name before the first");
    CHECK(fftconv_isa_available("baseline") == 1, "no baseline");
    CHECK(fftconv_isa_available("no-such-isa") == 0, "no-such-isa");
    CHECK(fftconv_isa_available(NULL) == 0, "NULL");
    fftconv_plan_destroy(NULL);
    fftconv_spectrum_destroy(NULL);
}

/* One shape, with the kernel in the call and as a spectrum, on one thread and on two, which must
 * give the same bits. */
static void test_shape(int64_t B, int64_t H, int64_t L, int64_t Lk, int64_t N)
{
    float *u = random_floats(B * H * L, 1), *k = random_floats(H * Lk, 2);
    float *y = poison(B * H * L), *again = poison(B * H * L);
    fftconv_plan_desc desc = plan_desc(B, H, L, Lk);
    fftconv_plan_info info = {.size = sizeof info};
    fftconv_plan *plan = NULL;
    fftconv_spectrum *spectrum = NULL;
    fftconv_operands o = {.size = sizeof o,
                          .threads = 1,
                          .u = tensor(u, B, H, L),
                          .k = tensor(k, 1, H, Lk),
                          .y = tensor(y, B, H, L)};

    if (N) {
        desc.mode = FFTCONV_MODE_CIRCULAR;
        desc.fft_size = N;
    }
    MUST(fftconv_plan_create(&plan, &desc));
    MUST(fftconv_plan_get_info(plan, &info));
    CHECK(info.fft_size == N, "fft_size %lld", (long long)info.fft_size);
    CHECK(info.padded_length >= (info.blocks > 1 ? Lk : L), "padded_length %lld",
          (long long)info.padded_length);
    CHECK(info.device == FFTCONV_DEVICE_CPU && info.device_index == 0, "device %d", info.device);
    CHECK(info.isa && fftconv_isa_available(info.isa) && !info.engine, "isa and engine");
    MUST(fftconv_forward(plan, NULL, &o));
    check_rows("kernel in the call", y, k, u, B, H, L, Lk, N);

    o.y.data = again;
    o.threads = 2;
    MUST(fftconv_forward(plan, NULL, &o));
    CHECK(!memcmp(y, again, B * H * L * sizeof *y), "B=%d H=%d L=%d: 1 and 2 threads differ",
          (int)B, (int)H, (int)L);

    MUST(fftconv_spectrum_create(&spectrum, plan, &o));
    o.k = (fftconv_tensor){0};
    for (int64_t i = 0; i < B * H * L; i++)
        again[i] = NAN;
    MUST(fftconv_forward(plan, spectrum, &o));
    check_rows("spectrum", again, k, u, B, H, L, Lk, N);

    /* The workspace is the caller's, and y is u itself. */
    for (int64_t i = 0; i < B * H * L; i++)
        again[i] = u[i];
    o.u.data = again;
    MUST(
        fftconv_workspace_bytes(plan, spectrum, &o, FFTCONV_DIRECTION_FORWARD, &o.workspace_bytes));
    o.workspace = aligned_alloc(64, (o.workspace_bytes + 64) / 64 * 64);
    MUST(fftconv_forward(plan, spectrum, &o));
    check_rows("in place", again, k, u, B, H, L, Lk, N);

    free(o.workspace);
    fftconv_spectrum_destroy(spectrum);
    fftconv_plan_destroy(plan);
    free(u), free(k), free(y), free(again);
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* <y, dy> = <u, du> = <k, dk>, since the convolution is linear in u and in k. */
static void test_backward(void)
{
    enum { B = 3, H = 2, L = 100, Lk = 37 };
    float *u = random_floats(B * H * L, 3), *k = random_floats(H * Lk, 4);
    float *dy = random_floats(B * H * L, 5);
    float *y = poison(B * H * L), *du = poison(B * H * L), *dk = poison(H * Lk);
    fftconv_plan_desc desc = plan_desc(B, H, L, Lk);
    fftconv_plan *plan = NULL;
    fftconv_operands o = {.size = sizeof o,
                          .u = tensor(u, B, H, L),
                          .k = tensor(k, 1, H, Lk),
                          .y = tensor(y, B, H, L)};
    double by_y, by_u, by_k, scale;

    MUST(fftconv_plan_create(&plan, &desc));
    MUST(fftconv_forward(plan, NULL, &o));
    o.y = (fftconv_tensor){0};
    o.dy = tensor(dy, B, H, L);
    o.du = tensor(du, B, H, L);
    o.dk = tensor(dk, 1, H, Lk);
    MUST(fftconv_backward(plan, NULL, &o));
    by_y = dot(y, dy, B * H * L);
    by_u = dot(u, du, B * H * L);
    by_k = dot(k, dk, H * Lk);
    scale = norm(y, B * H * L) * norm(dy, B * H * L);
    CHECK(fabs(by_y - by_u) <= 1e-6 * scale, "%g, %g", by_y, by_u);
    CHECK(fabs(by_y - by_k) <= 1e-6 * scale, "%g, %g", by_y, by_k);
    fftconv_plan_destroy(plan);
    free(u), free(k), free(dy), free(y), free(du), free(dk);
}

/* ---- Two-sided, streamed, complex, over channels ---------------------------- */

/* y[t] += sum_s k_rev[s] z[t+s] */
static void add_reverse(double *y, const float *k_rev, int64_t Lrev, const float *z, int64_t L)
{
    for (int64_t t = 0; t < L; t++)
        for (int64_t s = 0; s < Lrev && t + s < L; s++)
            y[t] += (double)k_rev[s] * z[t + s];
}

/* Two-sided results equal the sums, with the kernels in the call and as a spectrum, and
 * <y, dy> = <u, du> = <k, dk> + <k_rev, dk_rev>. */
static void test_two_sided(void)
{
    enum { B = 2, H = 3, L = 100, Lk = 60, Lrev = 130 };
    float *u = random_floats(B * H * L, 10), *k = random_floats(H * Lk, 11);
    float *rev = random_floats(H * Lrev, 12), *dy = random_floats(B * H * L, 13);
    float *y = poison(B * H * L), *du = poison(B * H * L);
    float *dk = poison(H * Lk), *drev = poison(H * Lrev);
    fftconv_plan_desc desc = plan_desc(B, H, L, Lk);
    fftconv_plan *plan = NULL;
    fftconv_spectrum *spectrum = NULL;
    fftconv_operands o = {.size = sizeof o,
                          .u = tensor(u, B, H, L),
                          .k = tensor(k, 1, H, Lk),
                          .k_rev = tensor(rev, 1, H, Lrev),
                          .y = tensor(y, B, H, L)};
    fftconv_operands back = {.size = sizeof back,
                             .u = o.u,
                             .k = o.k,
                             .k_rev = o.k_rev,
                             .dy = tensor(dy, B, H, L),
                             .du = tensor(du, B, H, L),
                             .dk = tensor(dk, 1, H, Lk),
                             .dk_rev = tensor(drev, 1, H, Lrev)};
    double want[L], by_y, by_u, by_k, scale;

    desc.mode = FFTCONV_MODE_TWO_SIDED;
    desc.k_rev_length = Lrev;
    MUST(fftconv_plan_create(&plan, &desc));
    MUST(fftconv_spectrum_create(&spectrum, plan, &o));
    for (int given = 0; given < 2; given++) {
        for (int i = 0; i < B * H * L; i++)
            y[i] = NAN;
        MUST(fftconv_forward(plan, given ? spectrum : NULL, &o));
        for (int row = 0; row < B * H; row++) {
            const float *z = u + row * L;
            int h = row % H;
            double error;

            direct(want, k + h * Lk, Lk, z, L, 0);
            add_reverse(want, rev + h * Lrev, Lrev, z, L);
            error = row_error(y + row * L, want, L,
                              hypot(norm(k + h * Lk, Lk), norm(rev + h * Lrev, Lrev)) * norm(z, L));
            CHECK(error <= 5e-7, "row %d: error %g", row, error);
        }
        MUST(fftconv_backward(plan, given ? spectrum : NULL, &back));
        by_y = dot(y, dy, B * H * L);
        by_u = dot(u, du, B * H * L);
        by_k = dot(k, dk, H * Lk) + dot(rev, drev, H * Lrev);
        scale = norm(y, B * H * L) * norm(dy, B * H * L);
        CHECK(fabs(by_y - by_u) <= 1e-6 * scale, "%g, %g", by_y, by_u);
        CHECK(fabs(by_y - by_k) <= 1e-6 * scale, "%g, %g", by_y, by_k);
    }
    /* Taps beyond the row act on no sample. */
    for (int h = 0; h < H; h++)
        for (int s = L; s < Lrev; s++)
            CHECK(drev[h * Lrev + s] == 0, "%g", (double)drev[h * Lrev + s]);
    fftconv_spectrum_destroy(spectrum);
    fftconv_plan_destroy(plan);
    free(u), free(k), free(rev), free(dy), free(y), free(du), free(dk), free(drev);
}

/* Pieces of any length up to the plan's, each with the samples before it as history, give the whole
 * row. */
static void test_history(void)
{
    enum { B = 2, H = 2, L = 300, Lk = 40, piece = 64 };
    static const int64_t lengths[] = {64, 1, 63, 7, 64, 39, 2, 60};
    float *u = random_floats(B * H * L, 14), *k = random_floats(H * Lk, 15);
    float *y = poison(B * H * L), *past = poison(B * H * (Lk - 1));
    fftconv_plan_desc desc = plan_desc(B, H, piece, Lk);
    fftconv_plan *plan = NULL;
    fftconv_spectrum *spectrum = NULL;
    fftconv_operands o = {.size = sizeof o, .history = tensor(past, B, H, Lk - 1)};
    fftconv_operands kernel = {.size = sizeof kernel, .k = tensor(k, 1, H, Lk)};
    int64_t t = 0;

    desc.history = 1;
    MUST(fftconv_plan_create(&plan, &desc));
    MUST(fftconv_spectrum_create(&spectrum, plan, &kernel));
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (int row = 0; row < B * H; row++)
            for (int64_t s = 0; s < Lk - 1; s++) {
                int64_t at = t - (Lk - 1) + s;
                past[row * (Lk - 1) + s] = at < 0 ? 0 : u[row * L + at];
            }
        o.u = tensor(u + t, B, H, L); /* part of longer rows */
        o.y = tensor(y + t, B, H, L);
        o.u.shape[2] = o.y.shape[2] = lengths[i];
        MUST(fftconv_forward(plan, spectrum, &o));
        t += lengths[i];
    }
    CHECK(t == L, "%d", (int)t);
    check_rows("pieces", y, k, u, B, H, L, Lk, 0);
    fftconv_spectrum_destroy(spectrum);
    fftconv_plan_destroy(plan);
    free(u), free(k), free(y), free(past);
}

/* A complex convolution equals four real ones, and its gradients, which are conjugated, satisfy
 * Re <dy, y> = Re <du, u> = Re <dk, k>. */
static void test_complex(void)
{
    enum { H = 2, L = 90, Lk = 50 };
    float *u = random_floats(2 * H * L, 16), *k = random_floats(2 * H * Lk, 17);
    float *dy = random_floats(2 * H * L, 18), *y = poison(2 * H * L);
    float *du = poison(2 * H * L), *dk = poison(2 * H * Lk);
    fftconv_plan_desc desc = plan_desc(1, H, L, Lk);
    fftconv_plan *plan = NULL;
    fftconv_operands o = {.size = sizeof o,
                          .u = tensor(u, 1, H, L),
                          .k = tensor(k, 1, H, Lk),
                          .y = tensor(y, 1, H, L)},
                     back;
    double by_y, scale;

    desc.dtype = FFTCONV_DTYPE_COMPLEX64;
    o.u.dtype = o.k.dtype = o.y.dtype = FFTCONV_DTYPE_COMPLEX64;
    MUST(fftconv_plan_create(&plan, &desc));
    MUST(fftconv_forward(plan, NULL, &o));
    for (int h = 0; h < H; h++) {
        double want[2][L] = {{0}}, product[L], error;
        float z[2][L], taps[2][Lk], got[2][L];

        for (int i = 0; i < 2 * L; i++) {
            z[i % 2][i / 2] = u[2 * h * L + i];
            got[i % 2][i / 2] = y[2 * h * L + i];
        }
        for (int i = 0; i < 2 * Lk; i++)
            taps[i % 2][i / 2] = k[2 * h * Lk + i];
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 2; b++) {
                direct(product, taps[a], Lk, z[b], L, 0);
                for (int t = 0; t < L; t++)
                    want[(a + b) % 2][t] += a && b ? -product[t] : product[t];
            }
        scale = norm(k + 2 * h * Lk, 2 * Lk) * norm(u + 2 * h * L, 2 * L);
        for (int part = 0; part < 2; part++) {
            error = row_error(got[part], want[part], L, scale);
            CHECK(error <= 5e-7, "row %d, part %d: error %g", h, part, error);
        }
    }
    back = (fftconv_operands){
        .size = sizeof back, .u = o.u, .k = o.k, .dy = o.u, .du = o.u, .dk = o.k};
    back.dy.data = dy;
    back.du.data = du;
    back.dk.data = dk;
    MUST(fftconv_backward(plan, NULL, &back));
    by_y = dot(y, dy, 2 * H * L);
    scale = norm(y, 2 * H * L) * norm(dy, 2 * H * L);
    CHECK(fabs(by_y - dot(u, du, 2 * H * L)) <= 1e-6 * scale, "du");
    CHECK(fabs(by_y - dot(k, dk, 2 * H * Lk)) <= 1e-6 * scale, "dk");
    fftconv_plan_destroy(plan);
    free(u), free(k), free(dy), free(y), free(du), free(dk);
}

/* Weights of 1 change nothing, and weights of 0 leave nothing; without bin 0, y sums to 0. */
static void test_weights(void)
{
    enum { B = 2, H = 2, N = 96 };
    float *u = random_floats(B * H * N, 19), *k = random_floats(H * N, 20);
    float *y = poison(B * H * N);
    fftconv_operands o = {.size = sizeof o,
                          .u = tensor(u, B, H, N),
                          .k = tensor(k, 1, H, N),
                          .y = tensor(y, B, H, N)};

    for (int which = 0; which < 3; which++) {
        fftconv_plan_desc desc = plan_desc(B, H, N, N);
        fftconv_plan_info info = {.size = sizeof info};
        fftconv_plan *plan = NULL;
        double weights[N / 2 + 1], kept;

        for (int m = 0; m <= N / 2; m++)
            weights[m] = which == 0 ? 1 : which == 1 ? 0 : m > 0;
        desc.mode = FFTCONV_MODE_CIRCULAR;
        desc.weights = weights;
        MUST(fftconv_plan_create(&plan, &desc));
        MUST(fftconv_plan_get_info(plan, &info));
        kept = which == 0 ? 1 : which == 1 ? 0 : (N - 1.) / N;
        CHECK(fabs(info.kept - kept) <= 1e-12, "%g, not %g", info.kept, kept);
        for (int i = 0; i < B * H * N; i++)
            y[i] = NAN;
        MUST(fftconv_forward(plan, NULL, &o));
        if (which == 0)
            check_rows("weights of 1", y, k, u, B, H, N, N, N);
        for (int row = 0; which && row < B * H; row++) {
            double sum = 0;

            for (int t = 0; t < N; t++) {
                sum += y[row * N + t];
                CHECK(which == 2 || y[row * N + t] == 0, "%g", (double)y[row * N + t]);
            }
            CHECK(fabs(sum) <= 1e-4 && (which == 1 || norm(y + row * N, N) > 1), "sum %g", sum);
        }
        fftconv_plan_destroy(plan);
    }
    free(u), free(k), free(y);
}

/* The primitives give y_o = sum_i k_oi * u_i, and their adjoints dk, with <k, dk> = <y, dy>. */
static void test_contract(void)
{
    enum { B = 3, IN = 2, OUT = 5, L = 70, Lk = 33 };
    float *u = random_floats(B * IN * L, 21), *k = random_floats(OUT * IN * Lk, 22);
    float *dy = random_floats(B * OUT * L, 23);
    float *y = poison(B * OUT * L), *dk = poison(OUT * IN * Lk);
    fftconv_plan_desc desc = plan_desc(1, 1, L, Lk);
    fftconv_plan_info info = {.size = sizeof info};
    fftconv_plan *plan = NULL;
    fftconv_spectra_desc rows = {.size = sizeof rows, .rows = tensor(u, B, IN, L)};
    fftconv_spectra_desc result = {
        .size = sizeof result, .side = FFTCONV_SIDE_OUTPUT, .rows = tensor(y, B, OUT, L)};
    fftconv_spectra_desc cotangent = {
        .size = sizeof cotangent, .side = FFTCONV_SIDE_OUTPUT, .rows = tensor(dy, B, OUT, L)};
    fftconv_spectra_desc kernels = {.size = sizeof kernels, .k = tensor(k, OUT, IN, Lk)};
    fftconv_spectra_desc gradient = {.size = sizeof gradient, .k = tensor(dk, OUT, IN, Lk)};
    char *U, *K, *Y;
    double want[L], product[L], by_y, by_k, scale;

    desc.single_block = 1;
    MUST(fftconv_plan_create(&plan, &desc));
    MUST(fftconv_plan_get_info(plan, &info));
    U = rows.spectra = aligned_alloc(64, B * IN * info.spectra_row_bytes);
    K = kernels.spectra = gradient.spectra = aligned_alloc(64, OUT * IN * info.spectra_row_bytes);
    Y = result.spectra = cotangent.spectra = aligned_alloc(64, B * OUT * info.spectra_row_bytes);
    MUST(fftconv_rows_to_spectra(plan, &rows));
    MUST(fftconv_kernels_to_spectra(plan, &kernels));
    fftconv_contraction_desc c = {.size = sizeof c,
                                  .rows = B,
                                  .columns = OUT,
                                  .depth = IN,
                                  .a = U,
                                  .b = K,
                                  .out = Y,
                                  .a_stride = {IN, 1},
                                  .b_stride = {1, IN},
                                  .out_stride = {OUT, 1},
                                  .scale = 1. / (double)info.transform_length};
    CHECK_INVALID(fftconv_contract(NULL, &c), "plan");
    CHECK_INVALID(fftconv_contract(plan, NULL), "desc");
    c.out_stride[1] = 0;
    CHECK_INVALID(fftconv_contract(plan, &c), "out_stride");
    c.out_stride[1] = 1;
    MUST(fftconv_contract(plan, &c));
    MUST(fftconv_spectra_to_rows(plan, &result));
    for (int b = 0; b < B; b++)
        for (int o = 0; o < OUT; o++) {
            double error;

            for (int t = 0; t < L; t++)
                want[t] = 0;
            for (int i = 0; i < IN; i++) {
                direct(product, k + (o * IN + i) * Lk, Lk, u + (b * IN + i) * L, L, 0);
                for (int t = 0; t < L; t++)
                    want[t] += product[t];
            }
            error = row_error(y + (b * OUT + o) * L, want, L,
                              norm(k + o * IN * Lk, IN * Lk) * norm(u + b * IN * L, IN * L));
            CHECK(error <= 5e-7, "row %d, output %d: error %g", b, o, error);
        }

    /* dK[o, i] = sum_b G[b, o] conj U[b, i] */
    MUST(fftconv_rows_to_spectra(plan, &cotangent));
    c = (fftconv_contraction_desc){.size = sizeof c,
                                   .rows = OUT,
                                   .columns = IN,
                                   .depth = B,
                                   .a = Y,
                                   .b = U,
                                   .out = K,
                                   .a_stride = {1, OUT},
                                   .b_stride = {IN, 1},
                                   .out_stride = {IN, 1},
                                   .scale = 1. / (double)info.transform_length,
                                   .conjugate_b = 1};
    MUST(fftconv_contract(plan, &c));
    MUST(fftconv_spectra_to_kernels(plan, &gradient));
    by_y = dot(y, dy, B * OUT * L);
    by_k = dot(k, dk, OUT * IN * Lk);
    scale = norm(y, B * OUT * L) * norm(dy, B * OUT * L);
    CHECK(fabs(by_y - by_k) <= 1e-6 * scale, "%g, %g", by_y, by_k);
    fftconv_plan_destroy(plan);
    free(U), free(K), free(Y);
    free(u), free(k), free(dy), free(y), free(dk);
}

/* ---- Bad arguments ------------------------------------------------------- */

static void test_bad_plans(void)
{
    int64_t radices[] = {16, 200};
    /* One field of a right description is wrong at a time. */
    const struct {
        const char *argument;
        size_t offset, width;
        int64_t value;
    } cases[] = {
#define CASE(field, value) \
    {#field, offsetof(fftconv_plan_desc, field), sizeof((fftconv_plan_desc *)0)->field, value}
        CASE(batch, 0),        CASE(batch, -3),        CASE(channels, 0),
        CASE(length, 0),       CASE(length, -64),      CASE(length, INT64_MAX),
        CASE(k_length, 0),     CASE(k_length, -1),     CASE(mode, 7),
        CASE(dtype, 0),        CASE(dtype, 99),        CASE(form, 9),
        CASE(threads, -1),     CASE(order, -2),        CASE(order, FFTCONV_MAX_ORDER + 1),
        CASE(single_block, 2), CASE(history, -1),      CASE(kernels, -1),
        CASE(kernels, 3),      CASE(kernel_batch, -1), CASE(kernel_batch, 3),
        CASE(k_rev_length, 5), CASE(size, 0),          CASE(device, 2),
        CASE(device, -1),      CASE(device_index, 1),  CASE(device_index, -1),
#undef CASE
    };
    fftconv_plan_desc desc;
    fftconv_plan *plan = NULL;
    int status;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t narrow = (int32_t)cases[i].value;
        char value[32];

        desc = plan_desc(2, 2, 64, 64);
        memcpy((char *)&desc + cases[i].offset,
               cases[i].width == 8 ? (void *)&cases[i].value : (void *)&narrow, cases[i].width);
        snprintf(value, sizeof value, "%lld", (long long)cases[i].value);
        plan = NULL;
        CHECK_INVALID(fftconv_plan_create(&plan, &desc), cases[i].argument);
        CHECK(names(fftconv_last_error(), value), "the message does not hold %s: \"%s\"", value,
              fftconv_last_error());
        CHECK(plan == NULL, "%s: a plan was made", cases[i].argument);
    }
    desc = plan_desc(2, 2, 64, 64);
    CHECK_INVALID(fftconv_plan_create(NULL, &desc), "plan");
    CHECK_INVALID(fftconv_plan_create(&plan, NULL), "desc");

    desc.radices = radices;
    desc.order = 2;
    CHECK_INVALID(fftconv_plan_create(&plan, &desc), "radices");
    desc = plan_desc(2, 2, 64, 64);
    desc.mode = FFTCONV_MODE_CIRCULAR;
    desc.fft_size = 63;
    CHECK_INVALID(fftconv_plan_create(&plan, &desc), "fft_size");
    desc.fft_size = 64;
    desc.k_length = 65;
    CHECK_INVALID(fftconv_plan_create(&plan, &desc), "k_length");
    desc = plan_desc(2, 2, 64, 64);
    desc.isa = "no-such-isa";
    status = fftconv_plan_create(&plan, &desc);
    CHECK(status == FFTCONV_STATUS_INVALID || status == FFTCONV_STATUS_UNSUPPORTED, "status %d",
          status);
    CHECK(names(fftconv_last_error(), "isa"), "%s", fftconv_last_error());
    desc = plan_desc(2, 2, 64, 64);
    desc.engine = "fused";
    CHECK_INVALID(fftconv_plan_create(&plan, &desc), "engine");
    desc.engine = NULL;
    desc.device = FFTCONV_DEVICE_CUDA;
    desc.isa = "baseline";
    CHECK_INVALID(fftconv_plan_create(&plan, &desc), "isa");
    desc.isa = NULL;
    if (fftconv_cuda_devices() == 0) {
        status = fftconv_plan_create(&plan, &desc);
        CHECK(status == FFTCONV_STATUS_UNSUPPORTED, "status %d", status);
        CHECK(names(fftconv_last_error(), "CUDA"), "%s", fftconv_last_error());
    }
    CHECK(plan == NULL, "a plan was made");
}

static void test_bad_operands(void)
{
    enum { B = 2, H = 2, L = 64 };
    float *u = random_floats(B * H * L, 6), *k = random_floats(H * L, 7);
    float *y = poison(B * H * L + 1);
    fftconv_plan_desc desc = plan_desc(B, H, L, L);
    fftconv_plan *plan = NULL, *other_plan = NULL;
    fftconv_spectrum *spectrum = NULL, *other = NULL, *none = NULL;
    fftconv_operands good = {.size = sizeof good,
                             .u = tensor(u, B, H, L),
                             .k = tensor(k, 1, H, L),
                             .y = tensor(y, B, H, L)},
                     o;
    int64_t bytes;
    char *memory;

    MUST(fftconv_plan_create(&plan, &desc));
    CHECK_INVALID(fftconv_forward(NULL, NULL, &good), "plan");
    CHECK_INVALID(fftconv_forward(plan, NULL, NULL), "operands");

    /* One field is wrong at a time. */
#define REFUSED(argument, change) \
    do { \
        o = good; \
        change; \
        CHECK_INVALID(fftconv_forward(plan, NULL, &o), argument); \
    } while (0)
    REFUSED("size", o.size = 3);
    REFUSED("activation", o.activation = 5);
    REFUSED("threads", o.threads = -1);
    REFUSED("u", o.u.data = NULL);
    REFUSED("k", o.k.data = NULL);
    REFUSED("y", o.y.data = NULL);
    REFUSED("u", o.u.dtype = FFTCONV_DTYPE_FLOAT16);
    REFUSED("u", o.u.shape[2] = L - 1);
    REFUSED("k", o.k.shape[0] = B);
    REFUSED("k", o.k.shape[2] = L + 1);
    REFUSED("y", o.y.shape[1] = H + 1);
    REFUSED("y", o.y.stride[2] = 0); /* an output must not repeat */
    REFUSED("y", o.y.stride[0] = 0);
    REFUSED("y", o.y.data = (char *)y + 1); /* misaligned */
    REFUSED("y", o.y.data = u + 1);         /* overlaps u, and is not u */
    REFUSED("y", o.y.data = k);
    REFUSED("in_gate", o.in_gate = tensor(u, B, H, L - 2));
    REFUSED("out_gate", o.out_gate = tensor(u, B, H + 1, L));
    REFUSED("skip", o.skip = tensor(k, 1, H, 2));
    REFUSED("mask", o.mask = tensor(k, B + 1, H, 1));
    REFUSED("k_rev", o.k_rev = tensor(k, 1, H, L));
    REFUSED("history", o.history = tensor(k, B, H, L - 1));
    REFUSED("stream", o.stream = &o);
    MUST(fftconv_workspace_bytes(plan, NULL, &good, FFTCONV_DIRECTION_FORWARD, &bytes));
    memory = aligned_alloc(64, (bytes + 128) / 64 * 64);
    REFUSED("workspace_bytes", (o.workspace = memory, o.workspace_bytes = bytes - 1));
    REFUSED("workspace", (o.workspace = memory + 8, o.workspace_bytes = bytes));
#undef REFUSED

    /* Spectra that were made for another shape or mode are refused. */
    MUST(fftconv_spectrum_create(&spectrum, plan, &good));
    desc = plan_desc(B, H, L / 2, L / 2);
    MUST(fftconv_plan_create(&other_plan, &desc));
    o = good;
    o.k = (fftconv_tensor){0};
    o.u.shape[2] = o.y.shape[2] = L / 2;
    CHECK_INVALID(fftconv_forward(other_plan, spectrum, &o), "spectrum");
    o.k = tensor(k, 1, H, L / 2);
    MUST(fftconv_spectrum_create(&other, other_plan, &o));
    fftconv_plan_destroy(other_plan);
    o = good;
    o.k = (fftconv_tensor){0};
    CHECK_INVALID(fftconv_forward(plan, other, &o), "spectrum");

    CHECK_INVALID(fftconv_spectrum_create(NULL, plan, &good), "spectrum");
    CHECK_INVALID(fftconv_spectrum_create(&none, plan, NULL), "operands");
    CHECK_INVALID(fftconv_spectrum_create(&none, NULL, &good), "plan");
#define REFUSED(argument, change) \
    do { \
        o = good; \
        change; \
        CHECK_INVALID(fftconv_spectrum_create(&none, plan, &o), argument); \
    } while (0)
    REFUSED("size", o.size = 3);
    REFUSED("k", o.k = (fftconv_tensor){0});
    REFUSED("k_rev", o.k_rev = o.k);
    REFUSED("threads", o.threads = -1);
    REFUSED("stream", o.stream = &o);
#undef REFUSED
    CHECK(none == NULL, "a spectrum was made");
    CHECK_INVALID(fftconv_workspace_bytes(NULL, NULL, &good, 0, &bytes), "plan");
    CHECK_INVALID(fftconv_workspace_bytes(plan, NULL, NULL, 0, &bytes), "operands");
    CHECK_INVALID(fftconv_workspace_bytes(plan, NULL, &good, 2, &bytes), "direction");
    CHECK_INVALID(fftconv_workspace_bytes(plan, NULL, &good, 0, NULL), "bytes");

    o = good;
    o.y = (fftconv_tensor){0};
    o.dy = tensor(u, B, H, L + 1);
    o.du = tensor(y, B, H, L);
    CHECK_INVALID(fftconv_backward(plan, NULL, &o), "dy");
    o.dy = (fftconv_tensor){0};
    CHECK_INVALID(fftconv_backward(plan, NULL, &o), "dy");

    /* Arguments are checked before anything is written. */
    for (int i = 0; i < B * H * L; i++)
        if (!isnan(y[i])) {
            CHECK(0, "a refused call wrote y[%d] = %g", i, (double)y[i]);
            break;
        }
    fftconv_spectrum_destroy(spectrum);
    fftconv_spectrum_destroy(other);
    fftconv_plan_destroy(plan);
    free(u), free(k), free(y), free(memory);
}

/* ---- Threads and fork ---------------------------------------------------- */

enum { JOB_B = 2, JOB_H = 3, JOB_L = 1000, CALLERS = 8, CALLS = 20 };

/* One plan and one spectrum, which every thread uses at the same time. */
struct job {
    const fftconv_plan *plan;
    const fftconv_spectrum *spectrum;
    float *u, *want;
};

static void convolve_and_compare(const struct job *job, int threads)
{
    enum { n = JOB_B * JOB_H * JOB_L };
    float *y = poison(n);
    fftconv_operands o = {.size = sizeof o,
                          .threads = threads,
                          .u = tensor(job->u, JOB_B, JOB_H, JOB_L),
                          .y = tensor(y, JOB_B, JOB_H, JOB_L)};

    MUST(fftconv_forward(job->plan, job->spectrum, &o));
    CHECK(!memcmp(y, job->want, n * sizeof *y), "another result");
    free(y);
}

static void *caller(void *argument)
{
    for (int i = 0; i < CALLS; i++)
        convolve_and_compare(argument, 1 + i % 3);
    /* A failure of this thread gives a message of its own. */
    CHECK_INVALID(fftconv_plan_create(NULL, NULL), "plan");
    return NULL;
}

static void test_threads_and_fork(void)
{
    enum { n = JOB_B * JOB_H * JOB_L };
    float *k = random_floats(JOB_H * JOB_L, 8);
    fftconv_plan_desc desc = plan_desc(JOB_B, JOB_H, JOB_L, JOB_L);
    fftconv_operands kernel = {.size = sizeof kernel, .k = tensor(k, 1, JOB_H, JOB_L)};
    fftconv_plan *plan = NULL, *none = NULL;
    fftconv_spectrum *spectrum = NULL;
    struct job job = {.u = random_floats(n, 9), .want = poison(n)};
    fftconv_operands o = {.size = sizeof o,
                          .threads = 1,
                          .u = tensor(job.u, JOB_B, JOB_H, JOB_L),
                          .y = tensor(job.want, JOB_B, JOB_H, JOB_L)};
    pthread_t thread[CALLERS];
    int status = -1;
    pid_t child;

    MUST(fftconv_plan_create(&plan, &desc));
    MUST(fftconv_spectrum_create(&spectrum, plan, &kernel));
    MUST(fftconv_forward(plan, spectrum, &o));
    check_rows("before the threads", job.want, k, job.u, JOB_B, JOB_H, JOB_L, JOB_L, 0);
    job.plan = plan;
    job.spectrum = spectrum;

    CHECK_INVALID(fftconv_plan_create(&none, NULL), "desc");
    for (int i = 0; i < CALLERS; i++)
        CHECK(!pthread_create(&thread[i], NULL, caller, &job), "thread %d", i);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(thread[i], NULL);
    CHECK(names(fftconv_last_error(), "desc"), "another thread's message came here: \"%s\"",
          fftconv_last_error());

    /* The pool's threads do not exist in a forked child, which must make its own.  A child that
     * hangs is killed, and counts as failed. */
    convolve_and_compare(&job, 2);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        alarm(60);
        atomic_store(&failures, 0);
        convolve_and_compare(&job, 2);
        fflush(stdout);
        _exit(atomic_load(&failures) != 0);
    }
    CHECK(child > 0, "fork");
    if (child > 0)
        waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %#x",
          (unsigned)status);
    convolve_and_compare(&job, 2);

    fftconv_spectrum_destroy(spectrum);
    fftconv_plan_destroy(plan);
    free(k), free(job.u), free(job.want);
}

/* ---- The caller's floating-point state ------------------------------------ */

static unsigned control_register(void)
{
#ifdef __x86_64__
    return __builtin_ia32_stmxcsr();
#else
    return 0;
#endif
}

/* Calls on one thread and on two, with an overflow and an invalid operation in them, and one that
 * fails.  Whatever rounding and exceptions the caller has set, the results are the same and the
 * state is left as it was.  (1,000 taps of 1e-39, which are denormal, count as zeros.) */
static void test_float_state(void)
{
    const int64_t L = 1000;
    float *u = random_floats((size_t)(2 * L), 1), *k = random_floats((size_t)(2 * L), 2);
    float *y[2] = {poison((size_t)(2 * L)), poison((size_t)(2 * L))};
    float *du = poison((size_t)(2 * L)), *dk = poison((size_t)(2 * L));
    const fftconv_plan_desc desc = plan_desc(1, 2, L, L);
    fftconv_plan *plan;

    MUST(fftconv_plan_create(&plan, &desc));
    u[5] = 3e38f;
    for (int64_t i = 0; i < L; i++)
        k[L + i] = 1e-39f;
    for (int threads = 1; threads <= 2; threads++) {
        fftconv_operands o = {.size = sizeof o,
                              .threads = threads,
                              .u = tensor(u, 1, 2, L),
                              .k = tensor(k, 1, 2, L),
                              .y = tensor(y[0], 1, 2, L),
                              .dy = tensor(u, 1, 2, L),
                              .du = tensor(du, 1, 2, L),
                              .dk = tensor(dk, 1, 2, L)};
        MUST(fftconv_forward(plan, NULL, &o));
        o.y = tensor(y[1], 1, 2, L);
        feclearexcept(FE_ALL_EXCEPT);
        feraiseexcept(FE_DIVBYZERO);
        fesetround(FE_UPWARD);
        const int raised = fetestexcept(FE_ALL_EXCEPT);
        const unsigned before = control_register();
        int status = fftconv_forward(plan, NULL, &o);
        status |= fftconv_backward(plan, NULL, &o);
        const int bad = fftconv_forward(plan, NULL, NULL);
        const unsigned after = control_register();
        CHECK(fegetround() == FE_UPWARD, "%d", fegetround());
        CHECK(fetestexcept(FE_ALL_EXCEPT) == raised, "%d", fetestexcept(FE_ALL_EXCEPT));
        CHECK(before == after, "%#x, then %#x", before, after);
        fesetround(FE_TONEAREST);
        feclearexcept(FE_ALL_EXCEPT);
        CHECK(status == FFTCONV_STATUS_OK && bad == FFTCONV_STATUS_INVALID, "%d, %d", status, bad);
        CHECK(!memcmp(y[0], y[1], (size_t)(2 * L) * sizeof *y[0]), "rounded differently");
    }
    fftconv_plan_destroy(plan);
    free(u), free(k), free(y[0]), free(y[1]), free(du), free(dk);
}

/* ---- Cost model ---------------------------------------------------------- */

static void test_cost(void)
{
    fftconv_hardware a100 = {.size = sizeof a100};
    int64_t radices[3] = {0};
    const int64_t balanced[3] = {16, 16, 8}, bad[2] = {16, -4};
    double seconds = NAN, want = 0;

    MUST(fftconv_hardware_get("A100", &a100));
    MUST(fftconv_balanced_radices(2048, 3, radices));
    CHECK(!memcmp(radices, balanced, sizeof radices), "%d %d %d", (int)radices[0], (int)radices[1],
          (int)radices[2]);

    /* Equation 2, with 2048 points in fast memory at every stage. */
    MUST(fftconv_monarch_cost(radices, 3, &a100, &seconds));
    for (int i = 0; i < 3; i++)
        want += 16. * 2048 * radices[i] / (radices[i] >= a100.mu ? a100.tau_m : a100.tau_g) +
                4. * 2048 / a100.sigma_s;
    CHECK(fabs(seconds - want) <= 1e-12 * want, "%g, not %g", seconds, want);

    CHECK_INVALID(fftconv_hardware_get("no-such-machine", &a100), "name");
    CHECK_INVALID(fftconv_balanced_radices(2047, 3, radices), "n");
    CHECK_INVALID(fftconv_monarch_cost(bad, 2, &a100, &seconds), "radices");
    CHECK_INVALID(fftconv_monarch_cost(radices, 3, NULL, &seconds), "hardware");
}

int main(void)
{
    test_library();
    test_shape(3, 2, 100, 100, 0);
    test_shape(2, 3, 1, 1, 0);
    test_shape(1, 1, 1009, 300, 0); /* a prime length */
    test_shape(2, 2, 257, 400, 0);  /* taps beyond the row */
    test_shape(1, 2, 4096, 4096, 0);
    test_shape(3, 2, 90, 96, 96);
    test_shape(2, 2, 101, 101, 101); /* a prime modulus */
    test_shape(1, 2, 1000, 1024, 1024);
    test_backward();
    test_two_sided();
    test_history();
    test_complex();
    test_weights();
    test_contract();
    test_bad_plans();
    test_bad_operands();
    test_threads_and_fork();
    test_float_state();
    test_cost();
    printf("%d checks, %d failed\n", atomic_load(&checks), atomic_load(&failures));
    return atomic_load(&failures) != 0;
}
