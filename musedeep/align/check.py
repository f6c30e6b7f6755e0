"""Are exposures aligned? Each is measured against the others, with the offsets that are to be judged."""

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np

from musedeep.align.joint import Member, align_sources, common_frame
from musedeep.align.refine import Stack
from musedeep.align.registration import make_canvas, register

__all__ = ["Check", "check_offsets"]

# Deviations, in arcsec, from which an exposure is suspicious, and from which QCFLAG gets its bit 10.
WARN_ARCSEC = 0.1
BIT_ARCSEC = 0.2
_SURE = 5.0
# How far off, in arcsec, an exposure is looked for.
_RADII = (4.0, 1.0, 0.8)
# No seeing makes stars as narrow as this many pixels: these are what is left of cosmic rays.
_NARROWEST = 1.8
# A stack this much wider than the images it is made of is blurred.
_BLURRED = 1.15


@dataclass(frozen=True)
class Check:
    """Each exposure against the others.

    Attributes
    ----------
    deviations : ndarray, shape (N, 2), arcsec
        East and north; NaN where an exposure could not be compared.
    errors : ndarray, shape (N,), arcsec
    suspicious : list of str
        DATE-OBS of exposures that lie off.
    misaligned : bool
        Whether one lies off by more than 0.2 arcsec: bit 10 of QCFLAG.
    stack_fwhm, median_fwhm : float, arcsec
        Of the stack of all images, and the median of theirs; NaN where there are no stars.
    verdict : str
        'aligned' or 'suspicious: ' and why.
    notes : list of str
    """

    deviations: np.ndarray
    errors: np.ndarray
    suspicious: list
    misaligned: bool
    stack_fwhm: float
    median_fwhm: float
    verdict: str
    notes: list = field(default_factory=list)


def check_offsets(images, sources, offsets, settings):
    """Judge offsets.

    Parameters
    ----------
    images : list of WhiteImage
    sources : list of Sources
        Of these images.
    offsets : list of Offset
        Of any origin.
    settings : AlignSettings

    Returns
    -------
    Check
    """
    sources = [listed.where(not listed.fwhm < _NARROWEST) for listed in sources]
    members = [Member.of(image, listed) for image, listed in zip(images, sources, strict=True)]
    narrow = dataclasses.replace(settings, rsearch=_RADII, fit_rotation=False, fit_scale=False, weight=True)
    joint = align_sources(members, narrow, offsets)
    deviations = np.full((len(images), 2), math.nan)
    errors = np.full(len(images), math.nan)
    for n in np.flatnonzero(joint.solved):
        deviations[n] = _between(members[n], joint.offsets[n], offsets[n])
        errors[n] = np.hypot(*joint.shift_errors[n]) / math.sqrt(2)
    if joint.solved.any():
        # one that lies off does not move the median
        deviations -= np.nanmedian(deviations, axis=0)
    canvas = make_canvas(common_frame(images), images, offsets)
    stack = Stack(canvas)
    for image, offset in zip(images, offsets, strict=True):
        stack.add(image, offset)
    for n in np.flatnonzero(~joint.solved):
        drawn = canvas.draw(images[n], offsets[n]) * np.float32(offsets[n].flux_scale)
        match = register(drawn, stack.mean(without=drawn), canvas.step_arcsec)
        if match is not None:
            deviations[n], errors[n] = match.shift, np.hypot(*match.error) / math.sqrt(2)
    stack_fwhm, median_fwhm = _widths(stack, images, sources, settings)
    return _verdict(images, deviations, errors, stack_fwhm, median_fwhm)


def _between(member, measured, given):
    east = (measured.ra_deg - given.ra_deg) * math.cos(math.radians(member.dec_deg - given.dec_deg))
    return np.array([east, measured.dec_deg - given.dec_deg]) * 3600


def _widths(stack, images, sources, settings):
    """FWHM of the stack and the median of the images, arcsec."""
    from musedeep.align.sources import find_sources

    each = [s.fwhm * image.step_arcsec for s, image in zip(sources, images, strict=True) if len(s) >= 3]
    if len(each) < 2:
        return math.nan, math.nan
    whole = dataclasses.replace(images[0], flux=stack.mean(), variance=None, samples=None)
    return find_sources(whole, settings).fwhm * stack.canvas.step_arcsec, float(np.median(each))


def _verdict(images, deviations, errors, stack_fwhm, median_fwhm):
    size = np.hypot(*deviations.T)
    with np.errstate(invalid="ignore"):
        off = (size > WARN_ARCSEC) & (size > _SURE * errors)
        misaligned = bool(((size > BIT_ARCSEC) & off).any())
    suspicious = [images[n].date_obs for n in np.flatnonzero(off)]
    notes = [
        f"exposure {images[n].date_obs} lies {size[n]:.2f} +- {errors[n]:.2f} arcsec off the others"
        for n in np.flatnonzero(off)
    ]
    blurred = stack_fwhm > _BLURRED * median_fwhm
    if blurred:
        notes.append(f"the stack has a FWHM of {stack_fwhm:.2f} arcsec, its images of {median_fwhm:.2f}")
    reasons = [f"exposure {date}" for date in suspicious] + (["the stack is blurred"] if blurred else [])
    verdict = "suspicious: " + ", ".join(reasons) if reasons else "aligned"
    return Check(deviations, errors, suspicious, misaligned, stack_fwhm, median_fwhm, verdict, notes)
