"""Derivatives of any order of a bilinear operation, from the operation and its gradients.

    y = f(z, *k)        linear in z, and linear in all the kernels k together

For a real function L of y with the gradient g, let the gradients of L be

    gradients(needs, g, z, *k)        those of z and of each k for which `needs` is true.

As <g, f(z, k)> = <f*(g, k), z> = <f'(g, z), k>, the derivatives of these gradients are again
f and gradients.  The two are closed under differentiation, and nothing else is needed for
derivatives of any order, in reverse and in forward mode, of real or complex arrays.

This module knows no framework.  Arrays only have to have `+`.  None stands for a derivative
that is zero, and `zeros(x)` has to make an array of zeros like x.
"""


def total(terms):
    """The sum of the terms that are not None; None if there is none."""
    terms = [x for x in terms if x is not None]
    return sum(terms[1:], terms[0]) if terms else None


def _filled(d, x, zeros):
    """d with zeros in the place of None; None if all are None.

    An operand that is itself None stays None.
    """
    if all(entry is None for entry in d):
        return None
    return [zeros(v) if e is None and v is not None else e for e, v in zip(d, x)]


def product_tangent(f, x, dx, zeros):
    """The tangent of f(*x) for the tangents dx of x = (z, *k)."""
    (z, *k), (dz, *dk) = x, dx
    dk = _filled(dk, k, zeros)
    return total((dz if dz is None else f(dz, *k), dk if dk is None else f(z, *dk)))


def gradients_tangent(gradients, needs, g, x, dg, dx, zeros):
    """The tangents of gradients(needs, g, *x), for tangents dg of g and dx of x = (z, *k)."""
    (z, *k), (dz, *dk) = x, dx
    dk = _filled(dk, k, zeros)
    of_z, of_k = [needs[0]] + [False] * len(k), [False, *needs[1:]]
    terms = [[None] * sum(needs)]
    if dg is not None:
        terms.append(gradients(needs, dg, *x))
    if dk is not None and needs[0]:
        terms.append([*gradients(of_z, g, z, *dk), *[None] * sum(of_k)])
    if dz is not None and any(of_k):
        terms.append([*[None] * needs[0], *gradients(of_k, g, dz, *k)])
    return [total(column) for column in zip(*terms)]


def gradients_cotangent(f, gradients, wanted, g, x, c, zeros):
    """The gradients of Re <c, gradients(..., g, *x)> with respect to g and x = (z, *k).

    c: for each of x the cotangent of its gradient, or None.
    wanted: for g and each of x, whether the derivative is wanted; others are None.
    """
    (z, *k), (cz, *ck) = x, c
    ck = _filled(ck, k, zeros)
    result = [None] * (1 + len(x))
    if wanted[0]:
        result[0] = total((cz if cz is None else f(cz, *k), ck if ck is None else f(z, *ck)))
    if wanted[1] and ck is not None:
        (result[1],) = gradients([True] + [False] * len(k), g, z, *ck)
    if any(wanted[2:]) and cz is not None:
        of_k = iter(gradients([False, *wanted[2:]], g, cz, *k))
        result[2:] = [next(of_k) if w else None for w in wanted[2:]]
    return result
