"""From source lists to offsets: votes, matches and the joint fit, repeated until nothing moves."""

import math
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from musedeep.align.matching import Catalogue, first_offsets, match_all, merged, pairs_to_compare, vote
from musedeep.align.solution import Solution, solve_positions, solve_scales
from musedeep.offsets import Offset
from musedeep.sky import middle_of, sky_frame, sky_vectors

__all__ = ["Joint", "Member", "align_sources", "common_frame", "moved"]

_ARCSEC = math.degrees(1) * 3600
# Shifts below this, in arcsec, no longer change anything.
_STILL = 2e-5
_ROUNDS = 8
# Fewer sources than this do not tell where an exposure lies, unless nothing else could be meant.
_FEWEST_SURE = 3
# With more groups than this, exposures have next to nothing in common.
_MOST_GROUPS = 30
# Only the brightest sources of an exposure vote: more would add noise and time.
_VOTERS = 100
# What the wings of the PSF, which all sources of an exposure have in common, leave unknown of its fluxes.
_WINGS = 0.003
# The same where the PSF is not known: what an aperture holds of galaxies and blends changes with the seeing.
_SHAPES = 0.2
# Votes count that chance would cast less than once in a hundred pairs of exposures.
_SURE_VOTE = 2.0


@dataclass(frozen=True)
class Member:
    """What takes part: an exposure, or the reference.

    Attributes
    ----------
    to_sky : ndarray, shape (3, 3)
        As in `WhiteImage`.
    ra_deg, dec_deg : float
    x, y, position_error : ndarray, shape (n,), float64, pixels
    flux, flux_error : ndarray, shape (n,), float64
        NaN where unknown.
    step_arcsec : float
    points : bool
        Whether fluxes are those of stars in a known PSF.
    """

    to_sky: np.ndarray
    ra_deg: float
    dec_deg: float
    x: np.ndarray
    y: np.ndarray
    position_error: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    step_arcsec: float
    points: bool = True

    @classmethod
    def of(cls, image, sources):
        """Member of a `WhiteImage` and its `Sources`."""
        return cls(
            image.to_sky,
            image.ra_deg,
            image.dec_deg,
            sources.x,
            sources.y,
            sources.position_error,
            sources.flux,
            sources.flux_error,
            image.step_arcsec,
            sources.points,
        )

    def places(self, frame, offset):
        """Positions (n, 2) of the sources on a frame's plane in arcsec, an `Offset` taken off."""
        own = frame.T @ offset.frame(self.ra_deg, self.dec_deg) @ self.to_sky
        x, y, w = own @ np.stack([self.x, self.y, np.ones_like(self.x)])
        return np.column_stack([x / w, y / w]) * _ARCSEC

    def center(self, frame, offset):
        """Position (2,) of the pointing."""
        x, y, w = frame.T @ offset.frame(self.ra_deg, self.dec_deg)[:, 2]
        return np.array([x, y]) / w * _ARCSEC


@dataclass(frozen=True)
class Joint:
    """Offsets from sources.

    Attributes
    ----------
    offsets : list of Offset
        Flux scale 1 where it is unknown.
    shift_errors : ndarray, shape (N, 2), arcsec
    rotation_errors : ndarray, shape (N,), deg
        NaN where no rotation was fitted.
    scale_errors : ndarray, shape (N,)
        Relative; NaN where unknown.
    solved : ndarray, shape (N,), bool
        Whether the sources tell where it lies.
    catalogue : Catalogue
    positions : Solution
    """

    offsets: list
    shift_errors: np.ndarray
    rotation_errors: np.ndarray
    scale_errors: np.ndarray
    solved: np.ndarray
    catalogue: Catalogue = field(repr=False)
    positions: Solution = field(repr=False)


def common_frame(members):
    """Tangent frame in the middle of all pointings."""
    vectors = np.array([sky_vectors(member.ra_deg, member.dec_deg) for member in members])
    middle = middle_of(vectors)
    return sky_frame(*middle)


