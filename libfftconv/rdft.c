/* Real DFTs of any length, with their bins in natural order: filters that are given as half
 * spectra come in by them and their gradients go out, and patterns act on kernels (filter.c).
 *
 * An even number n of reals is taken as N = n/2 complex points z[j] = x[2j] + i x[2j + 1].
 * With W = exp(2 pi i / n) and Z the DFT of z (FlashFFTConv, appendix A.1),
 *     E[m] = (Z[m] + Z*[N - m]) / 2,   O[m] = (Z[m] - Z*[N - m]) / 2i,
 *     X[m] = E[m] + W^-m O[m],
 * and back E[m] = (X[m] + X*[N - m]) / 2, O[m] = W^m (X[m] - X*[N - m]) / 2, Z = E + i O.
 * An odd number n of reals is taken as N = n points whose imaginary parts are zero.
 *
 * Z comes from the stages of a plan of N points.  There are none where N has a prime factor
 * above 7, and none are used for odd n.  Then (Bluestein 1970)
 *     Z[m] = c*[m] sum_j (z[j] c*[j]) c[m - j]   with the chirp c[t] = exp(i pi t^2 / N)
 * is a gated two-sided convolution, which is done in complex128. */
#include "call.h"
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINT_BYTES = 16 }; /* of a complex128 */

struct fftconv_rdft {
    int64_t n, N; /* the reals of a row, and the complex points of its transform */
    int dtype;    /* of rows: float32 or float64 */
    int threads;
    fftconv_plan *plan;
    fftconv_spectrum *spectrum; /* of the chirp; NULL where the plan has stages of N points */
    double *chirp;              /* c*, N points */
    double *W;                  /* W^m for m = 0 ... N/2, where n is even */
    int64_t *offset;            /* of Re Z[m] in a row of spectra, where there are stages */
    int64_t lanes;              /* Im Z[m] lies so many numbers behind Re Z[m] */
    int64_t spectra_bytes, work_bytes; /* of a row of spectra; of a worker */
};

/* ---- Making one ----------------------------------------------------------------------------- */

/* The number of radices of N, the largest divisors first; 0 where it has a prime factor above
 * 7. */
static int largest_radices(int64_t N, int64_t *radices)
{
    int order = 0;
    if (!is_smooth(N))
        return 0;
    for (int64_t r = FFTCONV_MAX_RADIX; r > 1 && N > 1; r--)
        for (; N % r == 0 && order < FFTCONV_MAX_ORDER; N /= r)
            radices[order++] = r;
    return N == 1 ? order : 0;
}

/* A plan whose transforms have just N points.  What the planner chooses may be padded: then the
 * stages are named.  t->plan stays NULL where there are no such stages. */
static int create_staged_plan(struct fftconv_rdft *t, fftconv_plan_desc *d)
{
    fftconv_plan_info info = {.size = sizeof info};
    int64_t radices[FFTCONV_MAX_ORDER];
    int status = fftconv_plan_create(&t->plan, d);
    if (status || (status = fftconv_plan_get_info(t->plan, &info)))
        return status;
    if (info.transform_length == t->N)
        return FFTCONV_STATUS_OK;
    fftconv_plan_destroy(t->plan);
    t->plan = NULL;
    if (!(d->order = largest_radices(t->N, radices)))
        return FFTCONV_STATUS_OK;
    d->radices = radices;
    return fftconv_plan_create(&t->plan, d);
}

/* exp(2 pi i k / n) */
static void root_of_unity(int64_t k, int64_t n, double *re, double *im)
{
    const double angle = 2 * 3.14159265358979323846 * ((double)k / (double)n);
    *re = cos(angle), *im = sin(angle);
}

/* The plan of a two-sided convolution with the chirp, and the chirp's spectrum. */
static int create_chirp_plan(struct fftconv_rdft *t, fftconv_plan_desc *d)
{
    const int64_t N = t->N, bytes = N * POINT_BYTES;
    d->dtype = FFTCONV_DTYPE_COMPLEX128;
    d->mode = FFTCONV_MODE_TWO_SIDED;
    d->fft_size = 0;
    d->k_rev_length = N;
    d->form = FFTCONV_FORM_AUTO;
    d->radices = NULL;
    d->order = 0;
    if (!(t->chirp = aligned_new(bytes)))
        return fail_memory(bytes);
    for (int64_t i = 0, square = 0; i < N; i++) { /* square = i^2 mod 2N */
        root_of_unity(square, 2 * N, &t->chirp[2 * i], &t->chirp[2 * i + 1]);
        square = (square + 2 * i + 1) % (2 * N);
    }
    /* c[-t] = c[t], so that the same taps act on both sides, and lag 0 is halved: both count it. */
    t->chirp[0] = 0.5;
    const fftconv_tensor taps = contiguous_row(t->chirp, FFTCONV_DTYPE_COMPLEX128, N);
    const fftconv_operands kernel = {.size = sizeof kernel, .k = taps, .k_rev = taps};
    int status = fftconv_plan_create(&t->plan, d);
    if (!status)
        status = fftconv_spectrum_create(&t->spectrum, t->plan, &kernel);
    t->chirp[0] = 1;
    for (int64_t i = 0; i < N; i++)
        t->chirp[2 * i + 1] *= -1;
    return status;
}

