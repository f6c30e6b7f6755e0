"""Assess a field: measure, judge, draw and tell."""

import hashlib
import json

from musedeep.errors import InputError
from musedeep.qc.deep import measure_deep
from musedeep.qc.evidence import Evidence
from musedeep.qc.reference import read_reference
from musedeep.qc.survey import survey_exposures
from musedeep.recipe import prepare
from musedeep.store import CubeStore, Ledger

__all__ = ["gather"]

_FORMAT = 1  # raised when what is measured changes


def gather(field, *, client=None, progress=None):
    """Measure the deep cube of a field and every exposure beside it.

    What was measured is kept below the folder of quality figures, and read where the cube is still the same.

    Parameters
    ----------
    field : Field
        With a finished cube store.
    client : distributed.Client, optional
    progress : Progress, optional

    Returns
    -------
    Evidence

    Raises
    ------
    InputError
        The cube store is not finished.
    """
    store = CubeStore(field.cube_path)
    if not store.attrs.get("finished"):
        raise InputError(f"the cube {store.path} is not finished; run the combination to its end first")
    folder = field.qc_dir
    folder.mkdir(parents=True, exist_ok=True)
    key = cube_key(field)
    deep = measure_deep(field, folder / "deep.npz", key, client=client)
    recipe = prepare(field, grid=store.grid)
    surveys = survey_exposures(field, recipe, folder, key, client=client, progress=progress)
    exposures = {exposure.date_obs: exposure for exposure in field.exposures}
    return Evidence(
        grid=store.grid,
        deep=deep,
        surveys=surveys,
        exposures={survey.date_obs: exposures[survey.date_obs] for survey in surveys},
        seconds={e.date_obs: e.seconds for e in recipe.exposures},
        thresholds=read_reference(),
    )


def cube_key(field):
    """Hash of what the cube store is made of."""
    blocks = Ledger(field.cube_path.with_name("cube.ledger")).read()
    keys = sorted((number, block.get("key")) for number, block in blocks.items())
    return hashlib.sha256(json.dumps([_FORMAT, keys]).encode()).hexdigest()[:24]