def moved(member, offset, shift, rotation=0.0, scale=1.0):
    """The offset with a small shift on the sky added.

    Parameters
    ----------
    member : Member
        Or anything with `dec_deg`.
    offset : Offset
    shift : (float, float), arcsec
        East and north, measured minus true.
    rotation : float, radians
    scale : float
        Factor on the flux scale.
    """
    dec = math.radians(offset.pointing(0.0, member.dec_deg)[1])
    return Offset(
        offset.ra_deg + float(shift[0]) / 3600 / math.cos(dec),
        offset.dec_deg + float(shift[1]) / 3600,
        offset.rotation_deg + math.degrees(rotation),
        offset.flux_scale * scale,
    )


def align_sources(members, settings, start=None, *, search=True):
    """Offsets of all members from their sources.

    Parameters
    ----------
    members : list of Member
    settings : AlignSettings
    start : list of Offset, optional
        Where to search; those of the headers by default.
    search : bool, optional
        Let pairs vote for their shifts first; without it the start must be good to half an arcsec.

    Returns
    -------
    Joint
    """
    frame = common_frame(members)
    start = list(start) if start else [Offset()] * len(members)
    offsets, connected = _searched(members, start, frame, settings) if search else (start, None)
    # The votes are good to a tenth of an arcsec: wider matches would take strangers for the same source.
    for radius in (settings.rsearch[-1], 0.5 * settings.rsearch[-1]):
        offsets, catalogue, solution = _passed(members, offsets, frame, radius, settings)
    offsets, scale_errors = _scaled(members, offsets, catalogue, solution, settings)
    if connected is None:
        connected = _linked(len(members), catalogue, solution)
    solved = _solved(members, solution, connected)
    errors = solution.errors
    turned = settings.fit_rotation
    return Joint(
        [new if good else old for new, old, good in zip(offsets, start, solved, strict=True)],
        errors[:, :2],
        np.degrees(errors[:, 2]) if turned else np.full(len(members), math.nan),
        scale_errors,
        solved,
        catalogue,
        solution,
    )


def _searched(members, start, frame, settings):
    """First offsets from the votes of pairs, and which members are connected with most of the others."""
    pairs = list(zip(members, start, strict=True))
    places = [member.places(frame, offset) for member, offset in pairs]
    centers = np.array([member.center(frame, offset) for member, offset in pairs])
    listed = [np.column_stack([where, member.flux]) for where, member in zip(places, members, strict=True)]
    votes = []
    for n, m in pairs_to_compare(places, centers, settings.rsearch[0]):
        result = _vote(n, m, listed[n][:_VOTERS], listed[m][:_VOTERS], settings)
        if result is not None and result.score > _SURE_VOTE:
            votes.append(result)
    shifts, groups = first_offsets(len(members), votes)
    between = _votes_of_groups(listed, shifts, groups, settings)
    if between:
        shifts, groups = first_offsets(len(members), votes + between)
    largest = np.bincount(groups).argmax()
    offsets = [moved(*pair, shift) for pair, shift in zip(pairs, shifts, strict=True)]
    return offsets, (groups == largest) & (np.bincount(groups)[groups] > 1)


def _vote(first, second, sources, others, settings):
    """Vote of two lists of places and fluxes."""
    fluxes = sources[:, 2], others[:, 2]
    return vote(first, second, sources[:, :2], others[:, :2], settings.rsearch, settings.nbins, fluxes)


def _votes_of_groups(listed, shifts, groups, settings):
    """Votes between groups of exposures, the sources of a group taken together: they see more of a seam."""
    numbers = [n for n in np.unique(groups) if any(len(listed[m]) for m in np.flatnonzero(groups == n))]
    if not 1 < len(numbers) <= _MOST_GROUPS or len(numbers) == len(listed):
        return []
    moves = np.column_stack([shifts, np.zeros(len(shifts))])
    lists = {n: merged([listed[m] - moves[m] for m in np.flatnonzero(groups == n)]) for n in numbers}
    votes = []
    for first, second in combinations(numbers, 2):
        result = _vote(first, second, lists[first], lists[second], settings)
        if result is not None and result.score > _SURE_VOTE:
            n, m = (int(np.flatnonzero(groups == number)[0]) for number in (first, second))
            votes.append(replace(result, first=n, second=m, shift=result.shift + shifts[n] - shifts[m]))
    return votes


