"""Rule R16: which exposures show one target, told from fuzzy names, programmes and places on the sky."""

import math
from dataclasses import dataclass

import numpy as np

from musedeep.select.footprints import near_pairs, overlaps
from musedeep.select.names import name_likeness
from musedeep.sky import middle_of, sky_vectors

__all__ = ["Link", "Visit", "connected", "find_targets", "find_visits", "link_visits"]

# Shares of the score (their sum is 1): names of target and OB, same PI, same container, place.
_WEIGHTS = {"target": 0.45, "ob": 0.15, "pi": 0.10, "container": 0.10, "place": 0.20}
_HALF_OVERLAP = 0.5


@dataclass(frozen=True)
class Visit:
    """The exposures of one observing block at one pointing.

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


@dataclass(frozen=True)
class Link:
    """Two visits that overlap.

    Attributes
    ----------
    one, two : int
        Their places in the list of visits.
    overlap, score : float
    linked : bool
        Whether they are one target.
    why : str
    """

    one: int
    two: int
    overlap: float
    score: float
    linked: bool
    why: str


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


def find_visits(candidates, same_pointing_arcsec):
    """Put exposures of one observing block and one pointing together.

    Parameters
    ----------
    candidates : list of Candidate
        All of them with a place on the sky.
    same_pointing_arcsec : float

    Returns
    -------
    list of Visit
        In the order of their first exposures.
    """
    candidates = sorted(candidates, key=lambda item: item.date_obs)
    if not candidates:
        return []
    pairs = near_pairs(
        [item.ra_deg for item in candidates], [item.dec_deg for item in candidates], same_pointing_arcsec
    )
    keys = [(item.block, item.side_arcsec) for item in candidates]
    groups = connected(len(candidates), [(a, b) for a, b in pairs if keys[a] == keys[b]])
    return [_visit(tuple(candidates[n] for n in group)) for group in groups]


def _visit(members):
    points = sky_vectors([item.ra_deg for item in members], [item.dec_deg for item in members])
    return Visit(members, *middle_of(points), members[0].angle_deg, members[0].side_arcsec)


def link_visits(visits, settings):
    """Decide of every two visits that overlap whether they show one target.

    Parameters
    ----------
    visits : list of Visit
    settings : Thresholds

    Returns
    -------
    list of Link
        Only of visits that overlap at all.
    """
    if not visits:
        return []
    facts = [
        [getattr(visit, name) for visit in visits]
        for name in ("ra_deg", "dec_deg", "angle_deg", "side_arcsec")
    ]
    pairs = near_pairs(facts[0], facts[1], max(facts[3]) * math.sqrt(2))
    pairs = np.array([p for p in pairs if facts[3][p[0]] == facts[3][p[1]]], np.int64).reshape(-1, 2)
    shared = overlaps(pairs, *facts)
    return [
        _link(int(one), int(two), visits, float(overlap), settings)
        for (one, two), overlap in zip(pairs, shared, strict=True)
        if overlap > 0
    ]


def _link(one, two, visits, overlap, settings):
    score = _score(visits[one].first, visits[two].first, overlap, settings.overlap)
    if overlap < settings.overlap:
        return Link(one, two, overlap, score, False, f"overlap {overlap:.2f} < {settings.overlap:g}")
    if overlap >= settings.same_place:
        return Link(one, two, overlap, score, True, f"overlap {overlap:.2f} >= {settings.same_place:g}")
    sign = ">=" if score >= settings.name_score else "<"
    return Link(
        one,
        two,
        overlap,
        score,
        score >= settings.name_score,
        f"score {score:.2f} {sign} {settings.name_score:g}",
    )


def _score(one, two, overlap, least_overlap):
    """Likeness of two exposures, 0 to 1: names, PI, container and place, each with its weight."""
    span = _HALF_OVERLAP - least_overlap
    terms = {
        "target": name_likeness(one.target, two.target),
        "ob": name_likeness(one.ob_name, two.ob_name),
        "pi": float(bool(one.pi) and one.pi == two.pi),
        "container": float(bool(one.container) and one.container == two.container),
        "place": 1.0 if overlap >= _HALF_OVERLAP or span <= 0 else max(0.0, (overlap - least_overlap) / span),
    }
    return round(sum(_WEIGHTS[name] * value for name, value in terms.items()), 9)


def find_targets(visits, links, join=(), separate=()):
    """Put visits together to targets.

    Parameters
    ----------
    visits : list of Visit
    links : list of Link
    join, separate : sequences of lists of str
        Names (target, OB ID or DATE-OBS) of what is one target, or is not, whatever the links say.

    Returns
    -------
    list of list of int
        Places of the visits of each target.
    """
    forced = []
    for group in join:
        named = [n for n, visit in enumerate(visits) if any(_is_named(visit, name) for name in group)]
        forced += [(named[0], other) for other in named[1:]]
    # Strong links are made first, so that what is to be kept apart is cut where it hangs together least.
    wanted = sorted(
        (link for link in links if link.linked), key=lambda k: (-k.score, -k.overlap, k.one, k.two)
    )
    pairs = forced + [(link.one, link.two) for link in wanted]
    if not separate:
        return connected(len(visits), pairs)
    labels = [
        {
            (group, place)
            for group, names in enumerate(separate)
            for place, name in enumerate(names)
            if _is_named(visit, name)
        }
        for visit in visits
    ]
    kept = []
    home = {n: ({n}, set(labels[n])) for n in range(len(visits))}
    for one, two in pairs:
        (nodes, mine), (others, theirs) = home[one], home[two]
        if nodes is others or any(a[0] == b[0] and a[1] != b[1] for a in mine for b in theirs):
            continue
        kept.append((one, two))
        nodes |= others
        mine |= theirs
        for node in nodes:
            home[node] = (nodes, mine)
    return connected(len(visits), kept)


def _is_named(visit, name):
    wanted = name.strip().casefold()
    first = visit.first
    known = {first.target.casefold(), first.ob_id.casefold(), first.ob_name.casefold()}
    return wanted in known or any(wanted == item.date_obs.casefold() for item in visit.members)
