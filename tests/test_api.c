/* test_api: the library as a C program sees it, through the public header.
 *
 * Every result is compared with a direct sum in double; outputs are filled
 * with NaN before the call.  No framework: CHECK counts, main reports. */
#include <fftconv.h>

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int failures, checks;

#define CHECK(condition, ...)                                                  \
    do {                                                                       \
        atomic_fetch_add(&checks, 1);                                          \
        if (!(condition)) {                                                    \
            atomic_fetch_add(&failures, 1);                                    \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);             \
            printf(__VA_ARGS__);                                               \
            printf("\n");                                                      \
        }                                                                      \
    } while (0)

/* A status that must be FFTCONV_OK for the test to go on. */
#define MUST(call)                                                             \
    do {                                                                       \
        int status_ = (call);                                                  \
        CHECK(status_ == FFTCONV_OK, "status %d: %s", status_,                 \
              fftconv_last_error());                                           \
        if (status_ != FFTCONV_OK)                                             \
            return;                                                            \
    } while (0)

/* ---- Data and the oracle ------------------------------------------------- */

/* Uniform in (-1, 1), the same on every run and machine. */
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
    return (fftconv_tensor){.data = data,
                            .dtype = FFTCONV_FLOAT32,
                            .shape = {B, H, L},
                            .stride = {H * L, L, 1}};
}

/* y[t] = sum_s k[s] z[t-s]; N > 0: t-s is taken modulo N, else y is causal. */
static void direct(double *y, const float *k, int64_t Lk, const float *z,
                   int64_t L, int64_t N)
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

/* ||got - want|| / max(||want||, ||k|| ||z||); NaN where got has one. */
static double row_error(const float *got, const double *want, int64_t L,
                        double scale)
{
    double error = 0, size = 0;

    for (int64_t t = 0; t < L; t++) {
        error += (got[t] - want[t]) * (got[t] - want[t]);
        size += want[t] * want[t];
    }
    return sqrt(error) / fmax(sqrt(size), scale);
}

/* Every row of y against the direct sum. */
static void check_rows(const char *what, const float *y, const float *k,
                       const float *u, int64_t B, int64_t H, int64_t L,
                       int64_t Lk, int64_t N)
{
    double *want = malloc(L * sizeof *want);

    for (int64_t row = 0; want && row < B * H; row++) {
        const float *k_row = k + row % H * Lk;
        double error;

        direct(want, k_row, Lk, u + row * L, L, N);
        error = row_error(y + row * L, want, L,
                          norm(k_row, Lk) * norm(u + row * L, L));
        CHECK(error <= 5e-7, "%s: row %d, L=%d: error %g", what, (int)row,
              (int)L, error);
    }
    free(want);
}

static fftconv_plan_desc plan_desc(int64_t B, int64_t H, int64_t L, int64_t Lk)
{
    return (fftconv_plan_desc){.size = sizeof(fftconv_plan_desc),
                               .batch = B,
                               .channels = H,
                               .length = L,
                               .kernel_length = Lk,
                               .mode = FFTCONV_CAUSAL,
                               .dtype = FFTCONV_FLOAT32};
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

/* One shape, both ways: with the kernel in the call, and as a spectrum; on one
 * thread and on two, which must agree to the bit. */
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
        desc.mode = FFTCONV_CIRCULAR;
        desc.fft_size = N;
    }
    MUST(fftconv_plan_create(&plan, &desc));
    MUST(fftconv_plan_get_info(plan, &info));
    CHECK(N ? info.fft_size == N : info.fft_size >= L, "fft_size %lld",
          (long long)info.fft_size);
    MUST(fftconv_forward(plan, NULL, &o));
    check_rows("kernel in the call", y, k, u, B, H, L, Lk, N);

    o.y.data = again;
    o.threads = 2;
    MUST(fftconv_forward(plan, NULL, &o));
    CHECK(!memcmp(y, again, B * H * L * sizeof *y),
          "B=%d H=%d L=%d: 1 and 2 threads differ", (int)B, (int)H, (int)L);

    MUST(fftconv_spectrum_create(&spectrum, plan, &o.k, 0));
    o.k = (fftconv_tensor){0};
    for (int64_t i = 0; i < B * H * L; i++)
        again[i] = NAN;
    MUST(fftconv_forward(plan, spectrum, &o));
    check_rows("spectrum", again, k, u, B, H, L, Lk, N);

    /* Workspace of the caller's; y may be u itself. */
    for (int64_t i = 0; i < B * H * L; i++)
        again[i] = u[i];
    o.u.data = again;
    MUST(fftconv_workspace_bytes(plan, FFTCONV_FORWARD, 2, &o.workspace_bytes));
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

