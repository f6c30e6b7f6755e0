"""Offsets of all exposures at once: robust least squares with one unknown place for every source."""

import dataclasses
from dataclasses import dataclass

import numpy as np

__all__ = ["Solution", "solve_positions", "solve_scales"]

_ROUNDS = 30
# First rounds in which large residuals count as they are and not as their squares: the start must lie right.
_GENTLE = 6
# Rounds in which the noise is measured; later ones let the trust in the matches settle.
_SETTLING = 14
# Residuals beyond this many standard deviations count nothing (Tukey's biweight: 95 % efficient).
_TUKEY = 4.685
_HUBER = 1.345
# Rotations are solved for as the way of a point at this distance in arcsec, so that all unknowns are alike.
_ARM = 10.0
# The median of the squares of two normal numbers' sum, and of one.
_MEDIAN_CHI2 = {1: 0.4549, 2: 1.3863}


@dataclass(frozen=True)
class Solution:
    """What the joint fit gives.

    Attributes
    ----------
    values : ndarray, shape (exposures, parameters), float64
        Of each exposure, relative to the mean of those it is connected with; 0 for those without matches.
    errors : ndarray of the same shape
        Standard errors; NaN for those without matches.
    residuals : ndarray, shape (matches, dimensions)
    weights : ndarray, shape (matches,)
        0 to 1: how far the robust fit trusts each match.
    noise_factor : float
        By how much the residuals scatter more than the errors that were given.
    counts : ndarray, shape (exposures,), int
        Matches that count, of each exposure.
    """

    values: np.ndarray
    errors: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray
    noise_factor: float
    counts: np.ndarray


def solve_positions(exposure, source, position, error, centers, *, rotation=False, floor=0.0005):
    """Shift, and rotation, of every exposure.

    Parameters
    ----------
    exposure, source : ndarray, shape (n,), int64
        Of every match.
    position : ndarray, shape (n, 2), arcsec
    error : ndarray, shape (n,), arcsec
        Standard error of each coordinate.
    centers : ndarray, shape (exposures, 2), arcsec
        What each exposure is turned about.
    rotation : bool, optional
    floor : float, optional
        Added in quadrature to every error, arcsec.

    Returns
    -------
    Solution
        Parameters: x and y in arcsec, and the rotation in radians, from north through east.
    """
    count, n = len(centers), len(exposure)
    error, rows = np.hypot(error, floor), np.arange(n)
    if rotation:
        # one row for each coordinate: first all x, then all y
        entries = [(rows, exposure * 3, np.ones(n)), (rows + n, exposure * 3 + 1, np.ones(n))]
        # the mean place of a source, so that a turn of all exposures moves every match of it alike
        seen = np.maximum(np.bincount(source), 1)[:, None]
        places = np.stack([np.bincount(source, values) for values in position.T], axis=1) / seen
        arm = places[source] - centers[exposure]
        # from north through east: a point in the north moves to the east
        entries.append((rows, exposure * 3 + 2, arm[:, 1] / _ARM))
        entries.append((rows + n, exposure * 3 + 2, -arm[:, 0] / _ARM))
        found = _solve(exposure, source, position, error, entries, count, 3)
        found.values[:, 2] /= _ARM
        found.errors[:, 2] /= _ARM
        return found
    # Both coordinates have the same equations.
    found = _solve(exposure, source, position, error, [(rows, exposure, np.ones(n))], count, 1)
    return dataclasses.replace(found, errors=np.repeat(found.errors, 2, axis=1))


def solve_scales(exposure, source, magnitude, error, count, floor=0.003):
    """Flux scale of every exposure.

    Parameters
    ----------
    exposure, source : ndarray, shape (n,), int64
    magnitude : ndarray, shape (n,)
        Natural logarithm of the flux.
    error : ndarray, shape (n,)
    count : int
        Number of exposures.
    floor : float, optional
        Added in quadrature to every error.

    Returns
    -------
    Solution
        One parameter: the logarithm of the factor by which an exposure is too bright. Its error is not less
        than what leaving out one source after the other says: where few sources tie exposures together, one
        that is wrong in all exposures of a pointing agrees with itself.
    """
    entries = [(np.arange(len(exposure)), exposure, np.ones(len(exposure)))]
    # errors of fluxes are largely those of neighbours, which exposures of one pointing have in common
    error = np.hypot(error, floor)
    found = _solve(exposure, source, magnitude[:, None], error, entries, count, 1, least_factor=1.0)
    left_out = _jackknife(exposure, source, found, error)
    return dataclasses.replace(found, errors=np.fmax(found.errors, left_out[:, None]))


def _jackknife(exposure, source, found, error):
    """Standard errors of one parameter from the changes that leaving out each source makes.

    The weights stay, so that each change takes a small system only: the normal matrix less what the source
    adds to it, and, as the gradient of the solution is 0, what its residuals say (Wu 1986, Ann. Statist. 14).
    """
    known = found.counts > 0
    kept = (found.weights > 0) & known[exposure]
    number = np.cumsum(known) - 1
    size = int(known.sum())
    weight = found.weights / (found.noise_factor * error) ** 2
    parts = []
    for one in np.unique(source[kept]):
        mine = kept & (source == one)
        place, share = number[exposure[mine]], weight[mine]
        matrix = np.diag(share) - np.outer(share, share) / share.sum()
        parts.append((place, matrix, matrix @ found.residuals[mine, 0]))
    normal = np.zeros((size, size))
    for place, matrix, _ in parts:
        normal[np.ix_(place, place)] += matrix
    # the sum of all, which nothing tells, is held
    normal += np.trace(normal) / max(size, 1) ** 2
    variance = np.zeros(size)
    for place, matrix, pull in parts:
        rest, gradient = normal.copy(), np.zeros(size)
        rest[np.ix_(place, place)] -= matrix
        gradient[place] = -pull
        change = np.linalg.lstsq(rest, gradient, rcond=1e-9)[0]
        variance += (change - change.mean()) ** 2
    errors = np.full(len(known), np.nan)
    errors[known] = np.sqrt(variance)
    return errors


