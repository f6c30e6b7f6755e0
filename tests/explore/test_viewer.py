"""The page shows what the cube holds, in a real browser where there is one, and serves nobody else."""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import numpy as np
import pytest
from batch import wait_until
from fields import copy_of

import musedeep as md
from musedeep.combine import combine_to_store

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def cube(four, tmp_path_factory):
    field = copy_of(four, tmp_path_factory.mktemp("viewed"))
    combine_to_store(field)
    return md.open_cube(field.cube_path)


@pytest.fixture(scope="module")
def viewer(cube):
    viewer = md.view(cube)
    yield viewer
    viewer.close()


def ask(viewer, path):
    with urllib.request.urlopen(viewer.url + path) as answer:
        return answer.read()


def test_planes_and_spectra_are_those_of_the_cube(viewer, cube):
    for name, k in (("flux", 3), ("exposure_count", 7)):
        found = np.frombuffer(ask(viewer, f"plane?variable={name}&k={k}"), "<f4")
        np.testing.assert_array_equal(found, cube[name][k].values.astype("f4").ravel())
    white = np.frombuffer(ask(viewer, "white"), "<f4")
    np.testing.assert_allclose(white, cube.flux.mean("wavelength").values.ravel(), rtol=1e-5)
    x, y = 14, 16
    wait_until(lambda: viewer.noise == "correlated")
    found = np.frombuffer(ask(viewer, f"spectrum?x={x}&y={y}&radius=2"), "<f4")
    j, i = np.indices(cube.flux.shape[1:])
    mask = np.hypot(j - y, i - x) <= 2
    expected = cube.muse.spectrum(mask, how="mean")
    np.testing.assert_allclose(found[: len(found) // 2], expected.flux, rtol=1e-5)
    np.testing.assert_allclose(found[len(found) // 2 :], np.sqrt(expected.variance), rtol=1e-5)
    assert json.loads(ask(viewer, f"sky?x={x}&y={y}")) == pytest.approx(cube.muse.grid.position(x, y))


def test_without_a_field_voxels_count_as_independent(cube):
    alone = cube.compute()
    del alone.attrs["folder"]
    viewer = md.view(alone)
    with urllib.request.urlopen(viewer.url + "spectrum?x=14&y=16&radius=2") as answer:
        found = np.frombuffer(answer.read(), "<f4")
        assert answer.headers["X-Noise"] == viewer.noise == "independent"
    j, i = np.indices(cube.flux.shape[1:])
    expected = cube.muse.spectrum(np.hypot(j - 16, i - 14) <= 2, how="mean", noise="naive")
    np.testing.assert_allclose(found[len(found) // 2 :], np.sqrt(expected.variance), rtol=1e-5)
    viewer.close()


def test_a_cut_and_a_cube_in_memory_are_shown_too(cube):
    cut = cube.isel(wavelength=slice(2, 9), y=slice(5, 20), x=slice(8, 18))
    for data in (cut, cut.compute()):
        viewer = md.view(data)
        found = np.frombuffer(ask(viewer, "plane?variable=flux&k=4"), "<f4")
        np.testing.assert_array_equal(found, cut.flux[4].values.ravel())
        viewer.close()


@pytest.mark.parametrize(
    "path",
    [
        "plane?variable=flux&k=999",
        "plane?variable=../x&k=0",
        "spectrum?x=1&y=-3&radius=1",
        "secret",
        "plane?k=1",
    ],
)
def test_wrong_questions_are_refused(viewer, path):
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(viewer, path)


def test_only_this_machine_and_who_knows_the_path_is_served(viewer):
    assert viewer.url.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(re.sub(r"(:\d+/).*", r"\1", viewer.url))
    assert viewer.url in viewer._repr_html_() and viewer.url in repr(viewer)


def test_a_name_cannot_end_the_script(cube):
    viewer = md.view(cube.isel(y=slice(0, 3)).assign_attrs(field="</script><b>"))
    assert "</script><b>" not in viewer.page()
    viewer.close()


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_browser_shows_the_voxel_under_the_cursor(viewer, cube, tmp_path):
    flux = cube.flux.values
    k, y, x = (int(v) for v in np.unravel_index(np.nanargmax(flux), flux.shape))
    run = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=8000", "--dump-dom", f"{viewer.url}#x={x}&y={y}&k={k}",
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert 'data-ready="1"' in run.stdout, run.stderr[-2000:]
    (text,) = re.findall(r'id="readout">([^<]*)<', run.stdout)
    ra, dec = cube.muse.grid.position(x, y)
    assert text.startswith(f"x {x}, y {y}, RA {ra:.6f}, Dec {dec:.6f}: ")
    assert float(text.rpartition(": ")[2]) == pytest.approx(float(flux[k, y, x]), rel=1e-4)
    assert re.search(r"1 sigma of (correlated|independent) voxels", run.stdout)
    assert f"flux at {float(cube.wavelength[k]):.2f} Angstrom" in run.stdout