/* <y, dy> = <u, du> = <k, dk>: the convolution is linear in u and in k. */
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

/* ---- Bad arguments ------------------------------------------------------- */

/* Is `word` in `text`, with no letter, digit or _ on either side? */
static int names(const char *text, const char *word)
{
    const char *letters = "abcdefghijklmnopqrstuvwxyz"
                          "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    size_t n = strlen(word);

    for (const char *p = text; (p = strstr(p, word)); p++)
        if ((p == text || !strchr(letters, p[-1])) &&
            (!p[n] || !strchr(letters, p[n])))
            return 1;
    return 0;
}

/* `status` must be FFTCONV_INVALID, and the message name `argument`. */
#define CHECK_INVALID(call, argument)                                          \
    do {                                                                       \
        int status_ = (call);                                                  \
        CHECK(status_ == FFTCONV_INVALID, "%s: status %d", argument, status_); \
        CHECK(names(fftconv_last_error(), argument),                           \
              "the message does not name %s: \"%s\"", argument,                \
              fftconv_last_error());                                           \
    } while (0)

static void test_bad_plans(void)
{
    int64_t radices[] = {16, 200};
    /* One field of a right description wrong at a time. */
    const struct {
        const char *argument;
        size_t offset, width;
        int64_t value;
    } cases[] = {
#define CASE(field, value)                                                     \
    {#field, offsetof(fftconv_plan_desc, field),                               \
     sizeof((fftconv_plan_desc *)0)->field, value}
        CASE(batch, 0),
        CASE(batch, -3),
        CASE(channels, 0),
        CASE(length, 0),
        CASE(length, -64),
        CASE(length, INT64_MAX),
        CASE(kernel_length, 0),
        CASE(kernel_length, -1),
        CASE(mode, 7),
        CASE(dtype, 0),
        CASE(dtype, 99),
        CASE(form, 9),
        CASE(threads, -1),
        CASE(order, -2),
        CASE(order, FFTCONV_MAX_ORDER + 1),
        CASE(size, 0),
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
               cases[i].width == 8 ? (void *)&cases[i].value : (void *)&narrow,
               cases[i].width);
        snprintf(value, sizeof value, "%lld", (long long)cases[i].value);
        plan = NULL;
        CHECK_INVALID(fftconv_plan_create(&plan, &desc), cases[i].argument);
        CHECK(names(fftconv_last_error(), value),
              "the message does not hold %s: \"%s\"", value,
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
    desc.mode = FFTCONV_CIRCULAR;
    desc.fft_size = 63;
    CHECK_INVALID(fftconv_plan_create(&plan, &desc), "fft_size");
    desc.fft_size = 64;
    desc.kernel_length = 65;
    CHECK_INVALID(fftconv_plan_create(&plan, &desc), "kernel_length");
    desc = plan_desc(2, 2, 64, 64);
    desc.isa = "no-such-isa";
    status = fftconv_plan_create(&plan, &desc);
    CHECK(status == FFTCONV_INVALID || status == FFTCONV_UNSUPPORTED,
          "status %d", status);
    CHECK(names(fftconv_last_error(), "isa"), "%s", fftconv_last_error());
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

    /* One field wrong at a time. */
#define REFUSED(argument, change)                                              \
    do {                                                                       \
        o = good;                                                              \
        change;                                                                \
        CHECK_INVALID(fftconv_forward(plan, NULL, &o), argument);              \
    } while (0)
    REFUSED("size", o.size = 3);
    REFUSED("activation", o.activation = 5);
    REFUSED("threads", o.threads = -1);
    REFUSED("u", o.u.data = NULL);
    REFUSED("k", o.k.data = NULL);
    REFUSED("y", o.y.data = NULL);
    REFUSED("u", o.u.dtype = FFTCONV_FLOAT16);
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
    MUST(fftconv_workspace_bytes(plan, FFTCONV_FORWARD, 0, &bytes));
    memory = aligned_alloc(64, (bytes + 128) / 64 * 64);
    REFUSED("workspace_bytes",
            (o.workspace = memory, o.workspace_bytes = bytes - 1));
    REFUSED("workspace",
            (o.workspace = memory + 8, o.workspace_bytes = bytes));
#undef REFUSED

    /* Spectra made for another shape or mode. */
    MUST(fftconv_spectrum_create(&spectrum, plan, &good.k, 0));
    desc = plan_desc(B, H, L / 2, L / 2);
    MUST(fftconv_plan_create(&other_plan, &desc));
    o = good;
    o.k = (fftconv_tensor){0};
    o.u.shape[2] = o.y.shape[2] = L / 2;
    CHECK_INVALID(fftconv_forward(other_plan, spectrum, &o), "spectrum");
    o.k = tensor(k, 1, H, L / 2);
    MUST(fftconv_spectrum_create(&other, other_plan, &o.k, 0));
    fftconv_plan_destroy(other_plan);
    o = good;
    o.k = (fftconv_tensor){0};
    CHECK_INVALID(fftconv_forward(plan, other, &o), "spectrum");

    CHECK_INVALID(fftconv_spectrum_create(NULL, plan, &good.k, 0), "spectrum");
    CHECK_INVALID(fftconv_spectrum_create(&none, plan, NULL, 0), "k");
    CHECK_INVALID(fftconv_spectrum_create(&none, NULL, &good.k, 0), "plan");
    CHECK(none == NULL, "a spectrum was made");
    CHECK_INVALID(fftconv_workspace_bytes(plan, 2, 0, &bytes), "direction");
    CHECK_INVALID(fftconv_workspace_bytes(plan, 0, 0, NULL), "bytes");

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

/* One plan and spectrum that every thread uses at once. */
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
    /* A failure of this thread's own, for its own message. */
    CHECK_INVALID(fftconv_plan_create(NULL, NULL), "plan");
    return NULL;
}

static void test_threads_and_fork(void)
{
    enum { n = JOB_B * JOB_H * JOB_L };
    float *k = random_floats(JOB_H * JOB_L, 8);
    fftconv_plan_desc desc = plan_desc(JOB_B, JOB_H, JOB_L, JOB_L);
    fftconv_tensor kernel = tensor(k, 1, JOB_H, JOB_L);
    fftconv_plan *plan = NULL;
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
    MUST(fftconv_spectrum_create(&spectrum, plan, &kernel, 0));
    MUST(fftconv_forward(plan, spectrum, &o));
    check_rows("before the threads", job.want, k, job.u, JOB_B, JOB_H, JOB_L,
               JOB_L, 0);
    job.plan = plan;
    job.spectrum = spectrum;

    CHECK_INVALID(fftconv_plan_create(&plan, NULL), "desc");
    for (int i = 0; i < CALLERS; i++)
        CHECK(!pthread_create(&thread[i], NULL, caller, &job), "thread %d", i);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(thread[i], NULL);
    CHECK(names(fftconv_last_error(), "desc"),
          "another thread's message came here: \"%s\"", fftconv_last_error());

    /* The pool's threads do not live on in a child: it must make its own.
     * A child that hangs is killed, and counts as failed. */
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
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0,
          "the child ended with status %#x", (unsigned)status);
    convolve_and_compare(&job, 2);

    fftconv_spectrum_destroy(spectrum);
    fftconv_plan_destroy(plan);
    free(k), free(job.u), free(job.want);
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
    CHECK(!memcmp(radices, balanced, sizeof radices), "%d %d %d",
          (int)radices[0], (int)radices[1], (int)radices[2]);

    /* Equation 2; 2048 points are in fast memory at every stage. */
    MUST(fftconv_monarch_cost(radices, 3, &a100, &seconds));
    for (int i = 0; i < 3; i++)
        want += 16. * 2048 * radices[i] /
                    (radices[i] >= a100.mu ? a100.tau_m : a100.tau_g) +
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
    test_bad_plans();
    test_bad_operands();
    test_threads_and_fork();
    test_cost();
    printf("%d checks, %d failed\n", atomic_load(&checks),
           atomic_load(&failures));
    return atomic_load(&failures) != 0;
}