static int make_tables(struct fftconv_rdft *t)
{
    const int64_t points = t->N / 2 + 1;
    fftconv_plan_info info = {.size = sizeof info};
    const int status = fftconv_plan_get_info(t->plan, &info);
    if (status)
        return status;
    t->lanes = info.lanes;
    t->spectra_bytes = round_up(info.spectra_row_bytes, ALIGNMENT);
    t->work_bytes = t->spectrum
                        ? 2 * round_up(t->N * POINT_BYTES, ALIGNMENT)
                        : t->spectra_bytes + round_up(t->n * dtype_size(t->dtype), ALIGNMENT);
    if (t->n % 2)
        return FFTCONV_STATUS_OK;
    if (!(t->W = aligned_new(2 * points * (int64_t)sizeof *t->W)))
        return fail_memory(2 * points * (int64_t)sizeof *t->W);
    for (int64_t m = 0; m < points; m++)
        root_of_unity(m, t->n, &t->W[2 * m], &t->W[2 * m + 1]);
    if (t->spectrum)
        return FFTCONV_STATUS_OK;
    if (!(t->offset = aligned_new(t->N * (int64_t)sizeof *t->offset)))
        return fail_memory(t->N * (int64_t)sizeof *t->offset);
    return fftconv_spectra_offsets(t->plan, t->offset);
}

static int check_rdft_desc(const fftconv_rdft_desc *desc)
{
    int status;
    if (!desc)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (desc->size != sizeof *desc)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", desc->size,
                    sizeof *desc);
    if ((status = check_number("n", desc->n, 1, (int64_t)1 << ROW_BITS, "1 ... 2^40")) ||
        (status = check_number("dtype", desc->dtype, FFTCONV_DTYPE_FLOAT64, FFTCONV_DTYPE_FLOAT32,
                               "float64 (1) or float32 (2)")))
        return status;
    return check_number("threads", desc->threads, 0, MAX_THREADS, "0 (all) ... 255");
}

int fftconv_rdft_create(fftconv_rdft **out, const fftconv_rdft_desc *desc)
{
    int status;
    if (!out)
        return fail(FFTCONV_STATUS_INVALID, "rdft is NULL, must point at a place for it");
    *out = NULL;
    if ((status = check_rdft_desc(desc)))
        return status;
    struct fftconv_rdft *t = calloc(1, sizeof *t);
    if (!t)
        return fail_memory(sizeof *t);
    const bool odd = desc->n % 2;
    t->n = desc->n;
    t->N = odd ? t->n : t->n / 2;
    t->dtype = desc->dtype;
    t->threads = desc->threads ? desc->threads : fftconv_default_threads();
    fftconv_plan_desc d = {.size = sizeof d,
                           .batch = 1,
                           .channels = 1,
                           .length = t->N,
                           .k_length = t->N,
                           .fft_size = t->N,
                           .mode = FFTCONV_MODE_CIRCULAR,
                           .form = FFTCONV_FORM_COMPLEX,
                           .isa = desc->isa,
                           .dtype = t->dtype == FFTCONV_DTYPE_FLOAT64 ? FFTCONV_DTYPE_COMPLEX128
                                                                      : FFTCONV_DTYPE_COMPLEX64,
                           .single_block = 1};
    status = odd ? FFTCONV_STATUS_OK : create_staged_plan(t, &d);
    if (!status && !t->plan)
        status = create_chirp_plan(t, &d);
    if (!status)
        status = make_tables(t);
    if (status) {
        fftconv_rdft_destroy(t);
        return status;
    }
    *out = t;
    return FFTCONV_STATUS_OK;
}

void fftconv_rdft_destroy(fftconv_rdft *t)
{
    if (!t)
        return;
    fftconv_spectrum_destroy(t->spectrum);
    fftconv_plan_destroy(t->plan);
    aligned_free(t->chirp);
    aligned_free(t->W);
    aligned_free(t->offset);
    free(t);
}

