/* Radices: which have codelets, and how a length is written in them. */
#include "transform.h"

/* The codelets of cpu/codelets.h, the largest first: real flops of one, and cycles for each
 * vector of complex points, its loads, stores and scalar twiddles included (costs.c says how
 * these were measured). */
static const struct codelet {
    int radix;
    double flops, cycles;
} codelets[] = {
    {16, 168, 13.6}, {8, 64, 6.8}, {7, 108, 9.5}, {5, 44, 5.6},
    {4, 16, 3.9},    {3, 16, 3.8}, {2, 4, 2.5},
};
enum { CODELETS = sizeof codelets / sizeof codelets[0] };

static const struct codelet *find_codelet(int radix)
{
    for (int i = 0; i < CODELETS; i++)
        if (codelets[i].radix == radix)
            return &codelets[i];
    return NULL;
}

bool has_codelet(int radix) { return find_codelet(radix) != NULL; }

double codelet_cycles(int radix)
{
    const struct codelet *c = find_codelet(radix);
    return c ? c->cycles : 0;
}

double radix_flops(int radix, bool dense)
{
    const struct codelet *c = dense ? NULL : find_codelet(radix);
    return c ? c->flops / radix : 8.0 * radix;
}

bool is_smooth(int64_t n)
{
    for (int i = 0; i < 4; i++)
        for (int p = (int[]){2, 3, 5, 7}[i]; n % p == 0;)
            n /= p;
    return n == 1;
}

/* 32 = 4 x 8, 64 = 8 x 8, 128 = 16 x 8, 96 = 3 x 4 x 8, ... */
int codelets_of(int64_t radix, bool dense, int *chain)
{
    int count = 0;
    if (dense || radix == 1 || !is_smooth(radix)) {
        chain[0] = (int)radix;
        return 1;
    }
    for (int i = 2; i < CODELETS; i++) /* odd factors first */
        for (int p = codelets[i].radix; p % 2 && radix % p == 0; radix /= p)
            chain[count++] = p;
    for (int p; radix > 16; radix /= p) {
        p = radix == 32 ? 4 : radix == 64 ? 8 : 16;
        chain[count++] = p;
    }
    if (radix > 1)
        chain[count++] = (int)radix;
    return count;
}

int64_t digit_reverse(int64_t place, const int *radices, int count)
{
    int64_t m = 0; /* the least significant digit of the place is the last one */
    for (int i = count - 1; i >= 0; i--) {
        m = m * radices[i] + place % radices[i];
        place /= radices[i];
    }
    return m;
}
