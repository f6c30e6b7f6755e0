"""Which source of one exposure is which of another: votes of pairs, then one list of all sources.

Positions are plane coordinates in arcsec, x to the east and y to the north, with the present offsets taken
off.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import gammainc
from scipy.stats import binom

__all__ = ["Catalogue", "Vote", "first_offsets", "match_all", "merged", "pairs_to_compare", "vote"]

# Up to this many exposures every pair is compared; beyond, each with this many others.
_ALL_PAIRS = 16
_PARTNERS = 8
_REFINE_ROUNDS = 4
# Differences this close to each other, in arcsec, agree.
_AGREE = 0.25
# Headers are rarely off by more, arcsec.
_USUAL = 2.0
# Share of the sources of one exposure that another one, of another depth and seeing, finds again at least.
_REPEATED = 0.5
# Fluxes of one source in two exposures differ by less, natural logarithm, unless a scale is off.
_ALIKE = 0.2


@dataclass(frozen=True)
class Vote:
    """How far the sources of one exposure lie from those of another.

    Attributes
    ----------
    first, second : int
        Exposures.
    shift : ndarray, shape (2,), arcsec
        Position in the first minus that in the second.
    count : int
        Pairs of sources that agree on it.
    score : float
        How sure it is: minus the decimal logarithm of how many such agreements chance would make, less
        what speaks against it where sources should agree and do not.
    """

    first: int
    second: int
    shift: np.ndarray
    count: int
    score: float


@dataclass(frozen=True)
class Catalogue:
    """Sources of all exposures, each under one number.

    Attributes
    ----------
    exposure, row, source : ndarray, shape (n,), int64
        Every match: exposure, row of its source list, number of the source.
    position : ndarray, shape (sources, 2), float64, arcsec
    """

    exposure: np.ndarray
    row: np.ndarray
    source: np.ndarray
    position: np.ndarray


def pairs_to_compare(positions, centers, reach):
    """Pairs of exposures that may overlap; with many exposures each gets a few partners only.

    Parameters
    ----------
    positions : list of ndarray, shape (n, 2)
        Sources of every exposure.
    centers : ndarray, shape (N, 2)
        Pointings of the header.
    reach : float
        Largest error of a header.

    Returns
    -------
    list of (int, int)
    """
    from scipy.spatial import cKDTree

    with_sources = np.array([n for n, places in enumerate(positions) if len(places)], int)
    if len(with_sources) < 2:
        return []
    radius = max(np.abs(positions[n] - centers[n]).max() for n in with_sources) * math.sqrt(2)
    tree = cKDTree(centers[with_sources])
    sizes = np.array([len(places) for places in positions])
    pairs = set()
    for n in with_sources:
        near = with_sources[tree.query_ball_point(centers[n], 2 * radius + reach)]
        near = near[near != n]
        if len(near) > _ALL_PAIRS:
            # Those with most sources hold everything together; the others, from near to far, close circles.
            away = np.hypot(*(centers[near] - centers[n]).T)
            spread = near[np.lexsort((_scrambled(near, n), np.round(away)))]
            chosen = spread[np.linspace(0, len(spread) - 1, _PARTNERS - 2).astype(int)]
            near = np.concatenate([near[np.lexsort((near, -sizes[near]))][:2], chosen])
        pairs.update((min(n, m), max(n, m)) for m in near)
    return sorted((int(n), int(m)) for n, m in pairs)


def _scrambled(values, salt):
    """A fixed disorder, another one for each salt, so that partners differ from exposure to exposure."""
    return (values * 2654435761 + salt * 40503) % 1000003


def vote(first, second, places, others, radii, bins, fluxes=None):
    """The shift that most pairs of sources agree on.

    It is looked for within each radius: what is near the header needs fewer pairs to be believed, and so do
    pairs of sources of one flux, which are looked for by themselves, too.

    Parameters
    ----------
    first, second : int
        Numbers of the exposures, for the result.
    places, others : ndarray, shape (n, 2) and (m, 2)
        Their sources, brightest first.
    radii : sequence of float
        Largest shifts, arcsec.
    bins : int
        Bins along each axis.
    fluxes : (ndarray, shape (n,), ndarray, shape (m,)), optional
        Of the sources; NaN where unknown.

    Returns
    -------
    Vote or None
        The surest one; None where no pair of sources lies within reach.
    """
    hulls = _hull(places), _hull(others)
    differences = (places[:, None] - others[None]).reshape(-1, 2)
    size = np.hypot(*differences.T)
    kinds = [(np.ones(len(size), bool), 1.0)]
    if fluxes is not None:
        alike = _alike(*fluxes)
        # a second look costs a factor of two in what chance may do
        kinds.append((alike, max(2 * alike.mean(), 1 / max(len(alike), 1))))
    best = None
    for reach, (kind, share) in product(radii, kinds):
        near = differences[kind & (size < reach)]
        if len(near) == 0:
            continue
        shift = _densest(near, reach, bins if reach == max(radii) else max(int(2 * reach), 2))
        count = int((np.hypot(*(near - shift).T) < _AGREE).sum())
        cells = (reach / _AGREE) ** 2
        # how many places would have as many pairs by chance
        chance = cells * gammainc(count, share * (size < reach).sum() / cells)
        expected = min(_inside(places - shift, hulls[1]), _inside(others + shift, hulls[0]))
        score = -math.log10(max(chance, 1e-300)) + _completeness(count, expected)
        # headers that are off by much are rare
        score -= math.log10(max(reach / _USUAL, 1.0))
        if best is None or score > best.score:
            best = Vote(first, second, shift, count, score)
    return best


def _alike(fluxes, others):
    """Which pairs of sources, in the order of their differences, are as bright as each other."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(np.log(fluxes[:, None] / others)).ravel() < _ALIKE


