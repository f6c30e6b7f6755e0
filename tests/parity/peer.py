"""ESO's recipe muse_exp_combine on simulated exposures, and how a cube is held against its cube."""

import math
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from reference import Rows, pixel_of_sky

from musedeep import VoxelGrid
from musedeep.offsets import Offset
from musedeep.sky import eso_positions

# What the two cubes must agree to, and on which share of the voxels.
SIGMA = 1e-3
RELATIVE_VARIANCE = 1e-4
SHARE = 1e-3


@dataclass(frozen=True)
class PeerCube:
    """What the recipe made: data, variance (NaN where empty), the header of DATA, and the log."""

    data: np.ndarray
    variance: np.ndarray
    header: fits.Header
    log: str

    @property
    def grid(self):
        return VoxelGrid.from_header(self.header)


def write_output_wcs(path, grid, *, image=False):
    """Write a file that gives both the grid of their cube: an empty cube, or an empty image without
    wavelengths."""
    header = grid.to_header()
    shape = grid.shape
    if image:
        shape = shape[1:]
        for name in [name for name in header if "3" in name]:
            del header[name]
    empty = fits.ImageHDU(np.zeros(shape, np.float32), header=header, name="DATA")
    fits.HDUList([fits.PrimaryHDU(), empty]).writeto(path)
    return path


def run_recipe(folder, recipe, frames, *options):
    """Run a recipe in a folder of its own; its log."""
    folder.mkdir(parents=True)
    (folder / "frames.sof").write_text("".join(f"{path} {tag}\n" for path, tag in frames))
    run = subprocess.run(
        [shutil.which("esorex"), f"--output-dir={folder}", recipe, *options, "frames.sof"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout


class Peer:
    """The recipe with one set of exposures; each cube is made once.

    Parameters
    ----------
    folder : Path
        Where it may write.
    frames : list of (Path, str)
        Files and their tags.
    """

    def __init__(self, folder, frames):
        self.folder, self.frames = folder, frames
        self._cubes = {}

    def combine(self, *options, frames=None, output_wcs=None):
        """The recipe's cube with options as on its command line."""
        frames = self.frames if frames is None else frames
        frames = [*frames, (output_wcs, "OUTPUT_WCS")] if output_wcs is not None else list(frames)
        key = (*options, *frames)
        if key not in self._cubes:
            folder = self.folder / f"cube{len(self._cubes):03d}"
            log = run_recipe(folder, "muse_exp_combine", frames, "--filter=none", *options)
            with fits.open(folder / "DATACUBE_FINAL.fits") as hdus:
                data, variance = (hdus[name].data.astype(np.float32) for name in ("DATA", "STAT"))
                self._cubes[key] = PeerCube(data, variance, hdus["DATA"].header.copy(), log)
        return self._cubes[key]


@dataclass(frozen=True)
class Disagreement:
    """Shares of voxels that disagree: in being empty, in data, in variance."""

    empty: float
    data: float
    variance: float

    def __str__(self):
        return f"empty {self.empty:.2e}, data {self.data:.2e}, variance {self.variance:.2e} of the voxels"


def disagreement(data, variance, peer, where=...):
    """Hold data and variance against the peer's; `where` picks the voxels that count."""
    data, variance = np.asarray(data)[where], np.asarray(variance)[where]
    peer_data, peer_variance = peer.data[where], peer.variance[where]
    empty = np.isnan(data) != np.isnan(peer_data)
    common = ~np.isnan(data) & ~np.isnan(peer_data) & ~np.isnan(peer_variance)
    assert common.mean() > 0.3, "the cubes have hardly a voxel in common"
    ours, theirs = data[common].astype(float), peer_data[common].astype(float)
    sigma = np.sqrt(peer_variance[common].astype(float))
    excess = np.abs(variance[common] / peer_variance[common].astype(float) - 1.0)
    return Disagreement(
        float(empty.mean()),
        float((np.abs(ours - theirs) > SIGMA * sigma).mean()),
        float((excess > RELATIVE_VARIANCE).mean()),
    )


def assert_agreement(maps, peer, where=..., share=SHARE):
    """The cubes agree: empty voxels, data to 1e-3 sigma, variance to 1e-4, each on 99.9 % of the voxels."""
    assert maps["flux"].shape == peer.data.shape
    found = disagreement(maps["flux"], maps["variance"], peer, where)
    assert max(found.empty, found.data, found.variance) <= share, str(found)


def assert_same_grid(grid, peer, pixels=1e-6):
    """The grids are the same to a millionth of a voxel."""
    other = peer.grid
    assert grid.shape == other.shape
    assert (grid.log, grid.vacuum) == (other.log, other.vacuum)
    np.testing.assert_allclose(grid.crval, other.crval, rtol=0, atol=pixels * 0.2 / 3600)
    np.testing.assert_allclose(grid.crpix, other.crpix, rtol=0, atol=pixels)
    np.testing.assert_allclose(grid.cd, other.cd, rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(grid.wavelengths, other.wavelengths, rtol=1e-12)


def sky_rows(paths, table, weights, grid):
    """Rows as the recipe places them on the grid of its cube: float32 positions relative to the first
    exposure.

    Parameters
    ----------
    paths : list of Path
        Pixel tables, earliest first.
    table : OffsetTable
    weights : sequence of float

    Returns
    -------
    rows : reference.Rows
    step_deg : tuple of float
        Sides of the pixels of the first exposure.
    """
    parts, first, step_deg = [], None, None
    for n, path in enumerate(paths):
        with fits.open(path) as hdus:
            header = hdus[0].header
            columns = {hdu.name.lower(): hdu.data[:, 0] for hdu in hdus[1:]}
        offset = table.lookup(header["DATE-OBS"]) or Offset()
        pointing = offset.pointing(header["RA"], header["DEC"])
        ra, dec = eso_positions(columns["xpos"], columns["ypos"], *pointing, first)
        if first is None:
            first = pointing
            step_deg = [math.hypot(header[f"CD{axis}_1"], header[f"CD{axis}_2"]) for axis in (1, 2)]
        scale = np.float64(offset.flux_scale)
        ra, dec = ra.astype(np.float64) + first[0], dec.astype(np.float64) + first[1]
        px, py = pixel_of_sky(grid, ra, dec)
        wavelength = columns["lambda"].astype(np.float32)
        data, variance = (columns["data"] * scale).astype(np.float32), columns["stat"] * scale * scale
        dq = columns["dq"].astype(np.int64).astype(np.uint32)
        count = len(data)
        parts.append(
            (px, py, grid.plane_of(wavelength), wavelength, data, variance.astype(np.float32), dq)
            + (np.full(count, n), np.full(count, np.float32(weights[n]), float), ra, dec)
        )
    return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True))), step_deg
