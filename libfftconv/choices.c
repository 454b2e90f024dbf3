/* The ways to compute a plan's operation: forms, lengths, blocks.  Each is a candidate, whose
 * radices search.c finds and whose seconds it predicts; the cheapest becomes the plan's.
 * Plans of the same size share one choice, with its tables. */
#include "plan.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A search under way: the plan, what was asked, and the best so far. */
struct search {
    struct fftconv_plan *plan;
    const fftconv_plan_desc *desc;
    int64_t given; /* the product of named radices; 0: none are */
    struct choice best;
    int status; /* NO_MEMORY where a search met that */
};

/* One way: M points, and how rows are cut into blocks. */
struct candidate {
    int form, packing;
    int64_t M, padded_length, lead, block_length, blocks;
    bool wrap;
};

/* Circular, do any products meet beyond the end of the circle? */
static bool comes_round(const struct fftconv_plan *plan)
{
    return plan->mode == FFTCONV_MODE_CIRCULAR && plan->L + plan->past_taps > plan->N;
}

/* Samples that a block reads beyond its own outputs. */
static int64_t halo_of(const struct fftconv_plan *plan)
{
    return plan->past_taps + plan->future_taps;
}

/* The numbers of a place: complex rows use one plane, real rows two. */
static int64_t planes_of(int form) { return form == FFTCONV_FORM_COMPLEX ? 1 : 2; }

/* The places that a row needs in one block of a form whose length is ours to choose. */
static int64_t places_of_row(const struct fftconv_plan *plan)
{
    const bool whole = !comes_round(plan) && !plan->history;
    return plan->L + (whole ? max64(plan->past_taps, plan->future_taps) : halo_of(plan));
}

/* Blocks of M points in such a form.  False where a row does not fit, or, where one block is
 * asked for, not in one. */
static bool cut_into_blocks(const struct search *s, int form, int64_t M, struct candidate *c)
{
    const struct fftconv_plan *plan = s->plan;
    const bool wrap = comes_round(plan);
    *c = (struct candidate){.form = form,
                            .M = M,
                            .wrap = wrap,
                            .packing = form == FFTCONV_FORM_COMPLEX ? COMPLEX_ROW : LINEAR,
                            .padded_length = planes_of(form) * M};
    if (!wrap && !plan->history && c->padded_length >= places_of_row(plan)) {
        c->block_length = plan->L;
        c->blocks = 1;
        return true;
    }
    if (c->padded_length <= halo_of(plan))
        return false;
    c->lead = plan->past_taps;
    c->block_length = min64(plan->L, c->padded_length - halo_of(plan));
    c->blocks = ceil_div(plan->L, c->block_length);
    return !(s->desc->single_block && c->blocks > 1);
}

static struct request request_of(const struct search *s, int form, const struct pattern *pattern)
{
    return (struct request){.form = form,
                            .lanes = s->plan->engine->lanes,
                            .real_bytes = s->plan->engine->real_bytes,
                            .dense = s->desc->dense,
                            .order = s->desc->order,
                            .radices = s->desc->radices,
                            .pattern = s->desc->weights ? pattern : NULL};
}

/* Keeps this candidate if it is the cheapest so far. */
static bool keep_if_cheapest(struct search *s, const struct candidate *c, double seconds)
{
    if (seconds < 0 || (s->best.predicted >= 0 && seconds >= s->best.predicted))
        return false;
    s->best.predicted = seconds;
    s->best.form = c->form;
    s->best.parts = 1;
    s->best.packing = c->packing;
    s->best.padded_length = c->padded_length;
    s->best.lead = c->lead;
    s->best.block_length = c->block_length;
    s->best.blocks = c->blocks;
    s->best.wrap = c->wrap;
    return true;
}

static void keep_radices(struct search *s, int order, const int64_t *radices)
{
    s->best.order = order;
    memcpy(s->best.radices, radices, (size_t)order * sizeof *radices);
}

