"""The quality figures: the deep cube, every exposure, and how depth grows with time."""

import math

import matplotlib
import numpy as np
from matplotlib.ticker import NullLocator

from musedeep.depth import flux_peak, limiting_magnitude, local_limits
from musedeep.qc import panels
from musedeep.qc.background import ifu_levels
from musedeep.qc.flags import qc_flag
from musedeep.qc.sky import line_planes
from musedeep.qc.style import (
    ACCENT,
    BLUE,
    FAINT,
    INK,
    RED,
    STYLE,
    new_figure,
    save,
    show_image,
    stretch,
    title,
)

__all__ = ["depth_of", "draw_deep", "draw_exposure", "draw_growth", "growth"]

_WIDE, _HIGH = 11.7, 8.3
_STEPS = 12
_HOURS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def depth_of(evidence, image):
    """Limiting magnitude of an image of the field: by ESO's formula, and the median of boxes."""
    pixels = evidence.deep.fwhm[0] / evidence.grid.step_arcsec[0]
    pixels = pixels if math.isfinite(pixels) else 0.8 / evidence.grid.step_arcsec[0]
    ends = tuple(float(w) / 10.0 for w in evidence.deep.wavelength[[0, -1]])
    return limiting_magnitude(image, pixels, ends), local_limits(image, pixels, ends).median


def draw_deep(path, name, evidence, diagnosis, bits, facts):
    """Draw the sheet of the deep cube.

    Parameters
    ----------
    path : Path
        The PNG.
    name : str
        Of the field.
    evidence : Evidence
    diagnosis : Diagnosis
    bits : list of Bit
    facts : dict of str to object
        TEXPTIME, ABMAGLIM and the like, as `assess` has them.

    Returns
    -------
    Path
    """
    deep = evidence.deep
    with matplotlib.rc_context(STYLE):
        figure = new_figure(_WIDE, _HIGH)
        first = next(iter(evidence.exposures.values()))
        panels.draw_header(
            figure, name, f"first OB {first.ob_name}   ·   {first.date_obs}   ·   {first.mode}"
        )
        places = figure.add_gridspec(
            3, 4, left=0.07, right=0.965, top=0.895, bottom=0.135, hspace=0.62, wspace=0.34,
            width_ratios=[1.0, 1.0, 1.05, 1.1],
        )  # fmt: skip
        big = figure.add_subplot(places[:2, :2], anchor="W")
        panels.draw_sources(big, deep.white, deep.blank, evidence.grid, deep.x, deep.y, "white light, deep")
        panels.draw_histogram(figure.add_subplot(places[0, 2]), deep.white, diagnosis.peak, close=True)
        panels.draw_histogram(figure.add_subplot(places[1, 2]), deep.white, diagnosis.peak, close=False)
        panels.draw_findings(figure.add_subplot(places[:2, 3]), diagnosis.findings)
        panels.draw_noise(figure.add_subplot(places[2, 0]), deep)
        panels.draw_apertures(figure.add_subplot(places[2, 1]), deep)
        panels.draw_fwhm(figure.add_subplot(places[2, 2]), deep, evidence.surveys)
        panels.draw_exposure_map(figure, figure.add_subplot(places[2, 3]), evidence)
        panels.draw_footer(
            figure,
            [
                ("Texptime", f"{facts['TEXPTIME']:.0f} s"),
                ("N_sources", str(facts["N_SOURCES"])),
                ("ABMAG_limit", _shown(facts["ABMAGLIM"], 2)),
                ("local ABMAG_limit", _shown(facts["ABMAGLIM_LOC"], 2)),
                ("N_input", str(len(evidence.surveys))),
                ("histo mode", _shown(diagnosis.peak.mode, 2)),
                ("histo-1.7", _shown(diagnosis.peak.histo_17, 2)),
                ("score_bit", qc_flag(bits)),
            ],
        )
        return save(figure, path)


