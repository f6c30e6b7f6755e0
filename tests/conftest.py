"""Fixtures for every test: pixel tables of a few rows, and marks that need a program."""

import shutil
import signal

import numpy as np
import pytest
from astropy.io import fits

from musedeep.muse import COLUMNS, UNITS

pytest_plugins = ["fields"]

# A suite that a shell started in the background ignores Ctrl-C, and so would every process that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    if shutil.which("esorex") is None:
        for item in items:
            if "esorex" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="esorex is not installed"))


@pytest.fixture
def write_table(tmp_path):
    """A function that writes a pixel table of a few rows and returns its path."""

    def write(number, date_obs=None, folder=None, rows=20, **cards):
        path = (folder or tmp_path) / f"PIXTABLE_REDUCED_{number:04d}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        primary = fits.PrimaryHDU()
        facts = {
            "DATE-OBS": date_obs or f"2014-08-10T01:{number:02d}:00.000",
            "MJD-OBS": 56879.0 + number / 1440,
            "EXPTIME": 1500.0,
            "RA": 53.1,
            "DEC": -27.8,
            "OBJECT": "UDF-10",
            "ESO INS MODE": "WFM-NOAO-N",
            "ESO INS DROT POSANG": 90.0,
            "ESO INS DROT MODE": "SKY",
            "ESO OBS NAME": "udf-10-1",
            "ESO TEL IA FWHM": 0.8,
        }
        for name, value in (facts | cards).items():
            primary.header[f"HIERARCH {name}" if " " in name else name] = value
        hdus = [primary]
        for name, dtype in COLUMNS.items():
            values = np.zeros((rows, 1), dtype.replace("uint32", "int32"))
            hdus.append(fits.ImageHDU(values + 6500 if name == "lambda" else values, name=name))
            # EXTNAME is written in capitals otherwise.
            hdus[-1].header["EXTNAME"] = name
            if UNITS.get(name):
                hdus[-1].header["BUNIT"] = UNITS[name]
        fits.HDUList(hdus).writeto(path)
        return path

    return write