static void try_candidate(struct search *s, const struct candidate *c)
{
    const struct pattern pattern = {s->plan->N, 0, s->desc->weights};
    struct request request = request_of(s, c->form, &pattern);
    struct transform t;
    int order;
    int64_t radices[FFTCONV_MAX_ORDER];
    request.both_planes = c->packing != LINEAR || c->lead + c->block_length > c->M;
    const double seconds = search_transform(&t, c->M, &request, &order, radices, &s->status);
    if (seconds < 0 || !keep_if_cheapest(s, c, seconds * (double)c->blocks))
        return;
    s->best.part[0] = t;
    keep_radices(s, order, radices);
}

/* Folded: right angles of N/4, N/8, ... points, as many as pay, and the rest.  Named radices
 * are those of the first part. */
static void try_folds(struct search *s)
{
    const int64_t N = s->plan->N;
    const struct candidate folded = {.form = FFTCONV_FORM_FOLDED,
                                     .packing = LINEAR,
                                     .M = N / 4,
                                     .padded_length = N,
                                     .block_length = s->plan->L,
                                     .blocks = 1};
    struct transform part[MAX_PARTS];
    int order, rest_order;
    int64_t radices[FFTCONV_MAX_ORDER], rest_radices[FFTCONV_MAX_ORDER];
    double angles = 0; /* seconds of the right angles so far */
    for (int level = 0; level < MAX_PARTS - 1 && (N >> level) % 4 == 0; level++) {
        const int64_t M = N >> (level + 2);
        struct pattern pattern = {N, level, s->desc->weights};
        struct request request = request_of(s, FFTCONV_FORM_RIGHT_ANGLE, &pattern);
        request.both_planes = true;
        if (level > 0)
            request.radices = NULL, request.order = 0;
        else if (s->given && s->given != M)
            return;
        double seconds = search_transform(&part[level], M, &request, level ? &rest_order : &order,
                                          level ? rest_radices : radices, &s->status);
        if (seconds < 0)
            return;
        part[level].row_offset = N >> (level + 1);
        angles += seconds +
                  machine_costs.fold_seconds * (double)(N >> level) / s->plan->engine->lanes;
        pattern.level = level + 1;
        request = request_of(s, FFTCONV_FORM_COMPLEX, &pattern);
        request.radices = NULL, request.order = 0;
        seconds = search_transform(&part[level + 1], N >> (level + 1), &request, &rest_order,
                                   rest_radices, &s->status);
        if (seconds < 0)
            return;
        part[level + 1].row_offset = 0;
        if (!keep_if_cheapest(s, &folded, angles + seconds))
            continue;
        s->best.parts = level + 2;
        memcpy(s->best.part, part, sizeof part);
        keep_radices(s, order, radices);
    }
}

/* Odd smooth numbers times the power of two that reaches the row's need; and, where rows may
 * be cut, shorter lengths down to what the taps allow. */
static void try_lengths(struct search *s, int form)
{
    static const int odd[] = {1, 3, 5, 7, 9, 15, 21, 25, 27, 35, 45, 49, 63, 75, 81, 105};
    enum { ODDS = sizeof odd / sizeof *odd, SHORT_ODDS = 3 };
    const int64_t halo = halo_of(s->plan), planes = planes_of(form);
    const int64_t least = max64(1, ceil_div(places_of_row(s->plan), planes));
    struct candidate c;
    for (int i = 0; i < ODDS; i++) {
        int64_t M = odd[i];
        while (M < least)
            M *= 2;
        if (M >= 2 && M < 2 * least + 64 && cut_into_blocks(s, form, M, &c))
            try_candidate(s, &c);
    }
    /* a block of which less than a quarter is new costs more than a longer one */
    const int64_t shortest = max64(16, ceil_div(halo + halo / 3 + 1, planes));
    for (int i = 0; i < SHORT_ODDS && !s->desc->single_block; i++)
        for (int64_t M = odd[i]; M < least; M *= 2)
            if (M >= shortest && cut_into_blocks(s, form, M, &c))
                try_candidate(s, &c);
}

/* The most points that named radices may have in such a form.  A longer transform would only
 * cost more, and its tables would take seconds to make. */