def _shown(value, digits):
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def draw_exposure(path, number, survey, evidence, diagnosis, rejected):
    """Draw the sheet of one exposure.

    Parameters
    ----------
    path : Path
    number : int
        Of the exposure, from 1.
    survey : Survey
    evidence : Evidence
    diagnosis : Diagnosis
    rejected : ndarray or None
        Its map of rejected rows.

    Returns
    -------
    Path
    """
    date, blank = survey.date_obs, evidence.deep.blank[evidence.box(survey)]
    exposure = evidence.exposures[date]
    peak = flux_peak(survey.white)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(_WIDE, 6.4)
        alarms = [found.name.replace("_", " ") for found in diagnosis.alarms if date in found.exposures]
        panels.draw_header(
            figure, f"{number:03d}   {date}", f"OB {exposure.ob_name}   ·   {exposure.object_name}"
        )
        if alarms:
            figure.text(0.5, 0.965, ", ".join(alarms), color=RED, fontsize=9, ha="center", va="center")
        places = figure.add_gridspec(
            2, 4, left=0.06, right=0.965, top=0.885, bottom=0.185, hspace=0.4, wspace=0.28
        )
        found = survey.sources
        panels.draw_sources(
            figure.add_subplot(places[0, 0]),
            survey.white,
            blank,
            evidence.grid,
            found.x,
            found.y,
            "white light",
        )
        _draw_difference(figure.add_subplot(places[0, 1]), survey, evidence, diagnosis)
        _draw_rejected(figure.add_subplot(places[0, 2]), rejected, survey, evidence)
        panels.draw_histogram(figure.add_subplot(places[0, 3]), survey.white, peak, close=True)
        _draw_planes(figure.add_subplot(places[1, :2]), survey, evidence)
        _draw_ifus(figure.add_subplot(places[1, 2]), survey, evidence)
        _draw_mask(figure.add_subplot(places[1, 3]), survey, blank, evidence)
        panels.draw_footer(figure, _facts_of(survey, evidence, diagnosis, peak, exposure))
        return save(figure, path)


def _facts_of(survey, evidence, diagnosis, peak, exposure):
    date = survey.date_obs

    def value(name, digits, sign=""):
        found = diagnosis[name].values.get(date, math.nan)
        return f"{found:{sign}.{digits}f}" if math.isfinite(found) else "–"

    scale = diagnosis["flux_scale"].values.get(date, math.nan)
    return [
        ("exptime", f"{exposure.exptime:.0f} s"),
        ("Nsat", value("saturation", 0)),
        ("FWHM", f"{survey.fwhm[0]:.2f}″" if math.isfinite(survey.fwhm[0]) else "–"),
        ("off the others", f"{value('misalignment', 3)}″"),
        ("flux scale", f"{10**scale:.3f}" if math.isfinite(scale) else "–"),
        ("background [σ]", value("background_level", 2, "+")),
        ("sky lines [Å]", value("wavelength_shift", 3, "+")),
        ("variance", value("variance", 2)),
        ("histo mode", _shown(peak.mode, 2)),
        ("histo-1.7", _shown(peak.histo_17, 2)),
    ]


def _draw_difference(axes, survey, evidence, diagnosis):
    scaled = (survey.white - evidence.others(survey)) / np.sqrt(survey.white_variance)
    show_image(axes, scaled, evidence.grid.step_arcsec[0], cmap="RdBu_r", vmin=-6, vmax=6)
    trail = diagnosis.trails[survey.date_obs]
    note = "±6 σ"
    if survey.date_obs in diagnosis["trail"].exposures:
        note = f"line: {trail.sigma:.0f} σ"
        angle = math.radians(trail.angle_deg)
        along = np.array([-1.0, 1.0]) * 2 * max(survey.white.shape)
        x = trail.distance * math.cos(angle) - along * math.sin(angle)
        y = trail.distance * math.sin(angle) + along * math.cos(angle)
        for side in (-4, 4):
            axes.plot(x + side * math.cos(angle), y + side * math.sin(angle), color=INK, lw=0.8, ls="--")
    title(axes, "minus the others", note)


def _draw_rejected(axes, rejected, survey, evidence):
    if rejected is None:
        axes.set_axis_off()
        title(axes, "rejected rows", "not mapped")
        return
    share = 100.0 * rejected.sum() / max(survey.rows, 1)
    top = max(float(np.quantile(rejected, 0.999)), 1.0)
    shown = np.where(np.isfinite(survey.white), rejected, np.nan)
    show_image(axes, shown, evidence.grid.step_arcsec[0], cmap="magma_r", vmin=0, vmax=top)
    title(axes, "rejected rows", f"{share:.2f} %")


