"""Rules R5 and R18: splitting a field that is larger than one product may be."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from musedeep.select.pointings import connected, pointing_of, shared_areas

__all__ = ["Part", "split_field"]

# Of more pointings than this that hang together not every way to part them is tried.
_EXACT = 11


@dataclass(frozen=True)
class Part:
    """One product of a split field.

    Attributes
    ----------
    pointings : tuple of int
        Places of its pointings.
    shared : tuple of int
        Those of them that belong to another part, and are used here too.
    """

    pointings: tuple
    shared: tuple = ()


def split_field(pointings, cap, least_overlap, allow_reuse):
    """Part the pointings of a field such that no part has more exposures than a limit.

    Parts are made of pointings that overlap. Of all ways to part them that one is taken which keeps most of
    the depth: the square of the depth, summed over the sky, is sum of n_i n_j A_ij over all pairs i, j of a
    part, with n exposures and A the area in common. A pointing with more exposures than the limit is parted
    by its OBs first.

    Parameters
    ----------
    pointings : list of Pointing
    cap : int
        Most exposures of a part; 0 for no limit.
    least_overlap : float
        Overlap from which two pointings may share a part.
    allow_reuse : bool
        Let a part have pointings of other parts too, where they overlap it and there is room.

    Returns
    -------
    pointings : list of Pointing
        Those given, larger ones than `cap` in pieces.
    parts : list of Part
        In the order of their first pointings.
    """
    total = sum(len(pointing.members) for pointing in pointings)
    if not cap or total <= cap:
        return pointings, [Part(tuple(range(len(pointings))))]
    pointings = [piece for pointing in pointings for piece in _pieces(pointing, cap)]
    counts = [len(pointing.members) for pointing in pointings]
    shared = _all_shared(pointings)
    pairs = [(i, j) for i in range(len(counts)) for j in range(i) if shared[i, j] >= least_overlap]
    parts = []
    for group in connected(len(counts), pairs):
        choose = _best_parts if len(group) <= _EXACT else _greedy_parts
        parts += choose(group, counts, shared, least_overlap, cap)
    # In the order of their first exposures, so that a part keeps its place when a field grows.
    parts = sorted(tuple(sorted(part)) for part in parts)
    return pointings, [_with_reuse(part, counts, shared, least_overlap, cap, allow_reuse) for part in parts]


def _pieces(pointing, cap):
    """A pointing in pieces of at most `cap` exposures, whole OBs together where that is possible."""
    if len(pointing.members) <= cap:
        return [pointing]
    blocks = {}
    for member in pointing.members:
        blocks.setdefault(member.block, []).append(member)
    runs = [block[n : n + cap] for block in blocks.values() for n in range(0, len(block), cap)]
    share = len(pointing.members) / math.ceil(len(pointing.members) / cap)
    pieces = [[]]
    for run in runs:
        full = len(pieces[-1]) + len(run) > cap or len(pieces[-1]) >= share
        if pieces[-1] and full:
            pieces.append([])
        pieces[-1] += run
    return [pointing_of(piece) for piece in pieces]


def _all_shared(pointings):
    """Overlap of every two pointings; ndarray (n, n)."""
    areas = np.eye(len(pointings))
    pairs, shares = shared_areas(pointings)
    areas[pairs[:, 0], pairs[:, 1]] = areas[pairs[:, 1], pairs[:, 0]] = shares
    return areas


def _gain(part, counts, shared):
    """What a part gains over its pointings alone: depth squared over the sky they share."""
    return sum(counts[i] * counts[j] * shared[i, j] for n, i in enumerate(part) for j in part[:n])


def _hangs_together(part, shared, least_overlap):
    pairs = [(n, m) for n in range(len(part)) for m in range(n) if shared[part[n], part[m]] >= least_overlap]
    return len(connected(len(part), pairs)) == 1


def _best_parts(group, counts, shared, least_overlap, cap):
    """The best of all ways to part pointings."""
    sets = {}
    for mask in range(1, 1 << len(group)):
        part = [group[n] for n in range(len(group)) if mask >> n & 1]
        if sum(counts[n] for n in part) <= cap and _hangs_together(part, shared, least_overlap):
            sets[mask] = _gain(part, counts, shared)

    @cache
    def best(mask):
        if not mask:
            return 0.0, 0, ()
        lowest, found = mask & -mask, None
        for part, gain in sets.items():
            if part & lowest and part & mask == part:
                rest = best(mask ^ part)
                # Rounded, and with the fewest parts and the first of them: the same answer for any order.
                trial = (round(gain + rest[0], 9), rest[1] - 1, (-part, *rest[2]))
                found = trial if found is None else max(found, trial)
        return found

    masks = [-part for part in best((1 << len(group)) - 1)[2]]
    return [[group[n] for n in range(len(group)) if mask >> n & 1] for mask in masks]


def _greedy_parts(group, counts, shared, least_overlap, cap):
    """Join the two parts that gain most, until nothing fits any more."""
    parts = [[n] for n in group]
    while True:
        trials = []
        for n, one in enumerate(parts):
            for m, two in enumerate(parts[:n]):
                near = any(shared[i, j] >= least_overlap for i in one for j in two)
                if near and sum(counts[i] for i in one + two) <= cap:
                    gain = sum(counts[i] * counts[j] * shared[i, j] for i in one for j in two)
                    trials.append((round(gain, 9), -n, -m))
        if not trials:
            return parts
        _, n, m = max(trials)
        parts[-m] = parts[-m] + parts[-n]
        del parts[-n]


def _with_reuse(part, counts, shared, least_overlap, cap, allow_reuse):
    """A part, with pointings of others that make it deeper."""
    own, room = list(part), cap - sum(counts[n] for n in part)
    others = [n for n in range(len(counts)) if n not in part and counts[n] <= room]
    gains = {n: sum(counts[n] * counts[i] * shared[n, i] for i in own) for n in others}
    reused = []
    for n in sorted(others, key=lambda n: (-gains[n], n)):
        if allow_reuse and counts[n] <= room and any(shared[n, i] >= least_overlap for i in own):
            reused.append(n)
            room -= counts[n]
    return Part(tuple(sorted([*own, *reused])), tuple(sorted(reused)))