/* ---- Bins and points ------------------------------------------------------------------------ */

/* The points Z of a row's transform, and the bins X[0 ... n/2] that are made of them or that
 * they are made of. */
struct points {
    const struct fftconv_rdft *t;
    void *Z;
    char *bins;
    int64_t stride; /* of bins, in complex numbers */
    double scale;   /* the result is multiplied by it */
};

/* For even n.  Re Z[m] is number at(m) of Z, and Im Z[m] lies `apart` numbers behind it: where
 * the stages leave them, or interleaved.  Bins m and N - m are made of points m and N - m, and
 * back. */
#define DEFINE_POINTS(name, point, bin, at, apart) \
    static void bins_from_##name(const struct points *p) \
    { \
        const int64_t N = p->t->N; \
        const point *Z = p->Z; \
        for (int64_t m = 0; m <= N / 2; m++) { \
            const int64_t a = at(m), b = at(m ? N - m : 0); \
            const double ar = (double)Z[a], ai = (double)Z[a + (apart)]; \
            const double br = (double)Z[b], bi = (double)Z[b + (apart)]; \
            const double er = ar + br, ei = ai - bi, or_ = ai + bi, oi = br - ar; \
            const double c = p->t->W[2 * m], s = -p->t->W[2 * m + 1]; \
            const double wr = c * or_ - s * oi, wi = c * oi + s * or_; \
            bin *x = (bin *)p->bins + 2 * m * p->stride; \
            bin *y = (bin *)p->bins + 2 * (N - m) * p->stride; \
            x[0] = (bin)(p->scale * 0.5 * (er + wr)); \
            x[1] = (bin)(p->scale * 0.5 * (ei + wi)); \
            y[0] = (bin)(p->scale * 0.5 * (er - wr)); \
            y[1] = (bin)(p->scale * 0.5 * (wi - ei)); \
        } \
    } \
    /* Twice Z, of which N points then add up to n times the inverse DFT; its conjugate where \
     * sign is -1. */ \
    static void bins_to_##name(const struct points *p, double sign) \
    { \
        const int64_t N = p->t->N; \
        point *Z = p->Z; \
        for (int64_t m = 0; m <= N / 2; m++) { \
            const bin *x = (const bin *)p->bins + 2 * m * p->stride; \
            const bin *y = (const bin *)p->bins + 2 * (N - m) * p->stride; \
            const double ar = (double)x[0], ai = m ? (double)x[1] : 0; \
            const double br = (double)y[0], bi = m ? (double)y[1] : 0; \
            const double er = ar + br, ei = ai - bi, dr = ar - br, di = ai + bi; \
            const double c = p->t->W[2 * m], s = p->t->W[2 * m + 1]; \
            const double or_ = c * dr - s * di, oi = c * di + s * dr; \
            const int64_t a = at(m), b = at(m ? N - m : 0); \
            if (m) { \
                Z[b] = (point)(p->scale * (er + oi)); \
                Z[b + (apart)] = (point)(p->scale * sign * (or_ - ei)); \
            } \
            Z[a] = (point)(p->scale * (er - oi)); \
            Z[a + (apart)] = (point)(p->scale * sign * (ei + or_)); \
        } \
    }
#define STAGED(m) p->t->offset[m]
#define INTERLEAVED(m) (2 * (m))
DEFINE_POINTS(f32, float, float, STAGED, p->t->lanes)
DEFINE_POINTS(f64, double, double, STAGED, p->t->lanes)
DEFINE_POINTS(chirp_f32, double, float, INTERLEAVED, 1)
DEFINE_POINTS(chirp_f64, double, double, INTERLEAVED, 1)
#undef STAGED
#undef INTERLEAVED
#undef DEFINE_POINTS

/* The same for odd n, whose points are the bins and the conjugates of those, mirrored:
 * Z[m] = X[m] and Z[n - m] = X*[m], interleaved. */
