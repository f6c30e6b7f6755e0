"""From a target to its datasets: setups, exposure times, pointings, and what kind of product each one is."""

import math
import statistics
from dataclasses import dataclass, field

from musedeep.select.pointings import connected, find_visits, shared_areas
from musedeep.select.rules import judge_seeing

__all__ = ["Dataset", "case_of", "split_target"]


@dataclass
class Dataset:
    """Exposures that are one product, and those that were left out of it.

    Attributes
    ----------
    decisions : list of Decision
        Of all its exposures, in the order of time.
    marks : tuple of str
        What tells it from other datasets of the same target, such as "ao-e" or "300s".
    looks : list of str
        What a human should look at, apart from single exposures.
    name : str
        Name of its folder.
    title : str
        Name of its target.
    case : str
        "deep", "combined", "single" or "none": the case of Table 1 of ESO's description of the release.
    sky : list of Candidate
        Exposures of empty sky that belong to it; they are counted, not taken.
    shared : dict of DATE-OBS to str
        Exposures that another product has too, and its name.
    part_of : str
        Name of the field that it is a part of.
    facts : dict
        What else is known: completeness, access, crowding, totals.
    version : int
        Counts up when a product is superseded by one with other exposures.
    accepted : bool
        Whether a human confirmed these very exposures.
    """

    decisions: list
    marks: tuple = ()
    looks: list = field(default_factory=list)
    name: str = ""
    title: str = ""
    case: str = "none"
    sky: list = field(default_factory=list)
    shared: dict = field(default_factory=dict)
    part_of: str = ""
    facts: dict = field(default_factory=dict)
    version: int = 1
    accepted: bool = False

    @property
    def taken(self):
        """Decisions on the exposures that are taken, in the order of time."""
        return [decision for decision in self.decisions if decision.taken]

    @property
    def left_out(self):
        """Decisions on the exposures that are left out, in the order of time."""
        return [decision for decision in self.decisions if not decision.taken]

    @property
    def dates(self):
        """DATE-OBS of the exposures that are taken."""
        return [decision.candidate.date_obs for decision in self.taken]

    @property
    def all_dates(self):
        """DATE-OBS of all its exposures."""
        return {decision.candidate.date_obs for decision in self.decisions}


def case_of(taken, settings):
    """R4: the case of Table 1 that exposures make.

    Parameters
    ----------
    taken : list of Decision
    settings : Thresholds

    Returns
    -------
    case : str
        "deep" with enough exposures of enough OBs, else "combined", "single" or "none".
    why : str
        The numbers and what they are held against.
    """
    count, blocks = len(taken), len({decision.candidate.block for decision in taken})
    least = f"{settings.fewest_exposures} of {settings.fewest_obs}"
    why = f"{count} exposures of {blocks} OBs; a deep product has {least}"
    if count >= settings.fewest_exposures and blocks >= settings.fewest_obs:
        return "deep", why
    return {0: "none", 1: "single"}.get(count, "combined"), why


def split_target(decisions, settings, join=()):
    """Part the exposures of a target into datasets, and judge their seeing.

    Parameters
    ----------
    decisions : list of Decision
        All exposures of the target, judged by themselves.
    settings : Thresholds
    join : sequence of lists of str
        Overrides: what is one field without overlap.

    Returns
    -------
    list of Dataset
        With their decisions, marks and looks; in the order of their first exposures.
    """
    decisions = sorted(decisions, key=lambda item: item.candidate.date_obs)
    left_out = [decision for decision in decisions if not decision.taken]
    groups = []
    for setup, marks, looks in _by_setup([d for d in decisions if d.taken], settings):
        for times, time_marks in _by_exposure_time(setup, settings):
            for place in _by_place(times, settings, join):
                judged = judge_seeing(place, settings)
                left_out += [decision for decision in judged if not decision.taken]
                # What is left may hang together no more.
                good = _by_place([d for d in judged if d.taken], settings, join)
                for members in good or [[]]:
                    groups.append(_Group(members or place, members, (*marks, *time_marks), looks))
    groups = groups or [_Group([], [], (), ())]
    for decision in left_out:
        groups[_nearest(decision, groups, settings)].members.append(decision)
    datasets = [
        Dataset(sorted(group.members, key=lambda d: d.candidate.date_obs), group.marks, list(group.looks))
        for group in groups
        if group.members
    ]
    return sorted(datasets, key=lambda dataset: dataset.decisions[0].candidate.date_obs)


class _Group:
    """A dataset in the making: what says where it is, and what belongs to it."""

    def __init__(self, core, members, marks, looks):
        self.core = core
        self.members = list(members)
        self.marks = marks
        self.looks = looks


def _range_of(decision):
    return decision.candidate.mode[-1:]


