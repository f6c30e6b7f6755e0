"""A small deep cube on disk and the field it belongs to, for tests of what is made from a cube."""

import itertools
import shutil
import subprocess
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits

from musedeep.grid import VoxelGrid
from musedeep.settings import Settings
from musedeep.store import CubeStore

UNIT = "10**(-20)*erg/s/cm**2/Angstrom"


def make_grid(shape=(40, 11, 13), start=4640.0, **options):
    """North-up grid whose first planes lie below the white filter."""
    options = {"crpix": (5.5, 6.25), "wavelength_step": 1.25} | options
    return VoxelGrid(
        shape=shape,
        crval=(53.159, -27.782),
        cd=((-5.5e-5, 1e-6), (1e-6, 5.6e-5)),
        wavelength_start=start,
        **options,
    )


def make_arrays(grid, exposures=3, seed=3):
    """Maps of a cube with an empty corner, scattered holes, and one plane without any data."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, exposures + 1, grid.shape)
    count[rng.random(grid.shape) < 0.05] = 0
    count[:, :3, :2] = 0
    if grid.shape[0] > 20:
        count[20] = 0
    empty = count == 0
    flux = rng.normal(5, 2, grid.shape)
    variance = rng.uniform(0.5, 2, grid.shape)
    flux[empty] = variance[empty] = np.nan
    return {
        "flux": flux.astype("f4"),
        "variance": variance.astype("f4"),
        "exposure_count": count.astype("u2"),
        "exposure_time": (900.0 * count).astype("f4"),
        "rejected_count": rng.integers(0, 3, grid.shape).astype("u2"),
        "weight": (1.5 * count).astype("f4"),
    }


def exposure_header(number):
    """Primary header of a pixel table, as the telescope and the pipeline leave it."""
    header = fits.Header()
    header["SIMPLE"], header["BITPIX"], header["NAXIS"], header["EXTEND"] = True, 8, 0, True
    header["DATE"] = "2015-01-01T00:00:00"
    header["ORIGIN"], header["TELESCOP"], header["INSTRUME"] = "ESO-PARANAL", "ESO-VLT-U4", "MUSE"
    header["OBJECT"] = "UDF-01"
    header["RA"], header["DEC"], header["EQUINOX"], header["RADECSYS"] = 53.16, -27.78, 2000.0, "FK5"
    header["EXPTIME"] = 900.0 + number
    header["MJD-OBS"] = 56879.0 + number
    header["DATE-OBS"] = f"{date(2014, 8, 10) + timedelta(number)}T01:02:03.456"
    header["ARCFILE"] = f"MUSE.{header['DATE-OBS']}.fits"
    header["CHECKSUM"], header["DATASUM"], header["DATAMD5"] = "abc", "17", "f" * 32
    header["WCSAXES"], header["CTYPE1"], header["CD1_1"], header["CRPIX1"] = 2, "RA---TAN", -5.5e-5, 3.0
    header["HIERARCH ESO OBS ID"] = 200100 - number // 2
    header["HIERARCH ESO OBS PROG ID"] = "094.A-0289(B)"
    header["HIERARCH ESO TEL AIRM START"] = 1.0 + 0.1 * number
    header["HIERARCH ESO INS MODE"] = "WFM-NOAO-N"
    header["HIERARCH ESO QC SCIPOST NDET"] = 5
    header["HIERARCH ESO PRO CATG"] = "PIXTABLE_REDUCED"
    header["HIERARCH ESO PRO REC1 RAW1 NAME"] = "raw.fits"
    header["HIERARCH ESO DRS MUSE PIXTABLE FLUXCAL"] = True
    header["HIERARCH ESO DRS MUSE PIXTABLE FFCORR"] = 1
    header["HIERARCH ESO DRS MUSE PIXTABLE EXP0 IFU01 SLICE01 XOFFSET"] = 77
    header["HIERARCH ESO DRS MUSE DAR CORRECT"] = 7000.0
    return header


class StandInExposure:
    """What products look at in an exposure."""

    def __init__(self, header, number):
        self.header = header
        self.date_obs, self.exptime = header["DATE-OBS"], header["EXPTIME"]
        self.mjd_obs = header.get("MJD-OBS", np.nan)
        self.tables = (SimpleNamespace(path=Path(f"PIXTABLE_REDUCED_{number:04d}.fits")),)


@dataclass
class StandInField:
    """What products look at in a field."""

    folder: Path
    exposures: list
    settings: Settings
    name: str = "UDF-01"

    @property
    def cube_path(self):
        return self.folder / "cube.zarr"

    @property
    def ledger_path(self):
        return self.folder / "cube.ledger"

    @property
    def products_dir(self):
        return self.folder / "products"


def make_field(folder, grid=None, arrays=None, exposures=3, block=(16, 8, 8), **settings):
    """Write a cube store and return the field; its exposures are given latest first."""
    grid = grid or make_grid()
    listed = [StandInExposure(exposure_header(number), number) for number in range(exposures)]
    records = [
        {
            "date_obs": exposure.date_obs,
            "exptime": exposure.exptime,
            "weight": exposure.exptime / 900.0,
            "ra_offset": 1e-5 * number,
            "dec_offset": -2e-5 * number,
            "flux_scale": 1.05 if number == 2 else 1.0,
            "in_offset_list": number != 1,
        }
        for number, exposure in enumerate(listed)
    ]
    field = StandInField(Path(folder), listed[::-1], Settings().changed(**settings))
    write_cube(field.cube_path, grid, arrays or make_arrays(grid, exposures), records, block)
    return field


def write_cube(path, grid, arrays, records, block):
    """Write a finished cube store."""
    store = CubeStore.create(path, grid, block, {
        "unit": UNIT,
        "settings": {"combine": {"reject": "guarded", "nclip": [4.0, 4.0]}, "grid": {"log": grid.log}},
        "exposures": records,
        "version": "0.1.0",
        "finished": True,
    })  # fmt: skip
    starts = [range(0, n, step) for n, step in zip(grid.shape, block, strict=True)]
    for corner in itertools.product(*starts):
        bounds = tuple((a, min(a + b, n)) for a, b, n in zip(corner, block, grid.shape, strict=True))
        region = tuple(slice(*bound) for bound in bounds)
        store.write_block(bounds, {name: values[region] for name, values in arrays.items()})


def names_in(folder):
    """Names of everything in a folder, hidden files too, in order."""
    return sorted(path.name for path in folder.iterdir())


def fitsverify(path):
    """What the program fitsverify says; skips the test where it is not installed."""
    if shutil.which("fitsverify") is None:
        pytest.skip("fitsverify is not installed")
    return subprocess.run(["fitsverify", "-q", str(path)], capture_output=True, text=True).stdout