#define DEFINE_ODD(name, bin) \
    static void bins_from_odd_##name(const struct points *p) \
    { \
        const double *Z = p->Z; \
        for (int64_t m = 0; m <= p->t->n / 2; m++) { \
            bin *x = (bin *)p->bins + 2 * m * p->stride; \
            x[0] = (bin)(p->scale * Z[2 * m]); \
            x[1] = (bin)(p->scale * Z[2 * m + 1]); \
        } \
    } \
    /* The conjugates of the points, whose DFT is n times the inverse DFT, which is real. */ \
    static void bins_to_odd_##name(const struct points *p) \
    { \
        const int64_t n = p->t->n; \
        double *Z = p->Z; \
        for (int64_t m = 0; m <= n / 2; m++) { \
            const bin *x = (const bin *)p->bins + 2 * m * p->stride; \
            const double re = p->scale * (double)x[0], im = p->scale * (double)x[1]; \
            if (m) { \
                Z[2 * (n - m)] = re; \
                Z[2 * (n - m) + 1] = im; \
            } \
            Z[2 * m] = re; \
            Z[2 * m + 1] = m ? -im : 0; \
        } \
    }
DEFINE_ODD(f32, float)
DEFINE_ODD(f64, double)
#undef DEFINE_ODD

/* ---- Rows ----------------------------------------------------------------------------------- */

struct rdft_call {
    const struct fftconv_rdft *t;
    const fftconv_tensor *rows, *bins;
    double scale;
    bool inverse;
    int inside; /* threads within a row */
    char *work;
};

static char *row_at(const fftconv_tensor *x, int64_t i)
{
    return (char *)array_of(x, i / x->shape[1], i % x->shape[1]).data;
}

/* to = from, n reals of either precision; every second one, an imaginary part, times sign. */
static void copy_reals(void *to, int to_dtype, int64_t to_stride, const void *from, int from_dtype,
                       int64_t from_stride, int64_t n, double sign)
{
    for (int64_t i = 0; i < n; i++) {
        double x = from_dtype == FFTCONV_DTYPE_FLOAT64
                       ? ((const double *)from)[i * from_stride]
                       : (double)((const float *)from)[i * from_stride];
        if (i % 2)
            x *= sign;
        if (to_dtype == FFTCONV_DTYPE_FLOAT64)
            ((double *)to)[i * to_stride] = x;
        else
            ((float *)to)[i * to_stride] = (float)x;
    }
}

/* to = the DFT of from, N points of complex128 each. */
static int chirp_transform(const struct fftconv_rdft *t, void *from, void *to, int inside)
{
    fftconv_operands o = {.size = sizeof o, .threads = inside};
    o.u = contiguous_row(from, FFTCONV_DTYPE_COMPLEX128, t->N);
    o.y = contiguous_row(to, FFTCONV_DTYPE_COMPLEX128, t->N);
    o.in_gate = o.out_gate = contiguous_row(t->chirp, FFTCONV_DTYPE_COMPLEX128, t->N);
    return fftconv_forward(t->plan, t->spectrum, &o);
}

static int chirp_row(const struct rdft_call *call, char *row, int64_t stride, struct points *p,
                     char *work)
{
    const struct fftconv_rdft *t = call->t;
    void *from = work, *to = work + round_up(t->N * POINT_BYTES, ALIGNMENT);
    const bool wide = t->dtype == FFTCONV_DTYPE_FLOAT64;
    if (call->inverse) { /* the conjugate of the DFT of the conjugates */
        p->Z = from;
        wide ? bins_to_chirp_f64(p, -1) : bins_to_chirp_f32(p, -1);
        const int status = chirp_transform(t, from, to, call->inside);
        copy_reals(row, t->dtype, stride, to, FFTCONV_DTYPE_FLOAT64, 1, t->n, -1);
        return status;
    }
    p->Z = to;
    copy_reals(from, FFTCONV_DTYPE_FLOAT64, 1, row, t->dtype, stride, t->n, 1);
    const int status = chirp_transform(t, from, to, call->inside);
    wide ? bins_from_chirp_f64(p) : bins_from_chirp_f32(p);
    return status;
}

static int odd_row(const struct rdft_call *call, char *row, int64_t stride, struct points *p,
                   char *work)
{
    const struct fftconv_rdft *t = call->t;
    void *from = work, *to = work + round_up(t->N * POINT_BYTES, ALIGNMENT);
    const bool wide = t->dtype == FFTCONV_DTYPE_FLOAT64;
    if (call->inverse) {
        p->Z = from;
        wide ? bins_to_odd_f64(p) : bins_to_odd_f32(p);
        const int status = chirp_transform(t, from, to, call->inside);
        copy_reals(row, t->dtype, stride, to, FFTCONV_DTYPE_FLOAT64, 2, t->n, 1);
        return status;
    }
    p->Z = to;
    memset(from, 0, (size_t)(t->n * POINT_BYTES));
    copy_reals(from, FFTCONV_DTYPE_FLOAT64, 2, row, t->dtype, stride, t->n, 1);
    const int status = chirp_transform(t, from, to, call->inside);
    wide ? bins_from_odd_f64(p) : bins_from_odd_f32(p);
    return status;
}

