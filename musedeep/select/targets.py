"""Rule R16: which exposures show one target, told from fuzzy names, programmes and places on the sky."""

from dataclasses import dataclass

from musedeep.select.names import name_likeness
from musedeep.select.pointings import connected, shared_areas

__all__ = ["Link", "find_targets", "link_visits"]

# Shares of the score (their sum is 1): names of target and OB, same PI, same container, place.
_WEIGHTS = {"target": 0.45, "ob": 0.15, "pi": 0.10, "container": 0.10, "place": 0.20}
_HALF_OVERLAP = 0.5


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


def link_visits(visits, settings):
    """Decide of every two visits that overlap whether they show one target.

    Parameters
    ----------
    visits : list of Pointing
        One observing block each.
    settings : Thresholds

    Returns
    -------
    list of Link
        Only of visits that overlap at all.
    """
    return [
        _link(int(one), int(two), visits, float(overlap), settings)
        for (one, two), overlap in zip(*shared_areas(visits), strict=True)
        if overlap > 0 and visits[one].side_arcsec == visits[two].side_arcsec
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
    visits : list of Pointing
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
        named = [n for n, visit in enumerate(visits) if any(_folded(name) in visit.names for name in group)]
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
            if _folded(name) in visit.names
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


def _folded(name):
    return name.strip().casefold()