static int64_t most_points(const struct search *s, int form)
{
    enum { ALWAYS = 1 << 16, TIMES = 16 /* what a row needs */ };
    return max64(ALWAYS, TIMES * ceil_div(places_of_row(s->plan), planes_of(form)));
}

/* ---- No candidate: why ------------------------------------------------------------------------ */

/* Named radices whose product is no length of any form allowed here. */
static int fail_radices(const struct search *s, int linear, bool lines, bool folds, bool circles)
{
    const struct fftconv_plan *plan = s->plan;
    const int64_t planes = planes_of(linear);
    char ways[3][64] = {"", "", ""};
    if (lines)
        snprintf(
            ways[0], sizeof ways[0], " %lld ... %lld for %s;",
            (long long)(s->desc->single_block
                            ? ceil_div(plan->L + (comes_round(plan)
                                                      ? halo_of(plan)
                                                      : max64(plan->past_taps, plan->future_taps)),
                                       planes)
                            : halo_of(plan) / planes + 1),
            (long long)most_points(s, linear),
            linear == FFTCONV_FORM_COMPLEX ? "complex" : "right_angle");
    if (folds && plan->N % 4 == 0)
        snprintf(ways[1], sizeof ways[1], " %lld for folded;", (long long)(plan->N / 4));
    if (circles)
        snprintf(ways[2], sizeof ways[2], " %lld for complex;", (long long)plan->N);
    return fail(FFTCONV_STATUS_INVALID,
                "radices have product %lld, must be the form's complex length M:%s%s%s with "
                "steps of at most %d",
                (long long)s->given, ways[0], ways[1], ways[2], FFTCONV_MAX_RADIX);
}

/* The forms that compute this operation, and of each the lengths that it may have. */
static int search_forms(struct search *s)
{
    const struct fftconv_plan *plan = s->plan;
    const int form = s->desc->form,
              linear = is_complex(plan->dtype) ? FFTCONV_FORM_COMPLEX : FFTCONV_FORM_RIGHT_ANGLE;
    const bool any = form == FFTCONV_FORM_AUTO, circular = plan->mode == FFTCONV_MODE_CIRCULAR;
    const bool lines = (any || form == linear) && !s->desc->weights; /* of length ours */
    const bool folds = circular && (any || form == FFTCONV_FORM_FOLDED) && !is_complex(plan->dtype);
    const bool circles = circular && (any || form == FFTCONV_FORM_COMPLEX);
    const struct candidate circle = {.form = FFTCONV_FORM_COMPLEX,
                                     .packing = is_complex(plan->dtype) ? COMPLEX_ROW : LINEAR,
                                     .M = plan->N,
                                     .padded_length = plan->N,
                                     .block_length = plan->L,
                                     .blocks = 1};
    struct candidate c;
    if (lines && !s->given)
        try_lengths(s, linear);
    else if (lines && s->given <= most_points(s, linear) &&
             cut_into_blocks(s, linear, s->given, &c))
        try_candidate(s, &c);
    if (folds)
        try_folds(s);
    if (circles && (!s->given || s->given == plan->N))
        try_candidate(s, &circle);
    if (s->best.predicted >= 0 || s->status)
        return s->status;
    if (s->given)
        return fail_radices(s, linear, lines, folds, circles);
    if (s->desc->order &&
        (lines || (is_smooth(plan->N) && (form != FFTCONV_FORM_FOLDED || plan->N % 4 == 0))))
        return fail(FFTCONV_STATUS_INVALID,
                    "order is %d, must be large enough for radices up to %d at length %lld",
                    s->desc->order, FFTCONV_MAX_RADIX, (long long)plan->L);
    return fail(FFTCONV_STATUS_INVALID,
                "form is %s, cannot be had for fft_size %lld: folded needs a multiple of 4, "
                "both need one without prime factors above 7 (right_angle takes any)",
                form == FFTCONV_FORM_FOLDED ? "folded" : "complex", (long long)plan->N);
}

static int build_tables(struct choice *c, int64_t N, const double *weights)
{
    int64_t spectra = 0;
    for (int i = 0; i < c->parts; i++) {
        const struct pattern pattern = {N, i, weights};
        const int status = transform_build(&c->part[i], weights ? &pattern : NULL);
        if (status)
            return status;
        c->part[i].spectra_offset = spectra;
        spectra += c->part[i].spectra_reals;
    }
    return FFTCONV_STATUS_OK;
}

