/* The taps of a kernel, k and k_rev, in a row, and back (struct taps). */

/* k_rev from its last tap to its second one, the order in which they stand at the end of a
 * row. */
static struct array N_(backwards)(const struct taps *t)
{
    struct array a = t->k_rev;
    a.data = (const char *)a.data + (t->rev_count - 1) * a.stride * dtype_size(a.dtype);
    a.stride = -a.stride;
    return a;
}

/* The sign of the taps at the end of the row. */
static void N_(apply_sign)(const struct taps *t, REAL *last, int64_t reals)
{
    for (int64_t i = 0; t->sign < 0 && i < reals; i++)
        last[i] = -last[i];
}

static void N_(place_taps)(const struct taps *t, void *row_)
{
    const int64_t reals = 1 + is_complex(t->k.dtype), rest = t->rev_count - 1;
    const struct array rev = N_(backwards)(t);
    REAL *row = row_, *last = row + (t->padded_length - rest) * reals, first[2] = {0, 0};
    N_(read)(&t->k, 0, t->count, row);
    memset(row + t->count * reals, 0,
           (size_t)((t->padded_length - t->count) * reals) * sizeof(REAL));
    N_(read)(&t->k_rev, 0, 1, first);
    for (int64_t i = 0; i < reals; i++)
        row[i] += first[i];
    N_(read)(&rev, 0, rest, last);
    N_(apply_sign)(t, last, rest * reals);
}

/* The row is overwritten. */
static void N_(take_taps)(const struct taps *t, void *row_)
{
    const int64_t reals = 1 + is_complex(t->k_rev.dtype), rest = t->rev_count - 1;
    const struct array rev = N_(backwards)(t);
    REAL *row = row_, *last = row + (t->padded_length - rest) * reals;
    if (t->k.data)
        N_(write)(&t->k, 0, t->count, row);
    N_(write)(&t->k_rev, 0, 1, row);
    N_(apply_sign)(t, last, rest * reals);
    N_(write)(&rev, 0, rest, last);
}