def _draw_planes(axes, survey, evidence):
    """Level of blank sky against the deep cube by wavelength, in units of the error of a row."""
    lines, _ = line_planes(evidence.deep)
    number = survey.planes[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        level = np.where(number > 20, survey.planes[:, 3] / number, np.nan)
        error = np.where(number > 20, 1 / np.sqrt(number), np.nan)
    wavelength = evidence.deep.wavelength
    axes.fill_between(wavelength, -2 * error, 2 * error, color=FAINT, alpha=0.18, lw=0)
    axes.plot(wavelength, level, color=BLUE, lw=0.7)
    for start, stop in panels.runs_of(lines):
        axes.axvspan(wavelength[start], wavelength[stop - 1], color=ACCENT, alpha=0.12, lw=0)
    axes.set_xlim(wavelength[0], wavelength[-1])
    axes.margins(y=0.2)
    axes.set_xlabel("wavelength [Å]")
    axes.set_ylabel("level [σ of a row]")
    title(axes, "blank sky minus the deep cube", "grey: 2 σ; orange: sky lines")


def _draw_ifus(axes, survey, evidence):
    levels, errors = ifu_levels(survey)
    levels = levels / evidence.spaxel_noise[survey.date_obs]
    axes.bar(np.arange(1, 25), np.nan_to_num(levels), width=0.75, color=BLUE)
    axes.errorbar(
        np.arange(1, 25),
        levels,
        errors / evidence.spaxel_noise[survey.date_obs],
        fmt="none",
        color=INK,
        lw=0.6,
    )
    axes.axhline(0, color=FAINT, lw=0.7)
    axes.grid(False, axis="x")
    axes.set_xlim(0.3, 24.7)
    axes.set_xlabel("IFU")
    axes.set_ylabel("level [σ of a spaxel]")
    title(axes, "IFUs")


def _draw_mask(axes, survey, blank, evidence):
    good = np.isfinite(survey.white)
    shown = stretch(survey.white, blank & good)
    show_image(axes, shown, evidence.grid.step_arcsec[0])
    layer = np.ma.masked_where(~(blank & good), np.ones(blank.shape))
    axes.imshow(layer, origin="lower", cmap=matplotlib.colors.ListedColormap([BLUE]), alpha=0.3)
    title(axes, "blank sky", f"{blank[good].mean():.0%}" if good.any() else "")


def growth(evidence):
    """How the depth grows: of single exposures, OBs, and the first n exposures together.

    Returns
    -------
    dict of str to list of (seconds, ABMAGLIM, local ABMAGLIM)
        'exposure', 'OB' and 'together', from white images; and 'deep', of the cube itself.
    """
    shape = evidence.deep.white.shape
    seconds = evidence.seconds
    total, weight, spent = np.zeros(shape), np.zeros(shape), 0.0
    count = len(evidence.surveys)
    wanted = set(np.unique(np.round(np.geomspace(1, count, min(_STEPS, count)))).astype(int))
    found = {"exposure": [], "OB": [], "together": []}
    blocks = {}
    for n, survey in enumerate(evidence.surveys, start=1):
        image, t = survey.on_grid(survey.white, shape), seconds[survey.date_obs]
        found["exposure"].append((t, *depth_of(evidence, image)))
        total += np.nan_to_num(image) * t
        weight += np.isfinite(image) * t
        spent += t
        block = evidence.exposures[survey.date_obs].ob_id
        part = blocks.setdefault(block, [np.zeros(shape), np.zeros(shape), 0.0, 0])
        part[0] += np.nan_to_num(image) * t
        part[1] += np.isfinite(image) * t
        part[2], part[3] = part[2] + t, part[3] + 1
        if n in wanted:
            found["together"].append((spent, *depth_of(evidence, _mean(total, weight))))
    for image, part, t, number in blocks.values():
        if number > 1:
            found["OB"].append((t, *depth_of(evidence, _mean(image, part))))
    found["deep"] = [(spent, *depth_of(evidence, evidence.deep.white))]
    return found


def _mean(total, weight):
    return np.where(weight > 0, total / np.maximum(weight, 1e-9), np.nan)


def draw_growth(path, name, evidence, diagnosis, grown):
    """Draw depth against exposure time, histograms of one exposure, an OB and the cube, and the time series.

    Parameters
    ----------
    path : Path
    name : str
    evidence : Evidence
    diagnosis : Diagnosis
    grown : dict
        See `growth`.

    Returns
    -------
    Path
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(_WIDE, 7.2)
        panels.draw_header(figure, f"{name}: how it grew", f"{len(evidence.surveys)} exposures")
        places = figure.add_gridspec(
            3, 3, left=0.06, right=0.935, top=0.88, bottom=0.075, hspace=0.75, wspace=0.28,
            height_ratios=[1, 1, 0.85],
        )  # fmt: skip
        _draw_depth(figure.add_subplot(places[:2, 0]), grown)
        _draw_peaks(figure.add_subplot(places[:2, 1]), evidence)
        panels.draw_exposure_map(figure, figure.add_subplot(places[:2, 2]), evidence)
        for place, (finding, label, unit) in enumerate(
            (
                ("misalignment", "place", "arcsec"),
                ("flux_scale", "flux scale", "dex"),
                ("background_level", "background", "σ of a spaxel"),
            )
        ):
            found = diagnosis[finding]
            values = [found.values.get(date, math.nan) for date in evidence.dates]
            axes = figure.add_subplot(places[2, place])
            if found.measured:
                panels.draw_bars(axes, values, found.threshold, f"{label} of each exposure", unit)
                axes.set_xlabel("exposure")
            else:
                axes.set_axis_off()
        return save(figure, path)


def _draw_depth(axes, grown):
    for kind, marker, colour, size in (
        ("exposure", "o", FAINT, 4),
        ("OB", "s", BLUE, 4.5),
        ("together", "o", ACCENT, 4.5),
        ("deep", "D", RED, 6),
    ):
        if grown[kind]:
            time, limit, local = np.array(grown[kind]).T
            line = "-" if kind == "together" else ""
            label = {"together": "first n exposures", "deep": "deep cube"}.get(kind, f"single {kind}")
            axes.plot(time / 3600, local, marker, ls=line, ms=size, color=colour, lw=1.0, label=label)
            axes.plot(time / 3600, limit, marker, ls="", ms=size, mfc="none", mec=colour, mew=0.7, alpha=0.7)
    time, _, local = np.array(grown["together"]).T
    if np.isfinite(local[0]):
        way = np.geomspace(time[0], time[-1] * 1.02, 20)
        axes.plot(way / 3600, local[0] + 1.25 * np.log10(way / time[0]), color=INK, lw=0.7, ls="--")
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xticks([t for t in _HOURS if low <= t <= high], [f"{t:g}" for t in _HOURS if low <= t <= high])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("exposure time [h]; hollow: global value, dashed: 1.25 log t")
    axes.set_ylabel("limiting magnitude [AB]")
    axes.legend(loc="upper left")
    title(axes, "depth", "in boxes of 32 spaxels")


def _draw_peaks(axes, evidence):
    """Histograms of one exposure, of its observing block and of the deep cube."""
    surveys, deep = evidence.surveys, evidence.deep
    block = evidence.exposures[surveys[0].date_obs].ob_id
    mine = [s for s in surveys if evidence.exposures[s.date_obs].ob_id == block]
    stack = [s.on_grid(s.white, deep.white.shape) for s in mine]
    weight = sum(np.isfinite(image).astype(float) for image in stack)
    images = [(stack[0], FAINT, "one exposure")]
    if len(mine) > 1:
        images.append(
            (_mean(sum(np.nan_to_num(image) for image in stack), weight), BLUE, f"one OB ({len(mine)})")
        )
    images.append((deep.white, RED, f"deep ({len(surveys)})"))
    widest = flux_peak(stack[0])
    reach = 8 * (widest.sigma if math.isfinite(widest.sigma) else 1.0)
    for image, colour, label in images:
        values = image[np.isfinite(image)]
        middle = flux_peak(image).mode if len(values) else 0.0
        counts, edges = np.histogram(values - middle, bins=np.linspace(-reach, 1.6 * reach, 121))
        axes.stairs(counts / max(counts.max(), 1), edges, color=colour, lw=1.1, label=label)
    axes.set_yscale("log")
    axes.set_ylim(2e-3, 1.6)
    axes.set_xlabel(r"flux − mode [$10^{-20}$ erg/s/cm²/Å]")
    axes.set_ylabel("spaxels over the most")
    axes.legend(loc="upper right")
    title(axes, "histograms")
