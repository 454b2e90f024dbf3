/* Prefetching the rows that the first and the last stage read and write, where no cache holds
 * them (struct transform, prefetch_distance). */

/* The rows that are prefetched: those whose elements are contiguous. */
struct N_(prefetched_rows) {
    int count;
    struct {
        const char *data; /* element 0 */
        int64_t size;     /* bytes of an element */
    } row[4];
};

static void N_(add_prefetched)(struct N_(prefetched_rows) * rows, const struct array *a)
{
    if (!a->data || a->stride != 1)
        return;
    const int64_t size = dtype_size(a->dtype);
    rows->row[rows->count].data = (const char *)a->data - a->origin * size;
    rows->row[rows->count++].size = size;
}

/* Prefetches elements [n, n + count) to the second cache: what a stage reads at a time lies
 * powers of two apart, and of such addresses the first cache holds few.  The function is
 * inlined because GCC drops calls of functions that only prefetch. */
INLINE void N_(prefetch)(const struct N_(prefetched_rows) * rows, int64_t n, int64_t count)
{
    for (int k = 0; k < rows->count; k++)
        for (int64_t i = 0; i < count * rows->row[k].size; i += ALIGNMENT)
            __builtin_prefetch(rows->row[k].data + n * rows->row[k].size + i, 0, 2);
}
