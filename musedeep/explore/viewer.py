"""Look at a deep cube in a browser: slices, white light, and the spectrum under the cursor."""

import html
import json
import secrets
import threading
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

import numpy as np

from musedeep.correlation import sum_variance
from musedeep.errors import MuseDeepError
from musedeep.picture import stored_place

__all__ = ["Viewer", "view"]

_SHOWN = ("flux", "variance", "exposure_count", "exposure_time", "rejected_count", "weight")
_WIDEST = 20  # spaxels of an aperture's radius
_WHITE_PLANES = 64  # that white light is made of in a long cube


def view(deep):
    """Look at a deep cube, or a cut of it, in a browser.

    A small server is started on this machine alone (127.0.0.1, a free port, under a secret path), which reads
    what the page asks for from the cube. In a notebook the page stands below the cell; elsewhere open
    ``url``. It ends with Python, or with ``close``.

    Parameters
    ----------
    deep : xarray.Dataset

    Returns
    -------
    Viewer
    """
    return Viewer(deep)


def _without_dask(deep):
    """The same cube such that a plane is read without the whole blocks that hold it."""
    import xarray

    from musedeep.objects import place_of
    from musedeep.store.common import zarr_place

    stored = stored_place(deep)
    if stored is None:
        return deep
    path, places = stored
    data = xarray.open_zarr(zarr_place(place_of(path)), chunks=None, consolidated=False)
    return data.isel(dict(zip(("wavelength", "y", "x"), places, strict=True)))


class Viewer:
    """A page that shows a deep cube; made by `view`.

    Attributes
    ----------
    url : str
        The page. ``#x=10&y=12&k=20`` behind it chooses spaxel and plane.
    noise : str
        ``"correlated"`` where spectra count what neighbouring spaxels share, as ``deep.muse.spectrum`` does;
        ``"independent"`` as long as the correlation is being measured (some seconds), and where the field of
        the cube is not there to measure it.
    """

    def __init__(self, deep):
        self._deep = _without_dask(deep)
        self._grid = deep.muse.grid
        path = f"/{secrets.token_urlsafe(16)}/"
        self._read_plane = lru_cache(maxsize=32)(self._plane)
        self._correlation = {}
        self.noise = "independent"
        threading.Thread(target=self._measure_noise, args=[deep], daemon=True).start()
        handler = type("Handler", (_Handler,), {"viewer": self, "path_prefix": path})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}{path}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _measure_noise(self, deep):
        with suppress(MuseDeepError):
            self._correlation = deep.muse.correlation
            self.noise = "correlated"

    def close(self):
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def __repr__(self):
        return f"<view of a cube of {self._grid.shape} voxels at {self.url}>"

    def _repr_html_(self):
        return f'<iframe src="{html.escape(self.url)}" width="100%" height="820" style="border:0"></iframe>'

    def page(self):
        """The page itself; str."""
        facts = {
            "shape": self._grid.shape,
            "wavelengths": self._grid.wavelengths.tolist(),
            "variables": [name for name in _SHOWN if name in self._deep],
            "unit": self._deep.attrs.get("unit", ""),
            "title": self._deep.attrs.get("field") or "Deep cube",
        }
        text = files("musedeep.explore").joinpath("view.html").read_text()
        # a name from a file must not end the script
        return text.replace("/*FACTS*/null", json.dumps(facts).replace("<", "\\u003c"))

    def _plane(self, variable, k):
        return self._deep[variable].isel(wavelength=k).values.astype("<f4").tobytes()

    def white(self):
        """White light; bytes of float32."""
        step = max(1, self._grid.shape[0] // _WHITE_PLANES)
        return (
            self._deep.flux.isel(wavelength=slice(None, None, step))
            .mean("wavelength")
            .values.astype("<f4")
            .tobytes()
        )

    def plane(self, variable, k):
        """A plane of a variable; bytes of float32."""
        if variable not in _SHOWN or variable not in self._deep or not 0 <= k < self._grid.shape[0]:
            raise ValueError(f"there is no plane {k} of {variable}")
        return self._read_plane(variable, k)

    def spectrum(self, x, y, radius):
        """Mean flux of the spaxels in a circle, then its sigma, see `noise`; bytes of float32."""
        _, ny, nx = self._grid.shape
        if not (0 <= x < nx and 0 <= y < ny and 0 <= radius <= _WIDEST):
            raise ValueError(f"there is no aperture of radius {radius} at x = {x}, y = {y}")
        reach = int(radius)
        ys, xs = slice(max(y - reach, 0), y + reach + 1), slice(max(x - reach, 0), x + reach + 1)
        part = self._deep[["flux", "variance"]].isel(y=ys, x=xs).compute()
        j, i = np.mgrid[ys.start : ys.start + part.sizes["y"], xs.start : xs.start + part.sizes["x"]]
        inside = np.hypot(j - y, i - x) <= max(radius, 0.5)
        flux = part.flux.values[:, inside]
        count = np.isfinite(flux).sum(axis=1)
        each = np.where(inside & np.isfinite(part.variance.values), np.sqrt(part.variance.values), 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(flux, axis=1, dtype=float) / count
            sigma = np.sqrt(sum_variance(each.astype(float), self._correlation, (1, 2))) / count
        return np.concatenate([mean, sigma]).astype("<f4").tobytes()

    def sky(self, x, y):
        """RA and Dec [degrees] of a spaxel; JSON."""
        return json.dumps(self._grid.position(x, y)).encode()


class _Handler(BaseHTTPRequestHandler):
    """Answers the page's questions, and nobody else's."""

    viewer, path_prefix = None, ""

    def do_GET(self):  # noqa: N802  (the name that http.server calls)
        parts = urlsplit(self.path)
        if not parts.path.startswith(self.path_prefix):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            kind, body = self._answer(parts.path.removeprefix(self.path_prefix), asked)
        except (KeyError, ValueError) as error:
            self.send_error(HTTPStatus.BAD_REQUEST, explain=str(error))
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Noise", self.viewer.noise)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, name, asked):
        viewer, numbers = self.viewer, "application/octet-stream"
        if name == "":
            return "text/html; charset=utf-8", viewer.page().encode()
        if name == "white":
            return numbers, viewer.white()
        if name == "plane":
            return numbers, viewer.plane(asked["variable"], int(asked["k"]))
        if name == "spectrum":
            return numbers, viewer.spectrum(int(asked["x"]), int(asked["y"]), float(asked["radius"]))
        if name == "sky":
            return "application/json", viewer.sky(int(asked["x"]), int(asked["y"]))
        raise ValueError(f"there is nothing called {name!r}")

    def log_message(self, format, *args):
        """Keep the notebook quiet."""
