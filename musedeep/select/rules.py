"""The rules that judge one exposure: what it is, what was said about it, and how good the seeing was."""

import math
import statistics
from collections import Counter
from dataclasses import dataclass, replace

from musedeep.select.candidates import Candidate
from musedeep.select.tables import Block

__all__ = ["Decision", "judge_exposure", "judge_seeing", "service_mode", "usual_seconds"]


@dataclass(frozen=True)
class Decision:
    """Whether an exposure is taken, and what decided it.

    Attributes
    ----------
    candidate : Candidate
    block : Block
        What the table of grades knows of its OB.
    comment : str
        Comments on it and on its OB.
    taken : bool
    rule : str
        The rule that left it out ("R7"), or "override"; empty for what is taken by the rules.
    value, allowed : str
        The value that decided, and what is allowed.
    looks : tuple of str
        What a human should look at.
    seeing : str
        Measured seeing over the limit, as it was judged.
    """

    candidate: Candidate
    block: Block = Block()
    comment: str = ""
    taken: bool = True
    rule: str = ""
    value: str = ""
    allowed: str = ""
    looks: tuple = ()
    seeing: str = ""

    def left(self, rule, value, allowed, *looks):
        """The same exposure, left out by a rule."""
        return replace(
            self, taken=False, rule=rule, value=value, allowed=allowed, looks=(*self.looks, *looks)
        )

    def look(self, text):
        """The same decision with something more to look at."""
        return replace(self, looks=(*self.looks, text))


def usual_seconds(candidates):
    """The exposure time that most exposures of a target have, seconds; NaN where none is known."""
    times = Counter(round(item.exptime_s, 1) for item in candidates if math.isfinite(item.exptime_s))
    return max(times, key=lambda seconds: (times[seconds], seconds)) if times else math.nan


def service_mode(decision):
    """Whether an exposure was taken in service mode, where seeing is requested and grades are given.

    Told by the table of grades; without it by a grade, or by the request in the header.
    """
    if decision.block.mode:
        return decision.block.mode == "SM"
    return bool(decision.block.grade) or math.isfinite(decision.candidate.request_arcsec)


def judge_exposure(candidate, notes, overrides, settings, usual):
    """Judge an exposure by itself: overrides, and R1, R6, R8 (all but C), R10 to R13, R16 and R20.

    Parameters
    ----------
    candidate : Candidate
    notes : Notes
    overrides : Overrides
    settings : Thresholds
    usual : float
        Exposure time that is usual for its target, seconds.

    Returns
    -------
    Decision
    """
    block = notes.blocks.get(candidate.ob_id, Block())
    said = "; ".join(text for text in (block.comment, notes.log.get(candidate.arcfile, "")) if text)
    decision = _with_looks(Decision(candidate, block, said))
    order, why = overrides.decision(candidate)
    if order == "reject":
        return decision.left("override", why or "rejected by hand", "")
    decided = _judged(decision, notes, settings, usual)
    if order == "keep" and not decided.taken and candidate.is_placed:
        kept = f"kept by hand against {decided.rule}: {decided.value}"
        return replace(decision, rule="override", value=why or "kept by hand").look(kept)
    return replace(decided, rule="override", value=why or "kept by hand") if order == "keep" else decided


def _with_looks(decision):
    missing = [
        name
        for name, value in (
            ("OBS ID", decision.candidate.ob_id and not decision.candidate.ob_is_guessed),
            ("OBS TARG NAME and OBJECT", decision.candidate.target),
            ("OBS PROG ID", decision.candidate.run),
        )
        if not value
    ]
    if not decision.candidate.is_in_reach:
        decision = decision.look(f"out of reach: {decision.candidate.files[0]}")
    return decision.look(f"header without {', '.join(missing)}") if missing else decision


