"""The step of ESO's muse_create_sky: what the sky of a SKY frame is like."""

from dataclasses import asdict
from pathlib import Path

from musedeep.pixtable import open_pixel_table
from musedeep.reduce.native.plan import make_plan
from musedeep.reduce.native.skyfiles import write_sky
from musedeep.reduce.native.skymodel import SkyChoice, model_sky

__all__ = ["create_sky"]

_CHUNK_ROWS = 1 << 16
_FRACTION = 0.75


def create_sky(paths, calibrations, folder, *, sky=None, names=None, chunk_rows=_CHUNK_ROWS):
    """Model the sky of a SKY frame, and write what was found.

    Parameters
    ----------
    paths : list of Path
        PIXTABLE_SKY of each IFU, as muse_scibasic writes them.
    calibrations : dict of str to list of Path
        EXTINCT_TABLE, STD_RESPONSE, SKY_LINES and LSF_PROFILE; STD_TELLURIC where there is one.
    folder : Path
        For SKY_IMAGE, SKY_MASK, SKY_SPECTRUM, SKY_LINES and SKY_CONTINUUM; files of these names are replaced.
    sky : SkyChoice, optional
        Where the frame shows the sky; by default three quarters of the field, as with the recipe.
    names : dict of Path to str, optional
        Under which names headers quote files; their own by default.
    chunk_rows : int, optional
        Rows in memory at a time.

    Returns
    -------
    dict
        ``sky_fit``: why the fit of the lines failed, empty otherwise; ``products``: the paths written.

    Raises
    ------
    InputError, UsageError
        As for `musedeep.reduce.native.reduce_tables`.
    """
    paths = sorted(map(Path, paths))
    tables = sorted((open_pixel_table(path, "pix") for path in paths), key=lambda table: table.ifu or 0)
    plan = make_plan(tables, calibrations, 0.0, chunk_rows, good_only=True)
    choice = sky or SkyChoice(_FRACTION)
    found = model_sky(tables, plan, calibrations, choice, chunk_rows)
    inputs = {"RAW": [(table.path, "PIXTABLE_SKY") for table in tables]}
    inputs["CAL"] = [(path, tag) for tag, files in sorted(calibrations.items()) for path in files if path]
    quoted = "musedeep_create_sky", inputs, asdict(choice), names or {}
    products = write_sky(Path(folder), found, tables, quoted, prefix="SKY")
    return {"sky_fit": found.failure, "products": products}
