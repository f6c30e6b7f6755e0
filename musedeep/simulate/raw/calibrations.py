"""Master calibrations that describe the simulated spectrograph exactly, in the formats of ESO's pipeline."""

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time

from musedeep.muse import SLICE_COUNT, mode_facts
from musedeep.simulate.raw.illumination import DARK_RATE, bad_pixels, twilight
from musedeep.simulate.raw.light import (
    RESPONSE_RANGE,
    continuum,
    extinction,
    lamp,
    response,
    sky_lines,
    telluric,
)
from musedeep.simulate.spectrograph import calibration_cd

__all__ = ["dark_current", "flat_field", "write_calibrations"]

_SKY_UNIT = "10**(-20)*erg/(s cm^2 arcsec^2)"
_LSF_STEP, _LSF_HALF = 0.1, 75
_PIXEL_SCATTER = 0.01
_DARK_SECONDS = 1800.0
_TWILIGHT_STEP = 250.0


def flat_field(spectrograph, ifu):
    """Master flat of an IFU.

    Returns
    -------
    pixel : float64 array (lines, columns)
        Sensitivity of every pixel, 1 on average.
    flat : float64 array (lines, columns)
        The same times the spectrum of the lamp; 1 between the slices.
    """
    rng = np.random.default_rng((20140131, ifu, 3))
    pixel = rng.normal(1, _PIXEL_SCATTER, (spectrograph.lines, spectrograph.columns))
    flat = np.ones_like(pixel)
    for piece in spectrograph.slices(ifu):
        x, y, inside = piece.pixels(spectrograph.lines)
        place = np.broadcast_to(y, x.shape)[inside] - 1, x[inside] - 1
        flat[place] = pixel[place] * lamp(piece.wavelengths(x, y)[inside])
    return pixel, flat


def dark_current(spectrograph, seconds):
    """Electrons (float64, lines and columns of the detector) that gather in the dark."""
    place = np.linspace(-1, 1, spectrograph.columns)
    rate = DARK_RATE * (1 + place**2) / 2
    return np.broadcast_to(rate * seconds, (spectrograph.lines, spectrograph.columns))


def write_calibrations(folder, spectrograph, detector, mode, mjd, lsf_fwhm, *, everything=False):
    """Write a consistent set of master calibrations.

    Parameters
    ----------
    folder : Path
    spectrograph : Spectrograph
    detector : Detector
    mode : str
    mjd : float
        When they were taken; the arc half an hour after that.
    lsf_fwhm : float
        Angstrom.
    everything : bool
        Not only what is needed, but also a dark, a cube of the twilight and a table of bad pixels.

    Returns
    -------
    list of Path
    """
    facts = {"mode": mode, "mjd": mjd}
    paths = []
    for ifu in spectrograph.ifus:
        cards = detector.cards(ifu)
        _, flat = flat_field(spectrograph, ifu)
        paths += [
            _write_images(folder, "MASTER_BIAS", ifu, facts, *_bias(detector, cards)),
            _write_images(folder, "MASTER_FLAT", ifu, facts, *_flat(spectrograph, ifu, flat, cards)),
            _write_table(folder, "TRACE_TABLE", facts, _traces(spectrograph, ifu), ifu),
            _write_table(folder, "WAVECAL_TABLE", facts, _dispersions(spectrograph, ifu), ifu, 0.02),
            _write_lsf(folder, facts, ifu, lsf_fwhm),
        ]
        if everything:
            bad = _bad_pixel_columns(detector, spectrograph, ifu)
            paths += [
                _write_images(folder, "MASTER_DARK", ifu, facts, *_dark(spectrograph, cards)),
                _write_table(folder, "BADPIX_TABLE", facts, bad, ifu),
            ]
    if everything:
        paths.append(_write_twilight(folder, facts, spectrograph))
    low, high = RESPONSE_RANGE
    coarse, fine = np.arange(low, high + 1, 5.0), np.arange(low, high + 1, 0.5)
    curves = {
        "GEOMETRY_TABLE": _geometry(spectrograph),
        "EXTINCT_TABLE": {"lambda": (coarse, "Angstrom"), "extinction": (extinction(coarse), "mag/airmass")},
        "STD_RESPONSE": {
            "lambda": (coarse, "Angstrom"),
            "response": (response(coarse), "2.5*log10((count/s/Angstrom)/(erg/s/cm**2/Angstrom))"),
            "resperr": (np.full(len(coarse), 0.002), "2.5*log10((count/s/Angstrom)/(erg/s/cm**2/Angstrom))"),
        },
        "STD_TELLURIC": {
            "lambda": (fine, "Angstrom"),
            "ftelluric": (telluric(fine), ""),
            "ftellerr": (np.full(len(fine), 0.001), ""),
        },
        "SKY_CONTINUUM": {
            "lambda": (coarse, "Angstrom"),
            "flux": (continuum(coarse), "10**(-20)*erg/s/cm**2/Angstrom"),
        },
        "SKY_LINES": _lines(mode),
    }
    paths += [_write_table(folder, name, facts, columns) for name, columns in curves.items()]
    return [*paths, _write_astrometry(folder, facts)]


