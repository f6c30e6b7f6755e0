"""All diagnostics in their order, and what their drawings need."""

from dataclasses import dataclass

from musedeep.depth import flux_peak
from musedeep.qc.alignment import find_craters, find_line_misalignment, find_misalignment
from musedeep.qc.background import (
    find_ifu_levels,
    find_levels,
    find_over_subtraction,
    find_quadrants,
    find_slice_edges,
    find_wide_peak,
)
from musedeep.qc.blur import find_blur
from musedeep.qc.light import find_flux_colour, find_telluric_exposures
from musedeep.qc.noise import find_variances
from musedeep.qc.photometry import find_flux_scale, find_saturation
from musedeep.qc.sky import find_line_shifts, find_sky_levels, find_sky_noise
from musedeep.qc.spectra import find_sodium_step, find_sodium_zeros, find_telluric, find_wiggles
from musedeep.qc.trails import find_trails

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found.

    Attributes
    ----------
    findings : list of Finding
    check : musedeep.align.check.Check or None
    trails : dict of str to Trail
    lines : dict of str to SkyLines
    peak : musedeep.depth.FluxPeak
    """

    findings: list
    check: object
    trails: dict
    lines: dict
    peak: object

    def __getitem__(self, name):
        """The finding of a name."""
        return next(found for found in self.findings if found.name == name)

    @property
    def alarms(self):
        """Findings above their threshold."""
        return [found for found in self.findings if found.alarm]


def diagnose(evidence, rejections=None):
    """Run all diagnostics.

    Parameters
    ----------
    evidence : Evidence
    rejections : Rejections, optional

    Returns
    -------
    Diagnosis
    """
    misalignment, check = find_misalignment(evidence)
    quadrant, ifu, edge = find_quadrants(evidence), find_ifu_levels(evidence), find_slice_edges(evidence)
    structured = {*quadrant.exposures, *ifu.exposures, *edge.exposures}
    shifts = {date: misalignment.values[date] for date in misalignment.exposures}
    trail, trails = find_trails(evidence, structured, shifts)
    # a trail brightens the IFUs that it crosses, a quadrant those in it, and the ends of their slices
    quadrant = quadrant.without(trail.exposures)
    edge = edge.without({*trail.exposures, *quadrant.exposures})
    ifu = ifu.without({*trail.exposures, *quadrant.exposures, *edge.exposures})
    shift, lines = find_line_shifts(evidence)
    off = {d: check.deviations[evidence.dates.index(d)] for d in misalignment.exposures}
    saturation = find_saturation(evidence)
    flux, sky = find_flux_scale(evidence, off), find_sky_levels(evidence)
    # a wrong flux scale has the cores of stars rejected, and sky that is left raises the background
    crater = find_craters(evidence, rejections).without({*trail.exposures, *flux.exposures})
    peak = flux_peak(evidence.deep.white)
    findings = [
        misalignment,
        find_line_misalignment(evidence).without(misalignment.exposures),
        crater,
        find_blur(evidence),
        flux,
        # the saturated core of a star is missing where the star is brightest
        find_flux_colour(evidence).without(saturation.exposures),
        trail,
        saturation,
        find_levels(evidence).without(sky.exposures),
        quadrant,
        ifu,
        edge,
        find_wide_peak(evidence, peak),
        find_over_subtraction(evidence, peak),
        find_sky_noise(evidence),
        sky,
        shift,
        find_variances(evidence),
        find_sodium_step(evidence),
        find_sodium_zeros(evidence),
        find_telluric(evidence),
        find_telluric_exposures(evidence),
        find_wiggles(evidence),
    ]
    return Diagnosis(findings, check, trails, lines, peak)
