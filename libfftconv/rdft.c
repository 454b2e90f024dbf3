/* Real DFTs of any length, bins in natural order: the filters of hyena-dna come in, and
 * their gradients go out; and patterns act on kernels by it (filter.c).
 *
 * An even number n of reals is n/2 complex points z[j] = x[2j] + i x[2j+1], and with
 * N = n/2, W = exp(2 pi i / n), Z the DFT of z (FlashFFTConv, appendix A.1):
 *     E[m] = (Z[m] + Z*[N-m]) / 2,   O[m] = (Z[m] - Z*[N-m]) / 2i
 *     X[m] = E[m] + W^-m O[m]
 * and back, E[m] = (X[m] + X*[N-m]) / 2, O[m] = W^m (X[m] - X*[N-m]) / 2,
 * Z = E + i O.  An odd number of reals is N = n points whose imaginary parts are zero.
 *
 * Z comes from the stages of a plan of N points.  Where N has a prime factor above
 * 7 there are none, and
 *     Z[m] = c*[m] sum_j (z[j] c*[j]) c[m-j],   c[t] = exp(i pi t^2 / N)
 * (Bluestein 1970) is a gated two-sided convolution, done in complex128.  Odd lengths go
 * that way too. */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct fftconv_rdft {
    int64_t n, N; /* reals of a row; complex points of its transform: n/2, or n if odd */
    int dtype;    /* of rows: float32 or float64 */
    int threads;
    fftconv_plan *plan;
    fftconv_spectrum *spectrum; /* of c; NULL where the plan has M = N */
    double *chirp;              /* c* */
    double *W;                  /* W^m, m = 0 ... N/2 */
    int64_t *offset;            /* of Re Z[m] in a row of spectra */
    int64_t lanes, row_bytes, work_bytes;
};

/* ---- Making one ---------------------------------------------------------------- */

/* Radices of N by largest divisors; 0 where it has a prime factor above 7. */
static int radices_of(int64_t N, int64_t *radices)
{
    int order = 0;
    if (!is_smooth(N))
        return 0;
    for (int64_t r = FFTCONV_MAX_RADIX; r > 1 && N > 1; r--)
        for (; N % r == 0 && order < FFTCONV_MAX_ORDER; N /= r)
            radices[order++] = r;
    return N == 1 ? order : 0;
}

static int plan_of(struct fftconv_rdft *t, fftconv_plan_desc *d)
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
    if (!(d->order = radices_of(t->N, radices)))
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

static fftconv_tensor complex_row(const void *data, int dtype, int64_t n)
{
    return (fftconv_tensor){
        .data = (void *)data, .dtype = dtype, .shape = {1, 1, n}, .stride = {0, 0, 1}};
}

static int chirp_of(struct fftconv_rdft *t, fftconv_plan_desc *d)
{
    const int64_t N = t->N;
    d->dtype = FFTCONV_DTYPE_COMPLEX128;
    d->mode = FFTCONV_MODE_TWO_SIDED;
    d->fft_size = 0;
    d->k_rev_length = N;
    d->form = FFTCONV_FORM_AUTO;
    d->radices = NULL;
    d->order = 0;
    t->chirp = aligned_new(4 * N * (int64_t)sizeof(double));
    if (!t->chirp)
        return fail_memory(4 * N * (int64_t)sizeof(double));
    double *c = t->chirp + 2 * N;                 /* only while the spectrum is made */
    for (int64_t i = 0, square = 0; i < N; i++) { /* square = i^2 mod 2N */
        root_of_unity(square, 2 * N, &c[2 * i], &c[2 * i + 1]);
        t->chirp[2 * i] = c[2 * i];
        t->chirp[2 * i + 1] = -c[2 * i + 1];
        square = (square + 2 * i + 1) % (2 * N);
    }
    const fftconv_tensor k = complex_row(c, FFTCONV_DTYPE_COMPLEX128, N);
    /* lag 0 counts once: k_rev begins with a zero */
    double *rev = malloc((size_t)(2 * N) * sizeof *rev);
    if (!rev)
        return fail_memory(2 * N * (int64_t)sizeof *rev);
    memcpy(rev, c, (size_t)(2 * N) * sizeof *rev);
    rev[0] = rev[1] = 0;
    const fftconv_tensor k_rev = complex_row(rev, FFTCONV_DTYPE_COMPLEX128, N);
    int status = fftconv_plan_create(&t->plan, d);
    if (!status)
        status = fftconv_spectrum_create(
            &t->spectrum, t->plan,
            &(fftconv_operands){.size = sizeof(fftconv_operands), .k = k, .k_rev = k_rev});
    free(rev);
    return status;
}

