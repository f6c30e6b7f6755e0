"""What becomes of images, maps and depth while the planes of a cube pass by."""

import math

import numpy as np

from musedeep.depth import BOX_PIXELS, DepthSums, flux_peak
from musedeep.images import ImageSum, MapMean
from musedeep.keywords import set_card
from musedeep.muse import FLUX_UNIT
from musedeep.products.files import MAPS, image_name

__all__ = ["MEASURED", "CubeSums"]

_QC = "ESO QC DEEP"
#: Keywords that are known when the whole cube was read, in the order in which they are written.
MEASURED = {
    "PIXNOISE": "[erg.s**(-1).cm**(-2).angstrom**(-1)] of a voxel",
    "ABMAGLIM": "[mag] 5 sigma limit of point sources (AB)",
    f"{_QC} ABMAGLIM LOC": "[mag] in boxes, median area",
    f"{_QC} ABMAGLIM BOX": "[pix] side of the boxes",
    f"{_QC} PIXNOISE ESO": "[1e-20] in ESO's bins",
    f"{_QC} HISTO MODE": "peak of the fluxes",
    f"{_QC} HISTO 17": "fallen by 1.7 dex below",
    f"{_QC} HISTO SIGMA": "width of the peak",
    f"{_QC} EXPTIME PIPE": "[s] as muse_exp_combine",
}
# Spaxels of a full field of view, as muse_exp_combine counts them.
_FIELD_SPAXELS = {"WFM": (60.0 / 0.2) ** 2, "NFM": (7.43 / 0.025) ** 2}


class CubeSums:
    """Sums over the planes of a cube, fed slab by slab.

    Parameters
    ----------
    grid : VoxelGrid
    curves : list of Filter
        Of the images to make; the maps take the planes inside the first one.
    unit : str
        Of the cube.
    """

    def __init__(self, grid, curves, unit):
        shape = grid.shape[1:]
        self._grid, self._unit = grid, unit
        self._throughputs = [curve.throughput_at(grid.wavelengths) for curve in curves]
        self._images = {image_name(curve): ImageSum(shape) for curve in curves}
        self._maps = {variable: MapMean(shape) for variable in MAPS}
        self._depth = DepthSums(shape)
        inside = self._throughputs[0] > 0 if curves else np.ones(grid.shape[0], bool)
        # A cube that lies outside the filter altogether still has a depth to tell.
        self._inside = inside if inside.any() else ~inside

    def add(self, start, slab, covered):
        """Add planes.

        Parameters
        ----------
        start : int
            Index of the first of them.
        slab : dict of ndarray, shape (n, ny, nx)
            Variables of the cube store.
        covered : ndarray, shape (n,), bool
            Which of them hold data.
        """
        planes = slice(start, start + len(covered))
        for total, throughput in zip(self._images.values(), self._throughputs, strict=True):
            total.add(slab["flux"], slab["variance"], throughput[planes])
        for variable, total in self._maps.items():
            total.add(slab[variable], covered & self._inside[planes])
        self._depth.add(slab["flux"], slab["variance"])

    def write(self, files):
        """Write images and maps, and what was measured into the headers.

        Parameters
        ----------
        files : dict of FitsStream
            By their plain names.

        Returns
        -------
        list of str
            Keywords of `MEASURED` that could not be measured.
        """
        images = {name: total.image() for name, total in self._images.items()}
        for name, (image, variance) in images.items():
            files[name].write(1, 0, image)
            files[name].write(2, 0, variance)
        for variable, (name, _, _, how) in MAPS.items():
            total = self._maps[variable]
            files[name].write(1, 0, total.mean() if how == "mean" else total.total())
            files[name].headers[0]["ESO DRS MUSE DEEP NPLANES"] = total.planes
        seconds = self._maps["exposure_time"].mean()
        seen = seconds[seconds > 0]
        for file in files.values():
            header = file.headers[0]
            header["EXPTIME"] = min(float(np.median(seen)), header["TEXPTIME"]) if len(seen) else 0.0
        header = files["DATACUBE_DEEP"].headers[0]
        mean = self._depth.mean_image()
        depth = self._depth.depth(
            header["SKY_RES"] / max(self._grid.step_arcsec), (header["WAVELMIN"], header["WAVELMAX"])
        )
        # Fluxes in other units have no magnitudes.
        files["DEPTH_MAP"].write(1, 0, depth.local.map(np.isfinite(mean) & (self._unit == FLUX_UNIT)))
        values = self._measured(depth, next(iter(images.values()), (mean, None))[0])
        values[f"{_QC} EXPTIME PIPE"] = _pipeline_seconds(header, images)
        return _set_values(header, values)

    def _measured(self, depth, image):
        peak = flux_peak(image)
        values = {
            f"{_QC} HISTO MODE": peak.mode,
            f"{_QC} HISTO 17": peak.histo_17,
            f"{_QC} HISTO SIGMA": peak.sigma,
        }
        if self._unit == FLUX_UNIT:
            values |= {
                "PIXNOISE": depth.pixel_sigma * 1e-20,
                "ABMAGLIM": depth.limit,
                f"{_QC} ABMAGLIM LOC": depth.local.median,
                f"{_QC} ABMAGLIM BOX": BOX_PIXELS,
                f"{_QC} PIXNOISE ESO": depth.eso_pixel_sigma,
            }
        return values


def _pipeline_seconds(header, images):
    """EXPTIME as muse_exp_combine has it: all exposures spread evenly over the spaxels that were seen."""
    if header["NCOMBINE"] == 1:
        return header["TEXPTIME"]
    seen = max((int(np.isfinite(image).sum()) for image, _ in images.values()), default=0)
    field = _FIELD_SPAXELS.get(str(header.get("ESO INS MODE", ""))[:3], _FIELD_SPAXELS["WFM"])
    return header["TEXPTIME"] * field / seen if seen else math.nan


def _set_values(header, values):
    """Fill in what is known, and take out what is not."""
    unknown = []
    for key in MEASURED:
        value = values.get(key, math.nan)
        if math.isfinite(value):
            value = float(f"{value:.7g}") if key.startswith(_QC) else value
            set_card(header, key, value, MEASURED[key])
        else:
            del header[key]
            unknown.append(key)
    return unknown