def _passed(members, offsets, frame, radius, settings):
    """Match within a radius and fit, until nothing moves."""
    for turn in range(_ROUNDS):
        places = [member.places(frame, offset) for member, offset in zip(members, offsets, strict=True)]
        errors = [member.position_error * member.step_arcsec for member in members]
        catalogue = match_all(places, errors, radius)
        solution = _fit(members, offsets, frame, catalogue, places, errors, settings)
        rotations = solution.values[:, 2] if settings.fit_rotation else np.zeros(len(members))
        offsets = [
            moved(member, offset, value[:2], angle)
            for member, offset, value, angle in zip(members, offsets, solution.values, rotations, strict=True)
        ]
        if settings.fit_rotation:
            offsets = _without_common_turn(members, offsets, frame, solution.counts > 0)
        if turn and np.abs(solution.values[:, :2]).max(initial=0) < _STILL:
            break
    return offsets, catalogue, solution


def _without_common_turn(members, offsets, frame, known):
    """Offsets whose mean rotation is 0: sources cannot tell a turn of the sky from one of all exposures."""
    if not known.any():
        return offsets
    turn = math.radians(np.mean([o.rotation_deg for o, k in zip(offsets, known, strict=True) if k]))
    result = []
    for member, offset, good in zip(members, offsets, known, strict=True):
        x, y = member.center(frame, offset)
        result.append(moved(member, offset, (-turn * y, turn * x), -turn) if good else offset)
    return result


def _fit(members, offsets, frame, catalogue, places, errors, settings):
    exposure, row = catalogue.exposure, catalogue.row
    parameters = 3 if settings.fit_rotation else 2
    if len(exposure) == 0:
        nothing = np.zeros((len(members), parameters))
        empty = np.empty(0)
        return Solution(nothing, nothing * np.nan, np.empty((0, 2)), empty, 1.0, np.zeros(len(members), int))
    position = _gathered(places, exposure, row)
    error = _gathered(errors, exposure, row) if settings.weight else np.full(len(exposure), 0.01)
    centers = np.array([m.center(frame, offset) for m, offset in zip(members, offsets, strict=True)])
    return solve_positions(
        exposure, catalogue.source, position, error, centers, rotation=settings.fit_rotation
    )


def _gathered(lists, exposure, row):
    starts = np.cumsum([0, *(len(values) for values in lists)])
    return np.concatenate(lists)[starts[exposure] + row]


def _scaled(members, offsets, catalogue, solution, settings):
    """Offsets with flux scales, relative to the median exposure, and their relative errors."""
    unknown = np.full(len(members), math.nan)
    if not settings.fit_scale or len(catalogue.exposure) == 0:
        return offsets, unknown
    flux = _gathered([member.flux for member in members], catalogue.exposure, catalogue.row)
    error = _gathered([member.flux_error for member in members], catalogue.exposure, catalogue.row)
    common = np.array([_WINGS if member.points else _SHAPES for member in members])
    good = (solution.weights > 0.1) & (flux > 3 * error)
    if not good.any():
        return offsets, unknown
    relative = np.hypot(error / flux, np.where(common > _WINGS, common, 0.0)[catalogue.exposure])
    source = np.unique(catalogue.source[good], return_inverse=True)[1]
    result = solve_scales(catalogue.exposure[good], source, np.log(flux[good]), relative[good], len(members))
    known = result.counts > 0
    if not known.any():
        return offsets, unknown
    middle = np.median(result.values[known, 0])
    scales = np.where(known, np.exp(middle - result.values[:, 0]), 1.0)
    return [
        Offset(offset.ra_deg, offset.dec_deg, offset.rotation_deg, float(scale))
        for offset, scale in zip(offsets, scales, strict=True)
    ], np.hypot(result.errors[:, 0], common)


def _linked(count, catalogue, solution):
    """Which exposures hang together by the matches that count, in the largest such group."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    trusted = solution.weights > 0.1
    ends = catalogue.exposure[trusted], count + catalogue.source[trusted]
    size = count + len(catalogue.position)
    graph = coo_matrix((np.ones(len(ends[0])), ends), (size, size))
    groups = connected_components(graph, directed=False)[1][:count]
    return groups == np.bincount(groups).argmax()


def _solved(members, solution, connected):
    """Enough matches that count, or, of a list so short that there are no more, all."""
    few = np.minimum(_FEWEST_SURE, np.maximum([len(member.x) for member in members], 1))
    # a rotation, too, takes more than one source
    return connected & (solution.counts >= few)
