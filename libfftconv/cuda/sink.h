/* The last step of a pass: from the convolution's value v at each place to what the caller wants
 * there.  This is where skip, activation, mask and gates are applied, and where the gradients
 * are written; arguments.h gives the equation of each sink. */
#ifndef FFTCONV_CUDA_SINK_H
#define FFTCONV_CUDA_SINK_H

#include "rowio.h"

namespace fftconv
{

/* Takes the values v of row (b, h) at places n ... n + RUN - 1.  A kernel of one role contains the
 * code of that role's sinks only; ROLE = ROLES stands for a kernel that has all of them. */
template <int ROLE, class T, int RUN>
DEVICE void sink(const Pass &s, int64_t b, int64_t h, T *own, int n, T (&v)[RUN], T &dskip)
{
    const int from = s.sink_from, to = s.sink_to;
    T x[RUN];
    if (n >= to || n + RUN <= from)
        return;
    if (ROLE == ROWS_TAPS || (ROLE == ROLES && s.sink >= HOLD)) {
        UNROLL
        for (int i = 0; i < RUN; i++) {
            if (s.sink == HOLD)
                store_global(own + n + i, v[i]);
            else if (s.add >= 0 && n + i >= from && n + i < to)
                v[i] += load_global(own + n + i + s.add);
        }
        if (s.sink == TAPS)
            write_run(row_of<T>(s.y, b, h), n, from, to, v);
        return;
    }
    const T mask = is_given(s.mask) ? scalar_of<T>(s.mask, b, h) : T(1);
    if ((ROLE == ROWS_BACKWARD || ROLE == ROLES) && s.sink == SPREAD) {
        T g[RUN];
        UNROLL
        for (int i = 0; i < RUN; i++)
            g[i] = 0;
        if (s.own) {
            UNROLL
            for (int i = 0; i < RUN; i++)
                if (n + i < to)
                    g[i] = load_global(own + n + i);
        } else if (is_given(s.skip)) {
            read_run(row_of<T>(s.dy, b, h), n, from, to, g);
            multiply_run(s.out_gate, b, h, n, from, to, g);
            UNROLL
            for (int i = 0; i < RUN; i++)
                g[i] *= mask;
        }
        const T skip = is_given(s.skip) ? scalar_of<T>(s.skip, 0, h) : T(0);
        if (is_given(s.skip) || is_given(s.din_gate))
            read_run(row_of<T>(s.u, b, h), n, from, to, x);
        if (is_given(s.skip)) {
            T z[RUN];
            UNROLL
            for (int i = 0; i < RUN; i++)
                z[i] = x[i];
            multiply_run(s.in_gate, b, h, n, from, to, z);
            UNROLL
            for (int i = 0; i < RUN; i++) {
                v[i] += skip * g[i];
                dskip += n + i < to ? g[i] * z[i] : T(0);
            }
        }
        if (is_given(s.din_gate)) {
            UNROLL
            for (int i = 0; i < RUN; i++)
                x[i] *= v[i];
            write_run(row_of<T>(s.din_gate, b, h), n, from, to, x);
        }
        if (is_given(s.du)) {
            multiply_run(s.in_gate, b, h, n, from, to, v);
            write_run(row_of<T>(s.du, b, h), n, from, to, v);
        }
        return;
    }
    if (is_given(s.skip)) {
        const T skip = scalar_of<T>(s.skip, 0, h);
        read_run(row_of<T>(s.u, b, h), n, from, to, x);
        multiply_run(s.in_gate, b, h, n, from, to, x);
        UNROLL
        for (int i = 0; i < RUN; i++)
            v[i] += skip * x[i];
    }
    if (ROLE == ROWS_FORWARD || (ROLE == ROLES && s.sink == OUTPUT)) {
        activate(s.activation, v);
        UNROLL
        for (int i = 0; i < RUN; i++)
            v[i] *= mask;
        multiply_run(s.out_gate, b, h, n, from, to, v);
        write_run(row_of<T>(s.y, b, h), n, from, to, v);
        return;
    }
    /* What is left is GRADIENT. */
    read_run(row_of<T>(s.dy, b, h), n, from, to, x);
    UNROLL
    for (int i = 0; i < RUN; i++)
        x[i] *= mask;
    if (is_given(s.dout_gate)) {
        T d[RUN];
        UNROLL
        for (int i = 0; i < RUN; i++)
            d[i] = v[i];
        activate(s.activation, d);
        UNROLL
        for (int i = 0; i < RUN; i++)
            d[i] *= x[i];
        write_run(row_of<T>(s.dout_gate, b, h), n, from, to, d);
    }
    multiply_run(s.out_gate, b, h, n, from, to, x);
    multiply_slope(s.activation, v, x);
    UNROLL
    for (int i = 0; i < RUN; i++)
        store_global(own + n + i, x[i]);
}

} // namespace fftconv
#endif
