"""What rules of rejection find, what they lose, and what they leave of the cores of stars.

    python benchmarks/rejection.py
    python benchmarks/rejection.py --exposures 16 --output rejection

Exposures of 14 arcsec and 60 Angstrom are simulated twice. Those with cosmic rays, in tracks of 1 to 10
pixels on 0.2 % of the rows, tell which share of the rows that got so many sigma is rejected, on the sky and
within 0.6 arcsec of stars of a signal to noise ratio of 30 a row, and which share of the rows on the sky that
got none is lost. Those without tell what is left of the flux within 0.4 arcsec of stars of ratios of 50 and
500. Seeing is "even", 0.6 to 1.2 arcsec, or "mixed": 1.0 arcsec, and 0.6 in three of sixteen exposures.

MPDAF clips cubes, one an exposure. A row counts as rejected by it with the voxel of its exposure that it
falls on, and as free of cosmic rays where none fell on the 27 voxels around.
"""

import sys
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
from harness import Report, carry_out, command_line
from mpdaf import obj
from scipy.ndimage import maximum_filter

# the tests measure the same on the same kind of exposures
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from truth.stacks import STAR_PLACES, mixed_seeing, simulated, stars  # noqa: E402

RATIOS = (50, 500, 50, 500, 50, 500, 50, 500)
FAINT = stars(30, places=STAR_PLACES[1::2])
CORE_ARCSEC, NEAR_ARCSEC = 0.4, 0.6
RAYS = {"cosmic_ray_rate": 0.002, "cosmic_ray_length": (1, 10), "cosmic_ray_sigma": (5.5, 20.0)}
SEEING = ("even", "mixed")
RULES = {
    "guarded": {},
    "guarded, coherence 0": {"coherence": 0},
    "eso": {"reject": "eso"},
}
CLIP = "MPDAF, MAD"
# What is promised of the default rule on 16 exposures, in percent.
LEAST_FOUND = {"at 8": 97.0, "from 12": 99.9}
MOST_LOST, LEAST_KEPT = 0.01, 99.8


class Stacks:
    """Two stacks of the same seeing: one with cosmic rays, one with bright stars.

    Parameters
    ----------
    folder : Path
    seeing : str
        One of `SEEING`.
    exposures : int
        How many are simulated; rules are tried on some or all of them.
    """

    def __init__(self, folder, seeing, exposures):
        self.sharp = _sharp(exposures) if seeing == "mixed" else 0
        fwhm = mixed_seeing(exposures, self.sharp) if self.sharp else (0.6, 1.2)
        settings = {"exposures": exposures, "seeing_fwhm": fwhm}
        self.struck = simulated(folder / "struck", sources=FAINT, **RAYS, **settings)
        self.quiet = simulated(folder / "quiet", sources=stars(RATIOS), cosmic_ray_rate=0, **settings)
        self.total = exposures

    @cached_property
    def near_stars(self):
        """Spaxels near the stars of the stack with cosmic rays; bool ndarray (ny, nx)."""
        places = self.struck.star_places
        return np.any([self.struck.aperture(place, NEAR_ARCSEC) for place in places], axis=0)

    def some(self, exposures):
        """Numbers of some exposures, of which as large a share is sharp as of all; list of int."""
        sharp = _sharp(exposures) if self.sharp else 0
        return [*range(exposures - sharp), *range(self.total - sharp, self.total)]

    def judge(self, rule, numbers):
        """Which rows among cosmic rays a rule rejects, and which are free of them; bool ndarrays (n,)."""
        rows = self.struck.rows
        free = rows.ray == 0
        if rule != CLIP:
            dates = [self.struck.dates[n] for n in numbers]
            return self.struck.rejected(select=dates, **RULES[rule]), free
        place = (rows.exposure, rows.plane, rows.y, rows.x)
        used = np.isin(rows.exposure, numbers)
        clipped = np.zeros((self.total, *self.struck.grid.shape), bool)
        cubes = self.cubes(self.struck, numbers)
        clipped[numbers] = np.isfinite(cubes) & ~kept_by_clipping(cubes)
        hit = np.zeros_like(clipped)
        hit[tuple(axis[~free] for axis in place)] = True
        return clipped[place] & used, ~maximum_filter(hit, (1, 3, 3, 3))[place]

    def cores(self, rule, numbers):
        """Percent of the flux of the stars' cores that a rule leaves; ndarray (stars,)."""
        if rule != CLIP:
            dates = [self.quiet.dates[n] for n in numbers]
            return 100 * self.quiet.cores(radius_arcsec=CORE_ARCSEC, select=dates, **RULES[rule])
        cubes = self.cubes(self.quiet, numbers)
        clipped = np.where(kept_by_clipping(cubes), cubes, np.nan)
        before, after = (self.quiet.fluxes(mean_of(cube), CORE_ARCSEC) for cube in (cubes, clipped))
        return 100 * after / before

    def cubes(self, stack, numbers):
        """Flux of single exposures; ndarray (n, nz, ny, nx)."""
        return np.stack([stack.flux(select=[stack.dates[n]], reject="none") for n in numbers])