def _is_ao(decision):
    return "-AO-" in decision.candidate.mode


def _by_setup(decisions, settings):
    """R2 and R3: exposures that may be combined as their modes go, with marks and looks."""
    ranges = sorted({_range_of(d) for d in decisions}) if not settings.mix_range else [None]
    setups = []
    for letter in ranges:
        same = [d for d in decisions if letter is None or _range_of(d) == letter]
        marks = (letter.lower(),) if letter is not None and len(ranges) > 1 else ()
        assisted, natural = [d for d in same if _is_ao(d)], [d for d in same if not _is_ao(d)]
        if not (assisted and natural):
            setups.append((same, marks, ()))
            continue
        matches, words = _seeing_matches(assisted, natural, settings)
        if matches:
            setups.append((same, marks, (f"AO and NOAO are mixed: {words}",)))
        else:
            setups.append((natural, (*marks, "noao"), (f"R3: not mixed with AO exposures: {words}",)))
            setups.append((assisted, (*marks, "ao"), (f"R3: not mixed with NOAO exposures: {words}",)))
    return setups


def _seeing_matches(assisted, natural, settings):
    requests = [_median(d.candidate.request_arcsec for d in group) for group in (assisted, natural)]
    what = "requested seeing"
    if not any(map(math.isfinite, requests)):
        return True, "neither has a request for the seeing"
    if not all(map(math.isfinite, requests)):
        requests = [_median(d.candidate.measured_arcsec for d in group) for group in (assisted, natural)]
        what = "measured seeing, since one has no request,"
        if not all(map(math.isfinite, requests)):
            return True, "one of them has neither a request nor a measurement of the seeing"
    octaves = abs(math.log2(requests[0] / requests[1]))
    words = f"{what} {requests[0]:.2f} and {requests[1]:.2f} arcsec, a factor {2**octaves:.2f}"
    # rounded, so that a factor of just two does not depend on the last bit of a logarithm
    return round(octaves, 9) <= settings.ao_seeing_octaves, words


def _median(values):
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else math.nan


def _by_exposure_time(decisions, settings):
    """R14: exposures of a sequence of exposure times, with marks."""
    times = sorted({d.candidate.exptime_s for d in decisions})
    if not times or times[-1] / times[0] <= settings.sequence_ratio:
        return [(decisions, ())]
    edges = [
        low for low, high in zip(times, times[1:], strict=False)
        if math.log10(high / low) >= settings.sequence_gap_dex
    ]  # fmt: skip
    if not edges:
        return [(decisions, ())]
    clusters = {}
    for decision in decisions:
        clusters.setdefault(sum(decision.candidate.exptime_s > edge for edge in edges), []).append(decision)
    return [
        (clusters[n], (f"{_median(d.candidate.exptime_s for d in clusters[n]):.4g}s",))
        for n in sorted(clusters)
    ]


def _by_place(decisions, settings, join):
    """R15: exposures whose footprints hang together."""
    by_date = {decision.candidate.date_obs: decision for decision in decisions}
    visits = find_visits([d.candidate for d in decisions], settings.same_pointing_arcsec)
    shared = zip(*shared_areas(visits), strict=True)
    edges = [tuple(map(int, pair)) for pair, share in shared if share >= settings.overlap]
    for names in join:
        wanted = {name.strip().casefold() for name in names}
        named = [n for n, visit in enumerate(visits) if visit.names & wanted]
        edges += [(named[0], other) for other in named[1:]]
    groups = connected(len(visits), edges)
    return [[by_date[member.date_obs] for n in group for member in visits[n].members] for group in groups]


def _nearest(decision, groups, settings):
    """Place of the group that an exposure would belong to had it been taken."""
    item = decision.candidate

    def distance(n):
        group = groups[n]
        if not group.core:
            return (3, 0.0, n)
        setups = {(_range_of(d), _is_ao(d)) for d in group.core}
        other_setup = (_range_of(decision), _is_ao(decision)) not in setups
        ratio = abs(math.log10(item.exptime_s / _median(d.candidate.exptime_s for d in group.core)))
        other_time = math.isfinite(ratio) and ratio > settings.sequence_gap_dex
        # an aborted exposure is short whatever sequence it is of
        other_time = other_time and decision.rule not in ("R10", "R11", "R13")
        apart = min(_apart(item, d.candidate) for d in group.core)
        return (int(other_setup) + int(other_time), round(apart, 3), n)

    return min(range(len(groups)), key=distance)


def _apart(one, two):
    if not (one.is_placed and two.is_placed):
        return math.inf
    east = (one.ra_deg - two.ra_deg + 180) % 360 - 180
    return math.hypot(east * math.cos(math.radians(one.dec_deg)), one.dec_deg - two.dec_deg) * 3600