def _hull(places):
    """Half planes (n, 3) that all places lie in; None where places are too few, or on a line."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        return ConvexHull(places).equations if len(places) > 3 else None
    except QhullError:
        return None


def _inside(places, hull):
    """Number of places within a hull."""
    if hull is None:
        return 0
    return int((places @ hull[:, :2].T + hull[:, 2] < _AGREE).all(axis=1).sum())


def _completeness(count, expected):
    """Decimal logarithm of how often so few, or fewer, of the sources agree where both exposures look."""
    return float(max(binom.logcdf(min(count, expected), expected, _REPEATED), -700)) / math.log(10)


def _densest(differences, reach, bins):
    """Where most differences lie close together."""
    width = 2 * reach / bins
    cell = np.floor((differences + reach) / width).astype(int)
    histogram = np.zeros((bins + 1, bins + 1))
    np.add.at(histogram, (cell[:, 0], cell[:, 1]), 1)
    # A peak on the border of bins would be split: each place counts what lies in a block of two by two.
    blocks = histogram[:-1, :-1] + histogram[1:, :-1] + histogram[:-1, 1:] + histogram[1:, 1:]
    row, column = np.unravel_index(np.argmax(blocks), blocks.shape)
    return _refined(differences, (np.array([row, column]) + 1) * width - reach, width)


def _refined(differences, shift, width):
    """Median of the differences in the densest place near a block of bins of this width."""
    near = differences[np.hypot(*(differences - shift).T) < 1.5 * width]
    radius = 0.3 * width
    away = np.hypot(*(near[:, None] - near[None]).transpose(2, 0, 1))
    shift = near[np.argmax((away < radius).sum(axis=1))]
    for _ in range(_REFINE_ROUNDS):
        shift = np.median(near[np.hypot(*(near - shift).T) < radius], axis=0)
        radius = max(0.7 * radius, min(_AGREE, 0.3 * width))
    return shift


def merged(lists):
    """One list of the sources of several exposures, each source once, those of the first exposure first.

    Parameters
    ----------
    lists : list of ndarray, shape (n, k)
        Places in arcsec; any further columns, as fluxes, go with them.

    Returns
    -------
    ndarray, shape (m, k)
    """
    from scipy.spatial import cKDTree

    known = lists[0]
    for rows in lists[1:]:
        if len(known) and len(rows):
            rows = rows[cKDTree(known[:, :2]).query(rows[:, :2])[0] > _AGREE]
        known = np.concatenate([known, rows])
    return known


def first_offsets(count, votes):
    """Offsets that agree with the votes of pairs.

    A tree of the surest votes gives the start; then all votes count, but those far off ever less.

    Parameters
    ----------
    count : int
        Number of exposures.
    votes : list of Vote

    Returns
    -------
    shifts : ndarray, shape (count, 2), arcsec
        Measured minus common; the mean of each group is 0.
    groups : ndarray, shape (count,), int
        Exposures that votes connect have the same number.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

    if not votes:
        return np.zeros((count, 2)), np.arange(count)
    first = np.array([item.first for item in votes])
    second = np.array([item.second for item in votes])
    measured = np.array([item.shift for item in votes])
    score = np.array([max(item.score, 0.01) for item in votes])
    graph = coo_matrix((1 / score, (first, second)), shape=(count, count)).tocsr()
    tree = minimum_spanning_tree(graph)
    _, groups = connected_components(graph, directed=False)
    step = {(a, b): shift for a, b, shift in zip(first, second, measured, strict=True)}
    shifts = np.zeros((count, 2))
    for group in np.unique(groups):
        root = int(np.flatnonzero(groups == group)[0])
        order, before = breadth_first_order(tree, root, directed=False)
        for n in order[1:]:
            m = before[n]
            shifts[n] = shifts[m] + (step[n, m] if (n, m) in step else -step[m, n])
    for _ in range(20):
        off = np.hypot(*(shifts[first] - shifts[second] - measured).T)
        weight = score / (1 + (off / 0.3) ** 2)
        shifts = _balanced(count, first, second, measured, weight)
    return shifts, groups