def _sharp(exposures):
    return max(round(3 * exposures / 16), 1)


def mean_of(cubes):
    """Mean over the exposures, 0 where there is no value."""
    return np.nansum(cubes, axis=0) / np.maximum(np.isfinite(cubes).sum(axis=0), 1)


def kept_by_clipping(cubes):
    """Which values MPDAF's clipping keeps, as its ``CubeList.combine(nmax=2, nclip=5, mad=True)`` does.

    Parameters
    ----------
    cubes : ndarray (n, nz, ny, nx)

    Returns
    -------
    ndarray (n, nz, ny, nx) of bool
    """
    kept = np.isfinite(cubes)
    for _ in range(2):
        left = np.where(kept, cubes, np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of voxels without a value
            middle = np.nanmedian(left, axis=0)
            scale = 1.4826 * np.nanmedian(np.abs(left - middle), axis=0)
        near = kept & (np.abs(cubes - middle) < 5.0 * scale)
        kept = np.where(near.sum(axis=0) >= 2, near, kept)
    return kept


def share_as_in_mpdaf(cubes, grid, folder):
    """Share of the voxels in which MPDAF itself keeps as many values as `kept_by_clipping`."""
    folder.mkdir()
    frame = {"wcs": obj.WCS(grid.wcs.celestial.to_header()), "wave": obj.WaveCoord(cunit="Angstrom")}
    names = []
    for n, cube in enumerate(cubes):
        names.append(str(folder / f"{n:02d}.fits"))
        obj.Cube(data=np.ma.masked_invalid(cube), var=np.ones_like(cube), **frame).write(names[-1])
    count = obj.CubeList(names).combine(nmax=2, nclip=5.0, mad=True)[1].data.filled(0)
    return float(np.mean(count == kept_by_clipping(cubes).sum(axis=0)))


def measure_rule(report, stacks, seeing, exposures, rule):
    """Add a rule on some exposures to the report, and compare it with what is promised of the default."""
    numbers = stacks.some(exposures)
    rows, dates = stacks.struck.rows, [stacks.struck.dates[n] for n in numbers]
    rejected, free = stacks.judge(rule, numbers)
    used = stacks.struck.at_rows(stacks.struck.depth(select=dates) >= exposures / 2)
    used &= np.isin(rows.exposure, numbers)
    sky = used & stacks.struck.at_rows(stacks.struck.sky)
    near = used & stacks.struck.at_rows(stacks.near_stars)
    chosen = {
        "at 6": sky & (np.abs(rows.ray - 6) < 0.5),
        "at 8": sky & (np.abs(rows.ray - 8) < 0.5),
        "from 12": sky & (rows.ray >= 12),
        "on stars": near & (rows.ray >= 12),
        "lost": sky & free,
    }
    shares = {name: float(100 * rejected[part].mean()) for name, part in chosen.items()}
    cores = stacks.cores(rule, numbers)
    kept = {f"core {ratio}": float(cores[np.equal(RATIOS, ratio)].min()) for ratio in (50, 500)}
    report.add(seeing=seeing, exposures=exposures, rule=rule, **shares, **kept)
    if rule == "guarded" and exposures == 16:
        if any(shares[name] < least for name, least in LEAST_FOUND.items()):
            report.fail(f"Of the cosmic rays {LEAST_FOUND} % are promised ({seeing} seeing).")
        if shares["lost"] > MOST_LOST or min(kept.values()) < LEAST_KEPT:
            report.fail(f"{MOST_LOST} % lost and {LEAST_KEPT} % of cores are promised ({seeing} seeing).")


def measure_all(options, folder):
    """All rules on all fields; they are told, and nothing is promised."""
    report = Report("Rejection: rows found and lost, and cores of stars kept, in percent")
    for seeing in SEEING:
        stacks = Stacks(folder / seeing, seeing, max(options.exposures))
        for exposures in options.exposures:
            for rule in (*RULES, CLIP):
                measure_rule(report, stacks, seeing, exposures, rule)
    cubes = stacks.cubes(stacks.struck, stacks.some(min(options.exposures)))
    alike = 100 * share_as_in_mpdaf(cubes, stacks.struck.grid, folder / "mpdaf")
    report.note(f"In {alike:.4f} % of the voxels MPDAF itself keeps as many values as its rule here.")
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--exposures", type=int, nargs="*", default=[3, 4, 6, 8, 12, 16, 32])
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
