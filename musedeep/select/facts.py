"""What is known of a dataset beside its exposures: completeness, access, crowding, totals, looks."""

import math
from collections import Counter
from datetime import date, timedelta

from astropy.time import Time

from musedeep.access import product_access
from musedeep.select.names import name_likeness
from musedeep.select.pointings import find_pointings

__all__ = ["access_of", "completeness_of", "crowding_of", "describe_dataset", "today_of"]

_LONG_SPAN_DAYS = 3 * 365.25
_ALIKE = 0.85


def today_of(settings):
    """The day that completeness and access are told for.

    Returns
    -------
    datetime.date
    """
    return date.fromisoformat(settings.today) if settings.today else date.today()


def completeness_of(taken, settings, overrides, forced=None):
    """R17: whether more data are to be expected.

    Parameters
    ----------
    taken : list of Decision
    settings : Thresholds
    overrides : Overrides
        Its ``runs`` name those that are finished.
    forced : bool, optional
        What a human said of the field.

    Returns
    -------
    complete : bool
    why : str
    """
    if forced is not None:
        return forced, "said by hand"
    runs = sorted({decision.candidate.run for decision in taken})
    if runs and all(run in overrides.runs for run in runs):
        return True, "all runs are finished"
    last = max((d.candidate.mjd for d in taken if math.isfinite(d.candidate.mjd)), default=math.nan)
    if not math.isfinite(last):
        return False, "no date is known"
    large = any(settings.pattern("large_programmes").search(run) for run in runs)
    wanted = settings.quiet_days_large if large else settings.quiet_days
    days = (today_of(settings) - Time(math.floor(last), format="mjd").to_datetime().date()).days
    since = Time(math.floor(last), format="mjd").isot[:10]
    words = f"the last exposure is of {since}, {wanted:g} days are waited for"
    return days >= wanted, words + (" of a large programme" if large else "")


def access_of(taken, notes, settings):
    """R19: who may have the product.

    A product is public when all its inputs are; before that it is for the PI of its run, and for nobody when
    the inputs are of several runs.

    Parameters
    ----------
    taken : list of Decision
    notes : Notes
        Its ``released`` has the day from which an exposure is public, where a table tells.
    settings : Thresholds

    Returns
    -------
    access : str
        "public", "PI of RUN" or "nobody".
    day : str
        From which day it is public, YYYY-MM-DD.
    """
    days = []
    for decision in taken:
        known = notes.released.get(decision.candidate.arcfile)
        seen = date.fromisoformat(decision.candidate.date_obs[:10])
        days.append(date.fromisoformat(known) if known else seen + timedelta(days=settings.private_days))
    access, last = product_access(days, (d.candidate.run for d in taken), today_of(settings))
    return access, last.isoformat()


def crowding_of(decisions, settings, forced=None):
    """Whether a field looks crowded, so that its sky cannot be measured on it.

    Parameters
    ----------
    decisions : list of Decision
    settings : Thresholds
    forced : bool, optional
        What a human said.

    Returns
    -------
    crowded : bool
    why : str
        Empty where there is no image to tell by.
    """
    if forced is not None:
        return forced, "said by hand"
    images = [d.candidate.image for d in decisions if d.candidate.image]
    if not images:
        return False, ""
    # The median image decides: one with clouds or a trail is no sign.
    sources = sorted(image["sources"] for image in images)[len(images) // 2]
    diffuse = sum(image["diffuse"] for image in images) * 2 > len(images)
    if sources > settings.crowded_sources:
        return True, f"{sources} sources above 10 sigma, more than {settings.crowded_sources}"
    if diffuse:
        return True, "no dark sky on most images"
    return False, f"{sources} sources above 10 sigma"


def describe_dataset(dataset, notes, overrides, settings):
    """Fill the facts and looks of a dataset.

    Parameters
    ----------
    dataset : Dataset
        Its ``facts`` and ``looks`` are added to.
    notes : Notes
    overrides : Overrides
    settings : Thresholds
    """
    taken = dataset.taken
    said = overrides.fields.get(dataset.part_of, {}) | overrides.fields.get(dataset.name, {})
    complete, why = completeness_of(taken, settings, overrides, said.get("complete"))
    access, day = access_of(taken, notes, settings)
    crowded, crowd_words = crowding_of(dataset.decisions, settings, said.get("crowded"))
    pointings = find_pointings([d.candidate for d in taken], settings.same_pointing_arcsec)
    conditions = Counter(d.candidate.transparency or "unknown" for d in taken)
    dataset.facts |= {
        "exposures": len(taken),
        "blocks": len({d.candidate.block for d in taken}),
        "seconds": round(math.fsum(d.candidate.exptime_s for d in taken), 3),
        "pointings": len(pointings),
        "to_reduce": sum(d.candidate.source != "pixel table" for d in taken),
        "sky_exposures": len(dataset.sky),
        "runs": sorted({d.candidate.run or "unknown" for d in taken}),
        "pis": sorted({d.candidate.pi for d in taken} - {""}),
        "modes": sorted({d.candidate.mode for d in taken}),
        "targets": sorted({d.candidate.target for d in taken}),
        # R9: photometric conditions are told, and never reject.
        "transparency": [f"{count} of {word}" for word, count in sorted(conditions.items())],
        "complete": complete,
        "complete_why": why,
        "access": access,
        "public_on": day,
        "crowded": crowded,
        "crowded_why": crowd_words,
    }
    dataset.looks += _looks(dataset)


def _looks(dataset):
    facts, taken, looks = dataset.facts, dataset.taken, []
    if taken and not facts["complete"]:
        looks.append(f"R17: perhaps not complete: {facts['complete_why']}")
    if len(facts["pis"]) > 1:
        looks.append(f"exposures of several PIs: {', '.join(facts['pis'])}")
    first = facts["targets"][0] if facts["targets"] else ""
    strange = [name for name in facts["targets"] if name_likeness(first, name) < _ALIKE]
    if strange:
        looks.append(f"different names for one place: {', '.join([first, *strange])}")
    if facts["crowded"]:
        looks.append(f"looks crowded: {facts['crowded_why']}")
    days = [d.candidate.mjd for d in taken if math.isfinite(d.candidate.mjd)]
    if days and max(days) - min(days) > _LONG_SPAN_DAYS:
        looks.append(f"{(max(days) - min(days)) / 365.25:.1f} years between the first and the last exposure")
    older = sum(bool(d.candidate.older) for d in taken)
    if older:
        looks.append(f"{older} exposures have been reduced again: the newest pixel tables are taken")
    return looks