static int tables_of(struct fftconv_rdft *t)
{
    const int64_t points = t->N / 2 + 1;
    fftconv_plan_info info = {.size = sizeof info};
    const int status = fftconv_plan_get_info(t->plan, &info);
    if (status)
        return status;
    t->lanes = info.lanes;
    t->row_bytes = round_up(info.spectra_row_bytes, ALIGNMENT);
    t->work_bytes = t->spectrum ? 2 * round_up(t->N * 16, ALIGNMENT)
                                : t->row_bytes + round_up(t->n * dtype_size(t->dtype), ALIGNMENT);
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

int fftconv_rdft_create(fftconv_rdft **out, const fftconv_rdft_desc *desc)
{
    int status;
    if (!out)
        return fail(FFTCONV_STATUS_INVALID, "rdft is NULL, must point at a place for it");
    *out = NULL;
    if (!desc)
        return fail(FFTCONV_STATUS_INVALID, "desc is NULL");
    if (desc->size != sizeof *desc)
        return fail(FFTCONV_STATUS_INVALID, "desc->size is %zu, must be %zu", desc->size,
                    sizeof *desc);
    const int64_t n = desc->n;
    const int dtype = desc->dtype;
    if (n < 1 || n > (int64_t)1 << 40)
        return fail(FFTCONV_STATUS_INVALID, "n is %lld, must be 1 ... 2^40", (long long)n);
    if (dtype != FFTCONV_DTYPE_FLOAT32 && dtype != FFTCONV_DTYPE_FLOAT64)
        return fail(FFTCONV_STATUS_INVALID, "dtype is %d, must be float64 (1) or float32 (2)",
                    dtype);
    if (desc->threads < 0 || desc->threads > 255)
        return fail(FFTCONV_STATUS_INVALID, "threads is %d, must be 0 (all) ... 255",
                    desc->threads);
    struct fftconv_rdft *t = calloc(1, sizeof *t);
    if (!t)
        return fail_memory(sizeof *t);
    t->n = n;
    t->N = n % 2 ? n : n / 2;
    t->dtype = dtype;
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
                           .dtype = dtype == FFTCONV_DTYPE_FLOAT64 ? FFTCONV_DTYPE_COMPLEX128
                                                                   : FFTCONV_DTYPE_COMPLEX64,
                           .single_block = 1};
    status = n % 2 ? FFTCONV_STATUS_OK : plan_of(t, &d);
    if (!status && !t->plan)
        status = chirp_of(t, &d);
    if (!status)
        status = tables_of(t);
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

/* ---- Bins and points ----------------------------------------------------------------- */

/* Z where a transform of REAL leaves it, or interleaved; all of it from the bins
 * X[0 ... N], or the bins from it.  scale: of the result. */
struct points {
    const struct fftconv_rdft *t;
    void *Z;
    char *bins;
    int64_t stride; /* of bins, in complex numbers */
    double scale;
};

/* Re Z[m] is at at(m), Im Z[m] `apart` further on.  Bins m and N - m make points m
 * and N - m, and are made of them. */
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
    /* 2 Z, whose sums come to n times the inverse DFT; sign -1: its conjugate */ \
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
#define IN_TURN(m) (2 * (m))
DEFINE_POINTS(f32, float, float, STAGED, p->t->lanes)
DEFINE_POINTS(f64, double, double, STAGED, p->t->lanes)
DEFINE_POINTS(chirp_f32, double, float, IN_TURN, 1)
DEFINE_POINTS(chirp_f64, double, double, IN_TURN, 1)
#undef STAGED
#undef IN_TURN
#undef DEFINE_POINTS

/* The same for an odd number of reals, whose points are the bins and their mirrors'
 * conjugates: Z[m] = X[m], Z[n-m] = X*[m]; interleaved. */
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
    /* conjugates, whose transform is n times the inverse DFT, real */ \
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

/* ---- Rows ---------------------------------------------------------------------------- */

struct job {
    const struct fftconv_rdft *t;
    const fftconv_tensor *rows, *bins;
    double scale;
    bool inverse;
    int inside;
    char *work;
};

static char *row_at(const fftconv_tensor *x, int64_t i)
{
    return (char *)x->data +
           (i / x->shape[1] * x->stride[0] + i % x->shape[1] * x->stride[1]) * dtype_size(x->dtype);
}

/* n reals between a row of any stride, float32 or float64, and an array of either */
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

/* to = DFT of from, N points each, complex128 */
static int chirp_transform(const struct fftconv_rdft *t, void *from, void *to, int inside)
{
    fftconv_operands o = {.size = sizeof o, .threads = inside};
    o.u = complex_row(from, FFTCONV_DTYPE_COMPLEX128, t->N);
    o.y = complex_row(to, FFTCONV_DTYPE_COMPLEX128, t->N);
    o.in_gate = o.out_gate = complex_row(t->chirp, FFTCONV_DTYPE_COMPLEX128, t->N);
    return fftconv_forward(t->plan, t->spectrum, &o);
}

static int chirp_row(const struct job *j, char *row, int64_t stride, struct points *p, char *work)
{
    const struct fftconv_rdft *t = j->t;
    void *from = work, *to = work + round_up(t->N * 16, ALIGNMENT);
    const bool wide = t->dtype == FFTCONV_DTYPE_FLOAT64;
    if (j->inverse) { /* the conjugate's transform, conjugated */
        p->Z = from;
        wide ? bins_to_chirp_f64(p, -1) : bins_to_chirp_f32(p, -1);
        const int status = chirp_transform(t, from, to, j->inside);
        copy_reals(row, t->dtype, stride, to, FFTCONV_DTYPE_FLOAT64, 1, t->n, -1);
        return status;
    }
    p->Z = to;
    copy_reals(from, FFTCONV_DTYPE_FLOAT64, 1, row, t->dtype, stride, t->n, 1);
    const int status = chirp_transform(t, from, to, j->inside);
    wide ? bins_from_chirp_f64(p) : bins_from_chirp_f32(p);
    return status;
}

static int odd_row(const struct job *j, char *row, int64_t stride, struct points *p, char *work)
{
    const struct fftconv_rdft *t = j->t;
    void *from = work, *to = work + round_up(t->N * 16, ALIGNMENT);
    const bool wide = t->dtype == FFTCONV_DTYPE_FLOAT64;
    if (j->inverse) {
        p->Z = from;
        wide ? bins_to_odd_f64(p) : bins_to_odd_f32(p);
        const int status = chirp_transform(t, from, to, j->inside);
        copy_reals(row, t->dtype, stride, to, FFTCONV_DTYPE_FLOAT64, 2, t->n, 1);
        return status;
    }
    p->Z = to;
    memset(from, 0, (size_t)(t->n * 16));
    copy_reals(from, FFTCONV_DTYPE_FLOAT64, 2, row, t->dtype, stride, t->n, 1);
    const int status = chirp_transform(t, from, to, j->inside);
    wide ? bins_from_odd_f64(p) : bins_from_odd_f32(p);
    return status;
}

static int staged_row(const struct job *j, char *row, int64_t stride, struct points *p, char *work)
{
    const struct fftconv_rdft *t = j->t;
    const bool wide = t->dtype == FFTCONV_DTYPE_FLOAT64;
    char *pairs = stride == 1 ? row : work + t->row_bytes;
    const fftconv_spectra_desc d = {
        .size = sizeof d,
        .threads = j->inside,
        .side = j->inverse ? FFTCONV_SIDE_OUTPUT : FFTCONV_SIDE_INPUT,
        .rows = complex_row(pairs, wide ? FFTCONV_DTYPE_COMPLEX128 : FFTCONV_DTYPE_COMPLEX64, t->N),
        .spectra = work};
    p->Z = work;
    if (j->inverse) {
        memset(work, 0, (size_t)t->row_bytes); /* lanes that no bin has */
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
    const struct job *j = context;
    struct points p = {
        .t = j->t, .bins = row_at(j->bins, i), .stride = j->bins->stride[2], .scale = j->scale};
    return (j->t->n % 2      ? odd_row
            : j->t->spectrum ? chirp_row
                             : staged_row)(j, row_at(j->rows, i), j->rows->stride[2], &p,
                                           j->work + worker * j->t->work_bytes);
}

int rdft_run(const fftconv_rdft *t, const fftconv_tensor *rows, const fftconv_tensor *bins,
             double scale, bool inverse, int threads)
{
    int status;
    if (!t)
        return fail(FFTCONV_STATUS_INVALID, "rdft is NULL");
    const struct {
        const char *name;
        const fftconv_tensor *x;
        int dtype;
        int64_t n;
        bool output;
    } all[] = {
        {"rows", rows, t->dtype, t->n, inverse},
        {"bins", bins,
         t->dtype == FFTCONV_DTYPE_FLOAT64 ? FFTCONV_DTYPE_COMPLEX128 : FFTCONV_DTYPE_COMPLEX64,
         t->n / 2 + 1, !inverse}};
    for (int i = 0; i < 2; i++) {
        if (!all[i].x || !all[i].x->data)
            return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must be given", all[i].name);
        if (all[i].x->dtype != all[i].dtype)
            return fail(FFTCONV_STATUS_INVALID, "%s has dtype %s, must be %s", all[i].name,
                        dtype_name(all[i].x->dtype) ? dtype_name(all[i].x->dtype) : "unknown",
                        dtype_name(all[i].dtype));
        const int64_t shape[3] = {max64(1, rows->shape[0]), max64(1, rows->shape[1]), all[i].n};
        if ((status = check_layout(all[i].name, all[i].x, shape, all[i].output)))
            return status;
    }
    if (tensors_overlap(rows, bins))
        return fail(FFTCONV_STATUS_INVALID, "%s overlaps %s, must not", inverse ? "rows" : "bins",
                    inverse ? "bins" : "rows");
    const int64_t count = rows->shape[0] * rows->shape[1];
    const int workers = (int)min64(threads, count);
    struct job job = {.t = t,
                      .rows = rows,
                      .bins = bins,
                      .scale = scale,
                      .inverse = inverse,
                      .inside = count >= threads ? 1 : threads,
                      .work = aligned_new(workers * t->work_bytes)};
    if (!job.work)
        return fail_memory(workers * t->work_bytes);
    status = parallel_for(job.inside > 1 ? 1 : workers, count, rdft_task, &job);
    aligned_free(job.work);
    return status;
}

int fftconv_rdft_forward(const fftconv_rdft *rdft, const fftconv_tensor *rows,
                         const fftconv_tensor *bins, double scale)
{
    return rdft_run(rdft, rows, bins, scale, false, rdft ? rdft->threads : 1);
}

int fftconv_rdft_inverse(const fftconv_rdft *rdft, const fftconv_tensor *bins,
                         const fftconv_tensor *rows, double scale)
{
    return rdft_run(rdft, rows, bins, scale, true, rdft ? rdft->threads : 1);
}