def _solve(exposure, source, values, error, entries, count, parameters, least_factor=0.0):
    """Robust fit; the design has a row for each match, or one for each coordinate of each match."""
    from scipy.sparse import coo_matrix

    n, dimensions = values.shape
    rows, columns, numbers = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    coupled = rows.max() >= n
    shape = (n * dimensions if coupled else n, count * parameters)
    design = coo_matrix((numbers, (rows, columns)), shape).tocsr()
    right = values.T.reshape(-1, 1) if coupled else values
    trust, factor, jitter = np.ones(n), 1.0, np.zeros(n)
    for turn in range(_ROUNDS):
        variance = (factor * error) ** 2 + jitter**2
        normal, solution, residuals = _least_squares(design, right, source, trust / variance)
        residuals = residuals.reshape(dimensions, n).T if coupled else residuals
        chi2 = (residuals**2).sum(axis=1) / variance
        before, trust = trust, _trust(chi2 / dimensions, gentle=turn < _GENTLE)
        if turn < _SETTLING:
            factor = max(_noise_factor(residuals, error, exposure, source, trust), least_factor)
            jitter = _jitter(residuals, factor * error, source, dimensions)
        elif np.abs(trust - before).max(initial=0.0) < 1e-3:
            break
    trusted = trust > 0.1
    # what no other exposure confirms tells nothing
    trusted &= np.bincount(source[trusted], minlength=source.max() + 1)[source] > 1
    counts = np.bincount(exposure[trusted], minlength=count)
    found = solution.reshape(count, -1)
    # The sources do not tell what all exposures have in common; a rotation does not go without shifts.
    common = found[counts > 0].mean(axis=0) if counts.any() else np.zeros(found.shape[1])
    common[2:] = 0
    found = (found - common) * (counts > 0)[:, None]
    return Solution(found, _errors(normal, counts, count, parameters), residuals, trust, factor, counts)


def _trust(chi2, gentle):
    """Huber's weights, which forget no residual, or Tukey's, which forget large ones."""
    if gentle:
        return _HUBER / np.sqrt(np.maximum(chi2, _HUBER**2))
    return np.clip(1 - chi2 / _TUKEY**2, 0, None) ** 2


def _least_squares(design, right, source, weight):
    """Eliminate the places of the sources, solve for the exposures; normal matrix, solution, residuals."""
    from scipy.sparse import coo_matrix, diags

    n = len(source)
    membership = coo_matrix((np.ones(n), (np.arange(n), source)), (n, source.max() + 1)).tocsr()
    totals = np.maximum(membership.T @ weight, 1e-300)

    def centred(values):
        # minus the weighted mean of each source
        return values - membership @ (diags(1 / totals) @ (membership.T @ (diags(weight) @ values)))

    normal, gradient = 0, 0
    for start in range(0, len(right), n):
        part = design[start : start + n]
        weighted = diags(weight) @ part
        shared = membership.T @ weighted
        normal = normal + (part.T @ weighted - shared.T @ diags(1 / totals) @ shared).toarray()
        gradient = gradient + weighted.T @ centred(right[start : start + n])
    # what nothing holds must not float away on rounding errors
    ridge = 1e-7 * np.maximum(np.diag(normal), np.diag(normal).max() * 1e-4 + 1e-300)
    solution = np.linalg.solve(normal + np.diag(ridge), gradient)
    left = right - design @ solution
    residuals = [centred(left[start : start + n]) for start in range(0, len(right), n)]
    return normal, solution, np.concatenate(residuals)


def _freedom(exposure, source, trust):
    """Share of a match's variance that remains in its residual, its exposure and source being fitted."""
    sources = np.bincount(source, trust)[source]
    exposures = np.bincount(exposure, trust)[exposure]
    return np.clip(
        (1 - trust / np.maximum(sources, 1e-9)) * (1 - trust / np.maximum(exposures, 1e-9)), 0.1, 1
    )


def _noise_factor(residuals, error, exposure, source, trust):
    free = _freedom(exposure, source, np.maximum(trust, 1e-3))
    scaled = (residuals**2).sum(axis=1) / (error**2 * free)
    # sources of two exposures tell little of the noise, those of one nothing
    informed = np.bincount(source)[source] >= 3
    scaled = scaled[informed] if informed.sum() >= 10 else scaled
    return float(np.clip(np.sqrt(np.median(scaled) / _MEDIAN_CHI2[residuals.shape[1]]), 0.3, 100))


def _jitter(residuals, error, source, dimensions):
    """Scatter of a source beyond its errors: galaxies and blends look different in every seeing."""
    order = np.argsort(source, kind="stable")
    starts = np.searchsorted(source[order], np.arange(source.max() + 2))
    excess = (residuals**2).sum(axis=1) / _MEDIAN_CHI2[dimensions]
    jitter = np.zeros(len(source))
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        members = order[first:last]
        if len(members) >= 4:
            jitter[members] = np.sqrt(
                max(np.median(excess[members]) - 1.5 * np.median(error[members] ** 2), 0)
            )
    return jitter


def _errors(normal, counts, count, parameters):
    """Standard errors, each exposure against the mean of all."""
    inverse = np.linalg.pinv(normal, rcond=1e-10, hermitian=True)
    errors = np.sqrt(np.clip(np.diag(inverse), 0, None)).reshape(count, parameters)
    return np.where((counts > 0)[:, None], errors, np.nan)
