"""What a notebook shows of a field and of a cube."""

import base64
import io
import re

import numpy as np
import pytest
from fields import copy_of
from matplotlib.image import imread

import musedeep as md
from musedeep.combine import combine_exposures, combine_to_store
from musedeep.picture import scaled


@pytest.fixture(scope="module")
def finished(four, tmp_path_factory):
    """The field with its cube."""
    field = copy_of(four, tmp_path_factory.mktemp("shown"))
    combine_to_store(field)
    return field


def pictures(page):
    """The images in a page, as arrays (y, x, channels)."""
    return [imread(io.BytesIO(base64.b64decode(text))) for text in re.findall(r"base64,([^\"]+)", page)]


def test_a_field_shows_its_outlines_and_its_cube(finished):
    page = md.open_field(finished.folder)._repr_html_()
    assert page.count("<polygon") == 4
    for words in ("4 exposures", "1.00 h", "2014-08-10 to 2014-08-10"):
        assert words in page
    image, depth = pictures(page)
    ny, nx = md.open_cube(finished.cube_path).flux.shape[1:]
    assert image.shape[:2] == depth.shape[:2] == (ny, nx)
    assert len(np.unique(image.reshape(-1, 4), axis=0)) > 50 and "exposures, at most 4" in page


def test_a_field_without_anything_says_so(four_files, tmp_path):
    field = md.Field.from_exposures(four_files, tmp_path / "new")
    page = field._repr_html_()
    assert page.count("none yet") == 2 and "<svg" not in page and not pictures(page)


def test_a_cube_shows_what_is_cheap(finished, four):
    stored = md.open_cube(finished.cube_path)
    page = stored.muse._repr_html_()
    white, depth = pictures(page)
    assert white.shape[:2] == stored.flux.shape[1:] and "900" not in page
    for words in ("RA 150.1", "6500.", "in air", "4, 1.00 h"):
        assert words in page
    cut = stored.isel(y=slice(10, 25), x=slice(12, 20), wavelength=slice(3, 9))
    part = pictures(cut.muse._repr_html_())
    assert part[1].shape[:2] == (15, 8)
    np.testing.assert_array_equal(part[0], pictures(cut.compute().muse._repr_html_())[0])
    lazy = combine_exposures(four).muse._repr_html_()
    assert not pictures(lazy) and "voxels" in lazy


def test_north_is_up_and_what_is_bright_is_light(finished):
    stored = md.open_cube(finished.cube_path).compute()
    image = pictures(stored.muse._repr_html_())[0][..., :3].sum(axis=-1)
    mean = stored.flux.mean("wavelength").values
    y, x = np.unravel_index(np.nanargmax(mean), mean.shape)
    assert image[mean.shape[0] - 1 - y, x] == image[np.isfinite(mean)[::-1]].max()


def test_a_stretch_lies_between_0_and_1():
    image = np.array([[0.0, 1.0, np.nan], [10.0, 1000.0, 2.0]])
    found = scaled(image, 0, 100)
    assert found[0, 0] == 0 and found[1, 1] == 1 and np.isnan(found[0, 2])
    assert (np.diff(found.ravel()[[0, 1, 5, 3, 4]]) > 0).all()
    assert np.isnan(scaled(np.full((2, 2), np.nan))).all()
    assert np.isfinite(scaled(np.ones((2, 2)))).all()