static int staged_row(const struct rdft_call *call, char *row, int64_t stride, struct points *p,
                      char *work)
{
    const struct fftconv_rdft *t = call->t;
    const bool wide = t->dtype == FFTCONV_DTYPE_FLOAT64;
    char *pairs = stride == 1 ? row : work + t->spectra_bytes;
    const fftconv_spectra_desc d = {
        .size = sizeof d,
        .threads = call->inside,
        .side = call->inverse ? FFTCONV_SIDE_OUTPUT : FFTCONV_SIDE_INPUT,
        .rows = contiguous_row(pairs, wide ? FFTCONV_DTYPE_COMPLEX128 : FFTCONV_DTYPE_COMPLEX64,
                               t->N),
        .spectra = work};
    p->Z = work;
    if (call->inverse) {
        memset(work, 0, (size_t)t->spectra_bytes); /* places that hold no bin */
        wide ? bins_to_f64(p, 1) : bins_to_f32(p, 1);
        const int status = fftconv_spectra_to_rows(t->plan, &d);
        if (pairs != row)
            copy_reals(row, t->dtype, stride, pairs, t->dtype, 1, t->n, 1);
        return status;
    }
    if (pairs != row)
        copy_reals(pairs, t->dtype, 1, row, t->dtype, stride, t->n, 1);
    const int status = fftconv_rows_to_spectra(t->plan, &d);
    wide ? bins_from_f64(p) : bins_from_f32(p);
    return status;
}

static int rdft_task(void *context, int64_t i, int worker)
{
    const struct rdft_call *call = context;
    struct points p = {.t = call->t,
                       .bins = row_at(call->bins, i),
                       .stride = call->bins->stride[2],
                       .scale = call->scale};
    return (call->t->n % 2      ? odd_row
            : call->t->spectrum ? chirp_row
                                : staged_row)(call, row_at(call->rows, i), call->rows->stride[2],
                                              &p, call->work + worker * call->t->work_bytes);
}

/* The direction says which of the two is the output; both have the first two axes of rows. */
static int check_rows_and_bins(const fftconv_rdft *t, const fftconv_tensor *rows,
                               const fftconv_tensor *bins, bool inverse)
{
    if (!rows || !bins)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", rows ? "bins" : "rows");
    const bool wide = t->dtype == FFTCONV_DTYPE_FLOAT64;
    const int64_t n0 = max64(1, rows->shape[0]), n1 = max64(1, rows->shape[1]);
    const struct operand all[] = {
        {"rows", rows, {n0, n1, t->n}, DTYPE_BIT(t->dtype), .is = NEEDED | (inverse ? OUTPUT : 0)},
        {"bins",
         bins,
         {n0, n1, t->n / 2 + 1},
         DTYPE_BIT(wide ? FFTCONV_DTYPE_COMPLEX128 : FFTCONV_DTYPE_COMPLEX64),
         .is = NEEDED | (inverse ? 0 : OUTPUT)},
    };
    bool used[2];
    return check_table(all, 2, false, used);
}

static int run(const fftconv_rdft *t, const fftconv_tensor *rows, const fftconv_tensor *bins,
               double scale, bool inverse)
{
    int status;
    if (!t)
        return fail(FFTCONV_STATUS_INVALID, "rdft is NULL");
    if ((status = check_rows_and_bins(t, rows, bins, inverse)))
        return status;
    const int64_t count = rows->shape[0] * rows->shape[1];
    const int threads = t->threads, workers = (int)min64(threads, count);
    struct rdft_call call = {.t = t,
                             .rows = rows,
                             .bins = bins,
                             .scale = scale,
                             .inverse = inverse,
                             .inside = count >= threads ? 1 : threads};
    const int64_t bytes = size_mul(workers, t->work_bytes);
    if (!(call.work = aligned_new(bytes)))
        return fail_memory(bytes);
    status = parallel_for(call.inside > 1 ? 1 : workers, count, rdft_task, &call);
    aligned_free(call.work);
    return status;
}

int fftconv_rdft_forward(const fftconv_rdft *rdft, const fftconv_tensor *rows,
                         const fftconv_tensor *bins, double scale)
{
    return run(rdft, rows, bins, scale, false);
}

int fftconv_rdft_inverse(const fftconv_rdft *rdft, const fftconv_tensor *bins,
                         const fftconv_tensor *rows, double scale)
{
    return run(rdft, rows, bins, scale, true);
}
