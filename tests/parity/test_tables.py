"""Pixel tables that ESO's recipes wrote themselves."""

import numpy as np
import pytest
from astropy.io import fits
from fields import arrays_of, ingested
from parity.peer import Peer, assert_agreement, assert_same_grid, run_recipe

from musedeep import VoxelGrid, combine_exposures, simulate_exposures
from musedeep.errors import InputError
from musedeep.pixtable import group_exposures, open_pixel_table

pytestmark = pytest.mark.esorex

WAVELENGTHS = np.arange(4000.0, 10001.0, 10.0)
RESPONSE_UNIT = "2.5*log10((count/s/Angstrom)/(erg/s/cm**2/Angstrom))"
# What muse_scipost does to a table and its header; a raw one is without.
DONE_BY_SCIPOST = ("FLUXCAL", "SKYSUB", "FFCORR", "WCS", "DAR CORRECT", "RVCORR")
PROJECTION = ("WCSAXES", "CTYPE", "CUNIT", "CRPIX", "CD1_", "CD2_")


def raw_table(reduced, path):
    """Turn a simulated PIXTABLE_REDUCED back into a PIXTABLE_OBJECT: positions in pixels, values in
    counts."""
    with fits.open(reduced) as hdus:
        header = hdus[0].header.copy()
        columns = {hdu.name.lower(): hdu.data.copy() for hdu in hdus[1:]}
    phi, theta = (columns[name].astype(float) for name in ("xpos", "ypos"))
    radius = np.degrees(1) / np.tan(theta + np.pi / 2)
    plane = np.stack([radius * np.sin(phi), -radius * np.cos(phi)]).reshape(2, -1)
    cd = np.array([[header[f"CD{row}_{column}"] for column in (1, 2)] for row in (1, 2)])
    for name, pixels in zip(("xpos", "ypos"), np.linalg.inv(cd) @ plane, strict=True):
        columns[name] = pixels.astype(np.float32)[:, None]
    for name in list(header):
        key = name.removeprefix("ESO DRS MUSE PIXTABLE ")
        if name.startswith(PROJECTION) or key in DONE_BY_SCIPOST or key.startswith("PREDAR"):
            del header[name]
    for axis, name in (("X", "xpos"), ("Y", "ypos")):
        header[f"ESO DRS MUSE PIXTABLE LIMITS {axis} LOW"] = float(columns[name].min())
        header[f"ESO DRS MUSE PIXTABLE LIMITS {axis} HIGH"] = float(columns[name].max())
    units = {"xpos": "pix", "ypos": "pix", "lambda": "Angstrom", "data": "count", "stat": "count**2"}
    hdus = [fits.PrimaryHDU(header=header)]
    for name, values in columns.items():
        hdus.append(fits.ImageHDU(values))
        hdus[-1].header["EXTNAME"] = name
        if name in units:
            hdus[-1].header["BUNIT"] = units[name]
    fits.HDUList(hdus).writeto(path)
    return path


def calibration(path, category, **columns):
    """A table over wavelength for muse_scipost."""
    columns = {"lambda": (WAVELENGTHS, "Angstrom")} | columns
    primary = fits.PrimaryHDU()
    primary.header["HIERARCH ESO PRO CATG"] = category
    table = [
        fits.Column(name, "D", unit=unit, array=np.broadcast_to(values, WAVELENGTHS.shape))
        for name, (values, unit) in columns.items()
    ]
    fits.HDUList([primary, fits.BinTableHDU.from_columns(table)]).writeto(path)
    return path, category


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Folders with what muse_scipost made of two exposures."""
    folder = tmp_path_factory.mktemp("scipost")
    reduced = simulate_exposures(
        folder / "sim",
        exposures=2,
        seed=2,
        field_arcsec=6.0,
        wavelength=(6500.0, 6515.0),
        position_angles=(0.0, 30.0),
        dec_deg=-12.8,
        fov_images=False,
        defects=0.003,
    )
    extinction = calibration(folder / "extinction.fits", "EXTINCT_TABLE", extinction=(0.1, "mag/airmass"))
    response = calibration(
        folder / "response.fits",
        "STD_RESPONSE",
        response=(35.0, RESPONSE_UNIT),
        resperr=(0.1, RESPONSE_UNIT),
    )
    made = []
    for n, path in enumerate(reduced):
        raw = raw_table(path, folder / f"raw{n}.fits")
        made.append(folder / f"products{n}")
        run_recipe(
            made[-1],
            "muse_scipost",
            [(raw, "PIXTABLE_OBJECT"), extinction, response],
            "--save=individual,positioned,combined",
            "--skymethod=none",
            "--rvcorr=none",
            "--filter=none",
        )
    return made


def test_tables_of_scipost_are_read_and_combined(products, tmp_path):
    paths = [folder / "PIXTABLE_REDUCED_0001.fits" for folder in products]
    exposures = group_exposures(paths)
    assert [round(exposure.position_angle_deg) for exposure in exposures] == [0, 30]
    table = open_pixel_table(paths[0])
    assert table.coordinate_state == "rad"
    assert table.columns["data"].unit == "10**(-20)*erg/s/cm**2/Angstrom"
    with fits.open(paths[0]) as hdus:
        for name in ("data", "lambda", "dq"):
            np.testing.assert_array_equal(
                table.read(name), hdus[name].data[:, 0].astype(table.read(name).dtype)
            )
    theirs = Peer(tmp_path, [(path, "PIXTABLE_REDUCED") for path in paths]).combine("--crsigma=5")
    field = ingested(paths, tmp_path / "field", grid="eso", reject="eso", crsigma=5)
    cube = combine_exposures(field)
    assert_same_grid(VoxelGrid.from_dict(cube.attrs["grid"]), theirs, pixels=1e-9)
    assert_agreement(arrays_of(cube), theirs)


@pytest.mark.parametrize("name", ["PIXTABLE_COMBINED.fits", "PIXTABLE_POSITIONED_0001.fits"])
def test_positioned_tables_are_refused(products, name):
    with pytest.raises(InputError, match=rf"{name}.*PIXTABLE_REDUCED"):
        open_pixel_table(products[0] / name)


def test_the_combined_table_is_refused(peer, exposures, tmp_path):
    run_recipe(tmp_path / "out", "muse_exp_combine", exposures.frames(), "--save=combined")
    with pytest.raises(InputError, match=r"PIXTABLE_COMBINED.*'deg'"):
        open_pixel_table(tmp_path / "out" / "PIXTABLE_COMBINED.fits")


def test_raw_tables_are_refused(products):
    with pytest.raises(InputError, match="'pix'"):
        open_pixel_table(products[0].parent / "raw0.fits")