def _bias(detector, cards):
    shape = detector.lines, detector.columns
    levels = {}
    for number, (_, level, drift, *_) in enumerate(detector.quadrants(), start=1):
        levels[f"ESO DRS MUSE OVSC{number} MEAN"] = level + drift / 2
        levels[f"ESO DRS MUSE OVSC{number} STDEV"] = detector.read_noise
        levels[f"ESO QC BIAS MASTER{number} RON"] = detector.read_noise
    parameters = {"overscan": "vpoly", "ovscreject": "dcr", "ovscsigma": "30.", "ovscignore": "3"}
    levels |= _recipe("muse_bias", parameters)
    # a master of eleven frames, in which the polynomial of the overscan has been taken out
    variance = np.full(shape, detector.read_noise**2 / 11)
    return np.zeros(shape), variance, "adu", cards, levels


def _flat(spectrograph, ifu, flat, cards):
    levels = {"ESO QC FLAT MASTER INTFLUX": 1e6 * spectrograph.throughput(ifu)}
    levels |= _recipe("muse_flat", {})
    return flat, np.full(flat.shape, 1e-6), "count", cards, levels


def _dark(spectrograph, cards):
    dark = dark_current(spectrograph, _DARK_SECONDS)
    levels = {"EXPTIME": _DARK_SECONDS} | _recipe("muse_dark", {})
    return dark, dark / 5, "count", cards, levels


def _bad_pixel_columns(detector, spectrograph, ifu):
    """Bad pixels in the frame with its scans, counted from 1."""
    y, x, status, _ = bad_pixels(spectrograph, ifu)
    frame_y, frame_x = np.empty_like(y), np.empty_like(x)
    for _, _, _, _, bright, trimmed in detector.quadrants():
        inside = (y >= trimmed[0].start) & (y < trimmed[0].stop)
        inside &= (x >= trimmed[1].start) & (x < trimmed[1].stop)
        frame_y[inside] = y[inside] - trimmed[0].start + bright[0].start + 1
        frame_x[inside] = x[inside] - trimmed[1].start + bright[1].start + 1
    columns = {"xpos": frame_x, "ypos": frame_y, "status": status}
    columns = {name: (values.astype(np.int32), "") for name, values in columns.items()}
    return columns | {"value": (np.zeros(len(x), np.float32), "")}


def _write_twilight(folder, facts, spectrograph):
    (xlow, xhigh), (ylow, yhigh) = spectrograph.limits(*mode_facts(facts["mode"]).wavelength_range)
    x, y = np.arange(np.floor(xlow) - 2, xhigh + 3), np.arange(np.floor(ylow) - 2, yhigh + 3)
    wavelength = np.arange(4500.0, 9500.0 + _TWILIGHT_STEP, _TWILIGHT_STEP)
    cube = twilight(x, y[:, None], wavelength[:, None, None]).astype(np.float32)
    hdu = fits.ImageHDU(cube, name="DATA")
    axes = {
        "CTYPE1": "PIXEL", "CTYPE2": "PIXEL", "CTYPE3": "AWAV", "CUNIT1": "pixel", "CUNIT2": "pixel",
        "CUNIT3": "Angstrom", "CRPIX1": 1.0, "CRPIX2": 1.0, "CRPIX3": 1.0, "CRVAL1": x[0], "CRVAL2": y[0],
        "CRVAL3": wavelength[0], "CD1_1": 1.0, "CD1_2": 0.0, "CD1_3": 0.0, "CD2_1": 0.0, "CD2_2": 1.0,
        "CD2_3": 0.0, "CD3_1": 0.0, "CD3_2": 0.0, "CD3_3": _TWILIGHT_STEP,
    }  # fmt: skip
    hdu.header.update(axes)
    primary = _primary("TWILIGHT_CUBE", facts)
    fluxes = {
        f"ESO DRS MUSE FLAT FLUX SKY{ifu}": 1e6 * spectrograph.throughput(ifu) for ifu in spectrograph.ifus
    }
    _set(primary.header, fluxes)
    return _write(folder / "TWILIGHT_CUBE.fits", [primary, hdu])