def _judged(decision, notes, settings, usual):
    candidate = decision.candidate
    if candidate.category != "SCIENCE" or candidate.kind != "OBJECT":
        return decision.left("R6", f"{candidate.category} {candidate.kind}", "SCIENCE OBJECT")
    if not candidate.mode:
        return decision.left(
            "R1", "INS MODE is missing", ", ".join(settings.modes), "header without INS MODE"
        )
    if candidate.mode not in settings.modes:
        return decision.left("R1", candidate.mode, ", ".join(settings.modes))
    if not candidate.is_placed:
        return decision.left("R15", "RA or DEC is missing", "a place on the sky", "header without RA or DEC")
    if candidate.moving:
        return decision.left("R16", candidate.moving, f"{settings.moving_arcsec_per_year:g} arcsec a year")
    if candidate.arcfile in notes.bad:
        return decision.left("R20", notes.bad[candidate.arcfile] or "listed", "not listed as bad")
    if not math.isfinite(candidate.exptime_s):
        return decision.left("R14", "EXPTIME is missing", "an exposure time", "header without EXPTIME")
    decision = _judge_comment(decision, settings, usual)
    if decision.taken and decision.block.grade in settings.rejected_grades:
        allowed = "not " + ", ".join(settings.rejected_grades)
        return decision.left("R8", f"grade {decision.block.grade}", allowed)
    return _judge_trail(decision, settings) if decision.taken else decision


def _judge_comment(decision, settings, usual):
    """R10, R13 and R11, of which the first and the last can be taken back by the same comment."""
    comment = decision.comment
    background = settings.pattern("background_words").search(comment)
    trouble = settings.pattern("trouble_words").search(comment)
    if not (background or trouble):
        return decision
    quoted = f"comment: {comment}"
    if settings.pattern("harmless_words").search(comment):
        return decision.look(f"{quoted} (taken, since it is taken back)")
    if background:
        return decision.left("R10", quoted, f"no match of {settings.background_words}")
    seconds, least = decision.candidate.exptime_s, settings.short_fraction * usual
    if "abort" in comment.lower() and seconds < least:
        return decision.left("R13", f"{seconds:g} s and aborted", f"{least:g} s or more")
    return decision.left("R11", quoted, f"no match of {settings.trouble_words}")


def _judge_trail(decision, settings):
    trail = (decision.candidate.image or {}).get("trail")
    if not trail or trail["sigma"] < settings.trail_mask_sigma:
        return decision
    found = f"trail of {trail['sigma']:.1f} sigma over {trail['area']:.1%} of the field"
    if trail["sigma"] > settings.trail_sigma and trail["area"] > settings.trail_area:
        return decision.left("R12", found, f"{settings.trail_sigma:g} sigma or {settings.trail_area:.1%}")
    return decision.look(f"{found}: masked" if "ends_deg" in trail else found)


def judge_seeing(decisions, settings):
    """Judge the exposures of one dataset by their seeing, and OBs of grade C: R7, R7b and R8.

    Parameters
    ----------
    decisions : list of Decision
        Those that are taken so far.
    settings : Thresholds

    Returns
    -------
    list of Decision
    """
    measured = [d.candidate.measured_arcsec for d in decisions]
    measured = [value for value in measured if math.isfinite(value)]
    median = statistics.median(measured) if measured else math.nan
    return [_judge_one_seeing(decision, median, settings) for decision in decisions]


def _judge_one_seeing(decision, median, settings):
    if decision.rule == "override":
        return decision
    service, measured = service_mode(decision), decision.candidate.measured_arcsec
    request = decision.candidate.request_arcsec if service else math.nan
    if service and not math.isfinite(request):
        request = decision.block.request_arcsec or math.nan
    asked, rule = f"{request:.2f} requested", "R7"
    if not math.isfinite(request):
        rule = "R7" if service else "R7b"
        request = 2 * median if service else max(median, settings.seeing_floor_arcsec)
        asked = f"{request:.2f} as the others have it"
    if not math.isfinite(measured):
        return _judge_c(decision.look("seeing not measured"), settings)
    factor = measured / request
    decision = replace(decision, seeing=f"{measured:.2f} / {asked}")
    if factor > settings.seeing_factor:
        value = f"{measured:.2f} arcsec, {factor:.2f} times {asked}"
        return decision.left(rule, value, f"{settings.seeing_factor:g} times")
    if factor >= settings.seeing_borderline:
        decision = decision.look(f"borderline seeing: {measured:.2f} arcsec, {factor:.2f} times {asked}")
    return _judge_c(decision, settings)


def _judge_c(decision, settings):
    """R8 for grade C: kept if the seeing, which R7 accepted, is all that its comment names."""
    if decision.block.grade != "C":
        return decision
    comment = decision.block.comment
    if settings.pattern("other_words").search(comment):
        value = f"grade C, comment: {comment}"
        return decision.left("R8", value, "grade C for its seeing alone", "grade C for more than the seeing")
    if settings.pattern("seeing_words").search(comment):
        return decision
    return decision.look(f"grade C, and no word why{': ' + comment if comment else ''}")