def _balanced(count, first, second, measured, weight):
    """Weighted least squares of shift[first] - shift[second] = measured."""
    matrix = np.zeros((count, count))
    np.add.at(matrix, (first, first), weight)
    np.add.at(matrix, (second, second), weight)
    np.add.at(matrix, (first, second), -weight)
    np.add.at(matrix, (second, first), -weight)
    right = np.zeros((count, 2))
    np.add.at(right, first, weight[:, None] * measured)
    np.add.at(right, second, -weight[:, None] * measured)
    # the tiny ridge sets the mean of every group to 0
    return np.linalg.solve(matrix + np.eye(count) * 1e-9 * max(weight.max(), 1e-9), right)


def match_all(positions, errors, radius):
    """Give every source of all exposures its number.

    Exposures are taken one after the other, those with most sources first; a source is the same as one that
    is known where each is the nearest of the other within the radius.

    Parameters
    ----------
    positions : list of ndarray, shape (n, 2)
    errors : list of ndarray, shape (n,)
        Standard errors, arcsec: they weigh the mean position of a source.
    radius : float

    Returns
    -------
    Catalogue
        Of the sources that two exposures or more have.
    """
    from scipy.spatial import cKDTree

    known, weights = np.empty((0, 2)), np.empty(0)
    exposure, row, source = [], [], []
    for n in sorted(range(len(positions)), key=lambda n: (-len(positions[n]), n)):
        places, weight = positions[n], 1 / errors[n] ** 2
        if len(places) == 0:
            continue
        number = np.full(len(places), -1)
        if len(known):
            there = cKDTree(known).query(places, distance_upper_bound=radius)[1]
            back = cKDTree(places).query(known, distance_upper_bound=radius)[1]
            found = np.flatnonzero(there < len(known))
            found = found[back[there[found]] == found]
            number[found] = there[found]
            total = weights[number[found]] + weight[found]
            share = (weight[found] / total)[:, None]
            known[number[found]] += share * (places[found] - known[number[found]])
            weights[number[found]] = total
        new = np.flatnonzero(number < 0)
        number[new] = len(known) + np.arange(len(new))
        known, weights = np.concatenate([known, places[new]]), np.concatenate([weights, weight[new]])
        exposure.append(np.full(len(places), n))
        row.append(np.arange(len(places)))
        source.append(number)
    if not exposure:
        empty = np.empty(0, np.int64)
        return Catalogue(empty, empty, empty, known)
    exposure, row, source = (np.concatenate(values).astype(np.int64) for values in (exposure, row, source))
    kept = np.bincount(source, minlength=len(known)) >= 2
    number = np.cumsum(kept) - 1
    keep = kept[source]
    return Catalogue(exposure[keep], row[keep], number[source[keep]], known[kept])