def _recipe(name, parameters):
    cards = {"ESO PRO REC1 ID": name, "ESO PRO REC1 PIPE ID": "muse/2.8.7"}
    for number, (parameter, value) in enumerate(parameters.items(), start=1):
        cards[f"ESO PRO REC1 PARAM{number} NAME"] = parameter
        cards[f"ESO PRO REC1 PARAM{number} VALUE"] = value
    return cards


def _traces(spectrograph, ifu):
    slices = spectrograph.slices(ifu)
    columns = {
        "SliceNo": (np.array([piece.number for piece in slices], np.int32), ""),
        "Width": (np.array([piece.columns for piece in slices], np.float32), "pix"),
    }
    for part, shift in enumerate((0.0, -0.5, 0.5)):
        for power in range(6):
            values = [piece.middle[power] + (shift * piece.columns if power == 0 else 0) for piece in slices]
            columns[f"tc{part}_{power:02d}"] = np.array(values), ""
        columns[f"MSE{part}"] = np.full(SLICE_COUNT, 1e-4), ""
    return columns


def _dispersions(spectrograph, ifu):
    slices = spectrograph.slices(ifu)
    columns = {"SliceNo": (np.array([piece.number for piece in slices], np.int32), "")}
    for i in range(3):
        for k in range(7):
            columns[f"wlc{i}{k}"] = np.array([piece.wavelength[i, k] for piece in slices]), ""
    return columns | {"MSE": (np.full(SLICE_COUNT, 1e-4), "")}


def _geometry(spectrograph):
    rows = [(ifu, piece) for ifu in spectrograph.ifus for piece in spectrograph.slices(ifu)]
    return {
        "SubField": (np.array([ifu for ifu, _ in rows], np.int32), ""),
        "SliceCCD": (np.array([piece.number for _, piece in rows], np.int32), ""),
        "SliceSky": (np.array([piece.sky_number for _, piece in rows], np.int32), ""),
        "x": (np.array([piece.x for _, piece in rows]), "pix"),
        "y": (np.array([piece.y for _, piece in rows]), "pix"),
        "angle": (np.degrees([piece.angle for _, piece in rows]), "deg"),
        "width": (np.array([piece.width for _, piece in rows]), "pix"),
    }


def _lines(mode):
    low, high = mode_facts(mode).wavelength_range
    lines = sky_lines(low, high)
    return {
        "name": (np.array([f"line {centre:.1f}" for _, centre, _ in lines]), ""),
        "group": (np.array([group for group, _, _ in lines], np.int32), ""),
        "lambda": (np.array([centre for _, centre, _ in lines]), "Angstrom"),
        "flux": (np.array([flux for _, _, flux in lines]), _SKY_UNIT),
        "dq": (np.zeros(len(lines), np.int32), ""),
    }


def _primary(category, facts, ifu=None, later_days=0.0):
    hdu = fits.PrimaryHDU()
    time = Time(facts["mjd"] + later_days, format="mjd").isot
    cards = {
        "INSTRUME": "MUSE", "TELESCOP": "ESO-VLT-U4", "MJD-OBS": facts["mjd"] + later_days, "DATE-OBS": time,
        "EXPTIME": 0.0, "ESO INS MODE": facts["mode"], "ESO PRO CATG": category, "ESO PRO TYPE": "REDUCED",
        "ESO PRO TECH": "IFU", "ESO DET READ CURID": 1, "ESO DET READ CURNAME": "SCI1.0",
    }  # fmt: skip
    if ifu is not None:
        cards["EXTNAME"] = f"CHAN{ifu:02d}"
    _set(hdu.header, cards)
    return hdu


