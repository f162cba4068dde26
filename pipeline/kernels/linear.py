"""Linear algebra in a fixed order of operations, so that a replay agrees to the last bit."""

from numba import njit


@njit(cache=True, nogil=True)
def dot(a, b):
    """Dot product of two lines (n,): a BLAS may sum otherwise on another machine or alignment.

    Four sums side by side, because one alone waits for its own last addition.
    """
    s0 = s1 = s2 = s3 = 0.0
    whole = a.size - a.size % 4
    for i in range(0, whole, 4):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
    for i in range(whole, a.size):
        s0 += a[i] * b[i]
    return (s0 + s1) + (s2 + s3)
