"""Linear algebra in a fixed order of operations, so that a replay agrees to the last bit."""

import math

import numpy as np
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


@njit(cache=True, nogil=True)
def inverse3(m, out):
    """Inverse ``out`` of a symmetric positive 3 x 3 matrix, by cofactors; False if it has none."""
    scale = np.empty(3)
    for i in range(3):
        if not m[i, i] > 0.0:
            return False
        scale[i] = 1.0 / math.sqrt(m[i, i])
    a = m[0, 1] * scale[0] * scale[1]
    b = m[0, 2] * scale[0] * scale[2]
    c = m[1, 2] * scale[1] * scale[2]
    det = 1.0 + 2.0 * a * b * c - a * a - b * b - c * c
    # Of a unit diagonal; below, columns cannot be told apart in double precision.
    if not det > 1e-12:
        return False
    out[0, 0] = (1.0 - c * c) / det * scale[0] * scale[0]
    out[1, 1] = (1.0 - b * b) / det * scale[1] * scale[1]
    out[2, 2] = (1.0 - a * a) / det * scale[2] * scale[2]
    out[0, 1] = out[1, 0] = (b * c - a) / det * scale[0] * scale[1]
    out[0, 2] = out[2, 0] = (a * c - b) / det * scale[0] * scale[2]
    out[1, 2] = out[2, 1] = (a * b - c) / det * scale[1] * scale[2]
    return True
