import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from musedeep.align import align_exposures
from musedeep.align.products import source_table, write_exposure_map, write_preview
from musedeep.errors import InputError
from musedeep.pipeline import align


@pytest.fixture
def aligned(sky, tmp_path):
    field = sky(stars=20).add().add((0.5, -0.3)).add((-0.2, 0.4))
    paths = field.write(tmp_path)
    return field, paths, align_exposures(paths)


def test_the_table_of_sources_brings_each_source_to_one_place(aligned):
    table = source_table(aligned[2].result)
    assert table.colnames[:7] == ["DATE_OBS", "Id", "X", "Y", "Flux", "Sharpness", "Roundness"]
    brightest = table[table["Id"] == 1]
    assert len(brightest) == 3
    assert np.ptp(brightest["DEC"]) * 3600 > 0.6 and np.ptp(brightest["DEC_CORR"]) * 3600 < 0.01
    assert np.ptp(brightest["RA_CORR"]) * 3600 < 0.01


def test_the_preview_has_the_stars_where_they_are(aligned, tmp_path):
    field, _, found = aligned
    path = write_preview(found.result, tmp_path / "preview.fits")
    table = source_table(found.result)
    with fits.open(path, checksum=True) as hdus:
        image, wcs = hdus["DATA"].data, WCS(hdus["DATA"].header)
        assert hdus[0].header["ESO PRO CATG"] == "PREVIEW_FOV"
    x, y = wcs.world_to_pixel_values(table["RA_CORR"][0], table["DEC_CORR"][0])
    row, column = np.unravel_index(np.nanargmax(image), image.shape)
    assert abs(column - x) < 1 and abs(row - y) < 1


def test_the_map_of_exposure_counts_seconds(aligned, tmp_path):
    with fits.open(write_exposure_map(aligned[2].result, tmp_path / "map.fits")) as hdus:
        header, seconds = hdus["DATA"].header, hdus["DATA"].data
    assert header["BUNIT"] == "s" and header["ESO QC EXPALIGN EXPTIME MAX"] == 2700.0
    assert set(np.unique(seconds[np.isfinite(seconds)])) <= {900.0, 1800.0, 2700.0}


def test_all_is_written_beside_the_list(aligned, tmp_path):
    paths = aligned[1]
    names = {path.name for path in align(paths, tmp_path / "l.fits", progress=False)[1]}
    assert names == {"l.fits", "l.ecsv", "l.png", "l_sources.ecsv", "l_preview.fits"}
    names = {path.name for path in align(paths, tmp_path / "l.fits", progress=False, expmap=True)[1]}
    assert "l_expmap.fits" in names


def test_sources_of_a_list_take_the_place_of_those_detected(aligned, tmp_path):
    field, paths, found = aligned
    table = source_table(found.result)
    table[table["Id"] <= 6]["DATE_OBS", "X", "Y"].write(tmp_path / "few.ecsv", format="ascii.ecsv")
    few = align_exposures(paths, override_detection=str(tmp_path / "few.ecsv"))
    assert [len(listed) for listed in few.result.sources] == [6, 6, 6]
    assert np.abs(field.shift_errors(few.result.offsets)).max() < 0.01
    Table({"DATE_OBS": ["2000-01-01T00:00:00"], "X": [1.0]}).write(tmp_path / "bad.ecsv", format="ascii.ecsv")
    with pytest.raises(InputError, match="has no column Y"):
        align_exposures(paths, override_detection=str(tmp_path / "bad.ecsv"))
    table["DATE_OBS"] = "2000-01-01T00:00:00.000"
    table.write(tmp_path / "other.ecsv", format="ascii.ecsv")
    with pytest.raises(InputError, match="none of its DATE_OBS"):
        align_exposures(paths, override_detection=str(tmp_path / "other.ecsv"))
