"""A mosaic whose cube is larger than what its assessment takes."""

import math
import tracemalloc

from musedeep.plan import BASE_BYTES
from musedeep.qc.assess import gather
from musedeep.qc.effort import effort_of
from musedeep.recipe import prepare
from musedeep.store import CubeStore


def test_a_mosaic_is_assessed_a_few_planes_at_a_time(make_combined, tmp_path):
    field = make_combined(
        tmp_path, exposures=2, pointings=[(-30.0, -30.0), (30.0, 30.0)], field_arcsec=5.0, stars=20,
        dither_arcsec=0.0, wavelength=(6000.0, 6200.0),
    ).changed(memory="400MB")  # fmt: skip
    grid = CubeStore(field.cube_path).grid
    cube = 8 * math.prod(grid.shape)
    assert cube > 120e6
    predicted = effort_of(field, prepare(field, grid=grid)).peak_bytes - BASE_BYTES
    tracemalloc.start()
    try:
        evidence = gather(field)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(evidence.surveys) == 2
    assert taken < min(predicted, cube / 2)
