"""Pointings: exposures of one place on the sky, and how much of each other they cover."""

import math
from dataclasses import dataclass

import numpy as np

from musedeep.select.footprints import near_pairs, overlaps
from musedeep.sky import middle_of, sky_vectors

__all__ = ["Pointing", "connected", "find_pointings", "find_visits", "pointing_of", "shared_areas"]


@dataclass(frozen=True)
class Pointing:
    """Exposures of one place.

    Attributes
    ----------
    members : tuple of Candidate
        In the order of time.
    ra_deg, dec_deg, angle_deg, side_arcsec : float
        Mean pointing, the angle of the first exposure, side of the field of view.
    """

    members: tuple
    ra_deg: float
    dec_deg: float
    angle_deg: float
    side_arcsec: float

    @property
    def first(self):
        """The first exposure, whose names stand for all."""
        return self.members[0]

    @property
    def names(self):
        """What users may call it, in small letters: target, OB and the times of the exposures; set of str."""
        first = self.first
        dates = {member.date_obs.casefold() for member in self.members}
        return dates | {name.casefold() for name in (first.target, first.ob_id, first.ob_name)}


def pointing_of(members):
    """The pointing of exposures, which are put in the order of time."""
    members = tuple(sorted(members, key=lambda item: item.date_obs))
    points = sky_vectors([item.ra_deg for item in members], [item.dec_deg for item in members])
    return Pointing(members, *middle_of(points), members[0].angle_deg, members[0].side_arcsec)


def find_pointings(candidates, same_pointing_arcsec):
    """Put exposures of one place together, of whatever observing block.

    Parameters
    ----------
    candidates : list of Candidate
        All of them with a place on the sky.
    same_pointing_arcsec : float

    Returns
    -------
    list of Pointing
        In the order of their first exposures.
    """
    return _grouped(candidates, same_pointing_arcsec, lambda item: None)


def find_visits(candidates, same_pointing_arcsec):
    """The same, with exposures of one observing block and one size of the field of view only."""
    return _grouped(candidates, same_pointing_arcsec, lambda item: (item.block, item.side_arcsec))


def _grouped(candidates, distance_arcsec, key):
    candidates = sorted(candidates, key=lambda item: item.date_obs)
    pairs = near_pairs(
        [item.ra_deg for item in candidates], [item.dec_deg for item in candidates], distance_arcsec
    )
    keys = [key(item) for item in candidates]
    groups = connected(len(candidates), [(int(a), int(b)) for a, b in pairs if keys[a] == keys[b]])
    return [pointing_of([candidates[n] for n in group]) for group in groups]


def connected(count, pairs):
    """Connected components of a graph.

    Parameters
    ----------
    count : int
        Number of nodes.
    pairs : iterable of (int, int)

    Returns
    -------
    list of list of int
        Sorted by their first node.
    """
    root = list(range(count))

    def find(node):
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for one, two in pairs:
        one, two = sorted((find(one), find(two)))
        root[two] = one
    groups = {}
    for node in range(count):
        groups.setdefault(find(node), []).append(node)
    return list(groups.values())


def shared_areas(pointings):
    """How much pointings that lie near each other have in common.

    Parameters
    ----------
    pointings : list of Pointing

    Returns
    -------
    pairs : ndarray, shape (n, 2), int64
        Places in the list, the smaller first.
    shares : ndarray, shape (n,), float64
        Of the smaller field of view; 0 where they only lie near.
    """
    ra, dec, angle, side = (
        np.array([(p.ra_deg, p.dec_deg, p.angle_deg, p.side_arcsec) for p in pointings], float)
        .reshape(-1, 4)
        .T
    )
    pairs = near_pairs(ra, dec, max(side, default=0.0) * math.sqrt(2))
    return pairs, overlaps(pairs, ra, dec, angle, side)