/* ---- Choices in use, and who shares them -------------------------------------------------------- */

/* All that a choice depends on. */
struct key {
    const struct engine *engine;
    int64_t L, N, taps, rev_taps, radices[FFTCONV_MAX_ORDER];
    int mode, complex, form, order, dense, history, single_block;
};

struct shared_choice {
    struct shared_choice *next;
    struct key key;
    int plans; /* that use it */
    struct choice choice;
};

/* Those with a pattern are not among them: weights are no part of a key. */
static struct shared_choice *choices;
static pthread_mutex_t choices_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_choices(void) { pthread_mutex_lock(&choices_lock); }
static void unlock_choices(void) { pthread_mutex_unlock(&choices_lock); }
/* The child of a fork must not find it locked by a thread that it does not have. */
static void keep_over_fork(void) { pthread_atfork(lock_choices, unlock_choices, unlock_choices); }

static void key_of(const struct fftconv_plan *plan, const fftconv_plan_desc *d, struct key *key)
{
    memset(key, 0, sizeof *key); /* keys are compared byte by byte */
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

static struct shared_choice *find_choice(const struct key *key)
{
    lock_choices();
    struct shared_choice *c = choices;
    while (c && memcmp(&c->key, key, sizeof *key) != 0)
        c = c->next;
    if (c)
        c->plans++;
    unlock_choices();
    return c;
}

/* A block of the direct form, with what it reads and gives, stays in the first cache. */
static void choose_direct(struct fftconv_plan *plan)
{
    const int64_t halo = halo_of(plan), length = min64(plan->L, max64(2048, 4 * halo));
    plan->chosen = (struct choice){.form = FFTCONV_FORM_DIRECT,
                                   .packing = LINEAR,
                                   .padded_length = length + halo,
                                   .lead = plan->past_taps,
                                   .block_length = length,
                                   .blocks = ceil_div(plan->L, length),
                                   .wrap = comes_round(plan),
                                   .predicted = (double)plan->L * (double)(halo + 1) /
                                                machine_costs.direct_products};
}

int choose(struct fftconv_plan *plan, const fftconv_plan_desc *d)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct search s = {.plan = plan, .desc = d, .best.predicted = -1};
    struct key key;
    int status;
    if (d->form == FFTCONV_FORM_DIRECT) {
        choose_direct(plan);
        return FFTCONV_STATUS_OK;
    }
    pthread_once(&once, keep_over_fork);
    key_of(plan, d, &key);
    if (!d->weights && (plan->shared = find_choice(&key))) {
        plan->chosen = plan->shared->choice;
        return FFTCONV_STATUS_OK;
    }
    if (d->radices && (status = check_radices(d->radices, d->order, ROW_BITS, &s.given)))
        return status;
    status = search_forms(&s);
    if (!status)
        status = build_tables(&s.best, plan->N, d->weights);
    plan->chosen = s.best;
    if (status)
        return status;
    struct shared_choice *c = plan->shared = calloc(1, sizeof *c);
    if (!c)
        return fail_memory(sizeof *c);
    memcpy(&c->key, &key, sizeof key); /* with its padding, which is compared too */
    c->plans = 1;
    c->choice = plan->chosen;
    if (!d->weights) {
        lock_choices();
        c->next = choices;
        choices = c;
        unlock_choices();
    }
    return FFTCONV_STATUS_OK;
}

void leave_choice(struct fftconv_plan *plan)
{
    struct shared_choice *c = plan->shared;
    if (c) {
        lock_choices();
        const bool last = --c->plans == 0;
        struct shared_choice **at = &choices;
        while (last && *at && *at != c)
            at = &(*at)->next;
        if (last && *at)
            *at = c->next;
        unlock_choices();
        if (!last)
            return;
    }
    for (int i = 0; i < plan->chosen.parts; i++)
        transform_clear(&plan->chosen.part[i]);
    free(c);
}
