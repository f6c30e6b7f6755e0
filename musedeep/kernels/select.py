"""Exact medians of float32 values by counting, in loops that the compiler turns into vector code."""

import math

import numpy as np
from numba import njit

__all__ = ["median", "median_absolute_deviation", "sort_few"]


@njit("i8(f4[::1], i8, f4)", nogil=True, cache=True, error_model="numpy")
def _count_up_to(a, n, t):
    total = np.int32(0)
    for i in range(n):
        total += np.int32(a[i] <= t)
    return np.int64(total)


@njit("i4(i4)", nogil=True, cache=True, inline="always")
def _ordered(bits):
    """Integer that orders as the float32 of these bits, and back: the compiler turns loops that look for
    extremes of integers into vector code, those for floats not."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit("UniTuple(f4, 2)(f4[::1], i8)", nogil=True, cache=True, error_model="numpy")
def _extremes(a, n):
    bits = a.view(np.int32)
    low = _ordered(bits[0])
    high = low
    for i in range(n):
        v = _ordered(bits[i])
        low = min(low, v)
        high = max(high, v)
    return np.int32(_ordered(low)).view(np.float32), np.int32(_ordered(high)).view(np.float32)


@njit("UniTuple(f4, 2)(f4[::1], i8, f4, f4, f4)", nogil=True, cache=True, error_model="numpy")
def _around(a, n, t, low, high):
    """Largest value <= t and smallest value > t (``low`` and ``high`` bound all values)."""
    bits = a.view(np.int32)
    lowest, highest = _ordered(np.float32(low).view(np.int32)), _ordered(np.float32(high).view(np.int32))
    below, above = lowest, highest
    for i in range(n):
        v = _ordered(bits[i])
        inside = a[i] <= t
        below = max(below, v if inside else lowest)
        above = min(above, highest if inside else v)
    return np.int32(_ordered(below)).view(np.float32), np.int32(_ordered(above)).view(np.float32)


@njit("void(f4[::1], i8)", nogil=True, cache=True, error_model="numpy")
def sort_few(a, n):
    """Sort ``a[:n]`` in place, in a time that grows with the square of ``n``."""
    for i in range(1, n):
        v = a[i]
        j = i - 1
        while j >= 0 and a[j] > v:
            a[j + 1] = a[j]
            j -= 1
        a[j + 1] = v


@njit("f8(f4[::1], i8)", nogil=True, cache=True, error_model="numpy")
def _median_few(a, n):
    """Median; sorts ``a[:n]`` in place."""
    sort_few(a, n)
    half = n // 2
    if n % 2:
        return np.float64(a[half])
    return 0.5 * (np.float64(a[half - 1]) + np.float64(a[half]))


@njit("f8(f4[::1], i8, f8, f8)", nogil=True, cache=True, error_model="numpy")
def median(a, n, guess, width):
    """Median of ``a[:n]`` (mean of the two middle values when n is even), exact.

    Bisection on the value with counts of how many lie at or below it: no branches in the inner loop.
    ``guess`` and ``width`` (> 0) say where to look first; they change the speed and never the result.
    ``a[:n]`` may be reordered.
    """
    if n <= 12:
        return _median_few(a, n)
    smallest, largest = _extremes(a, n)
    if smallest == largest:
        return np.float64(smallest)
    need = (n + 1) // 2  # the lower middle value is the first t with need values <= t
    low, low_count = smallest, np.int64(0)  # values <= low: fewer than need, as far as is known
    high, high_count = largest, np.int64(n)
    found = False
    # Two probes around the guess shrink the bracket at once when the guess is good.
    for probe in (guess - width, guess + width):
        t = np.float32(probe)
        if low < t < high:
            c = _count_up_to(a, n, t)
            if c >= need:
                high, high_count = t, c
            else:
                low, low_count = t, c
    step = 0
    while high_count != need:
        if low_count == need - 1 and low_count > 0:
            break
        share = (need - 0.5 - low_count) / (high_count - low_count)
        if step % 3 == 2:
            share = 0.5
        step += 1
        t = np.float32(low + (np.float64(high) - low) * share)
        if not low < t < high:
            t = np.float32(0.5 * (np.float64(low) + high))
            if not low < t < high:
                found = True  # neighbouring floats: all values in between are equal to high (or to low)
                break
        c = _count_up_to(a, n, t)
        if c >= need:
            high, high_count = t, c
        else:
            low, low_count = t, c
    if found:
        lower = low if low == smallest and _count_up_to(a, n, low) >= need else high
    elif high_count == need:
        lower, upper = _around(a, n, high, smallest, largest)
        if n % 2:
            return np.float64(lower)
        return 0.5 * (np.float64(lower) + np.float64(upper))
    else:
        lower = _around(a, n, low, smallest, largest)[1]
    if n % 2:
        return np.float64(lower)
    if _count_up_to(a, n, lower) > need:
        return np.float64(lower)
    upper = _around(a, n, lower, smallest, largest)[1]
    return 0.5 * (np.float64(lower) + np.float64(upper))


@njit("f8(f4[::1], i8, f8, f8)", nogil=True, cache=True, error_model="numpy")
def median_absolute_deviation(a, n, centre, guess):
    """Median of |a - centre| over ``a[:n]``; overwrites ``a[:n]``. No factor 1.4826 applied."""
    for i in range(n):
        a[i] = np.float32(abs(np.float64(a[i]) - centre))
    return median(a, n, guess, 2.0 * guess / math.sqrt(n))