def _set(header, cards):
    for name, value in cards.items():
        header[f"HIERARCH {name}" if len(name) > 8 or " " in name else name] = value


def _write_images(folder, category, ifu, facts, data, variance, unit, cards, levels):
    primary = _primary(category, facts, ifu)
    _set(primary.header, levels)
    _set(primary.header, cards)
    hdus = [primary]
    for name, values, kind in (
        ("DATA", data, np.float32), ("DQ", np.zeros(data.shape), np.int32), ("STAT", variance, np.float32)
    ):  # fmt: skip
        hdu = fits.ImageHDU(values.astype(kind), name=name)
        if name != "DQ":
            hdu.header["BUNIT"] = unit if name == "DATA" else f"({unit})**2"
        hdus.append(hdu)
    return _write(folder / f"{category}-{ifu:02d}.fits", hdus)


def _write_table(folder, category, facts, columns, ifu=None, later_days=0.0):
    own_name = category == "BADPIX_TABLE"
    primary = _primary(category, facts, None if own_name else ifu, later_days)
    if category in ("STD_RESPONSE", "STD_TELLURIC"):
        # they were made from pixel tables that had the spectrum of the lamp put back
        _set(primary.header, {"ESO DRS MUSE FLUX FFCORR": True})
    table = Table({name: values for name, (values, _) in columns.items()})
    hdu = fits.table_to_hdu(table)
    for number, (_, unit) in enumerate(columns.values(), start=1):
        if unit:
            hdu.header[f"TUNIT{number}"] = unit
    name = {"SKY_LINES": "LINES", "SKY_CONTINUUM": "CONTINUUM"}.get(category)
    if name or own_name:
        hdu.header["EXTNAME"] = name or f"CHAN{ifu:02d}"
    suffix = "" if ifu is None else f"-{ifu:02d}"
    return _write(folder / f"{category}{suffix}.fits", [primary, hdu])


def _write_lsf(folder, facts, ifu, fwhm):
    """Profiles of the lines: Gaussians, the same in every slice and at every wavelength."""
    offset = np.arange(-_LSF_HALF, _LSF_HALF + 1)[:-1] * _LSF_STEP
    sigma = fwhm / 2.3548200450309493
    profile = np.exp(-0.5 * (offset / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    cube = np.broadcast_to(profile, (SLICE_COUNT, 30, len(profile))).astype(np.float32)
    hdu = fits.ImageHDU(cube, name="LSF_PROFILE")
    axes = {
        "CTYPE1": "PARAM", "CTYPE2": "AWAV", "CTYPE3": "PARAM", "CRPIX1": 1.0, "CRVAL1": offset[0],
        "CRPIX2": 1.0, "CRVAL2": 4650.0, "CRPIX3": 1.0, "CRVAL3": 1.0, "CD1_1": _LSF_STEP, "CD1_2": 0.0,
        "CD1_3": 0.0, "CD2_1": 0.0, "CD2_2": 4650.0 / 29, "CD2_3": 0.0, "CD3_1": 0.0, "CD3_2": 0.0,
        "CD3_3": 1.0, "CUNIT1": "Angstrom", "CUNIT2": "Angstrom",
    }  # fmt: skip
    hdu.header.update(axes)
    primary = _primary("LSF_PROFILE", facts, ifu, 0.02)
    return _write(folder / f"LSF_PROFILE-{ifu:02d}.fits", [primary, hdu])


def _write_astrometry(folder, facts):
    primary = _primary("ASTROMETRY_WCS", facts)
    cd = calibration_cd(mode_facts(facts["mode"]).sampling_arcsec)
    primary.header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"})
    primary.header.update({"CRPIX1": 0.0, "CRPIX2": 0.0, "CRVAL1": 0.0, "CRVAL2": 0.0})
    primary.header.update({f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in (0, 1) for j in (0, 1)})
    return _write(folder / "ASTROMETRY_WCS.fits", [primary])


def _write(path, hdus):
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path
