"""Every setting of a field, declared once: name, default, allowed values and help.

``field.toml``, the keyword arguments of the Python functions and the options of the command line are all made
from the declarations below, so a setting that is added here exists everywhere.
"""

import dataclasses
import difflib
from dataclasses import dataclass

from musedeep.errors import UsageError
from musedeep.kinds import (
    Choice,
    ChoiceOrNumber,
    ChoiceOrPath,
    FilePath,
    Memory,
    Number,
    Numbers,
    Place,
    Selection,
    StorePlace,
    Switch,
    Text,
    Words,
    memory_bytes,
)

__all__ = [
    "SECTIONS",
    "AlignSettings",
    "CombineSettings",
    "GridSettings",
    "Mask",
    "ProductSettings",
    "QualitySettings",
    "RunSettings",
    "Settings",
    "setting_fields",
]


def _setting(default, kind, text):
    return dataclasses.field(default=default, metadata={"kind": kind, "help": text})


def _dq_names():
    from musedeep.muse import DQ_BITS

    return tuple(DQ_BITS)


class _Section:
    """Checks and normalises every value as it is set."""

    def __post_init__(self):
        for item in dataclasses.fields(self):
            value = item.metadata["kind"].check(item.name, getattr(self, item.name))
            object.__setattr__(self, item.name, value)


@dataclass(frozen=True)
class GridSettings(_Section):
    """The output grid."""

    grid: str = _setting(
        "data",
        ChoiceOrPath("data", "eso"),
        "output grid: 'data' keeps every row, 'eso' as muse_exp_combine, or a FITS file with the WCS",
    )
    dx: float = _setting(0.0, Number(low=0), "voxel size along x in arcsec (0: the instrument's)")
    dy: float = _setting(0.0, Number(low=0), "voxel size along y in arcsec (0: the instrument's)")
    dlambda: float = _setting(0.0, Number(low=0), "wavelength step in Angstrom (0: 1.25, with log 0.78125)")
    log: bool = _setting(False, Switch(), "logarithmic wavelength axis")
    vacuum: bool = _setting(False, Switch(), "wavelengths in vacuum instead of air")
    rotation: str | float = _setting(
        "north",
        ChoiceOrNumber("north", "minimise"),
        "direction of y: 'north', 'minimise' for the least empty area, or degrees east of north",
    )


@dataclass(frozen=True)
class CombineSettings(_Section):
    """How the rows of all exposures become one cube."""

    resample: str = _setting(
        "drizzle",
        Choice("drizzle", "nearest", "linear", "quadratic", "renka", "lanczos"),
        "resampling method",
    )
    pixfrac: tuple = _setting(
        (0.6, 0.6, 0.6),
        Numbers(1, 3, above=0, most=10, spread=lambda v: v * 3 if len(v) == 1 else (v[0], *v)[-3:]),
        "drizzle: size of a row in units of its pixel; one value, 'spatial,spectral', or 'x,y,lambda'",
    )
    ld: int = _setting(
        0, Number(low=0, high=16, integer=True), "loop distance in voxels (0: as far as needed)"
    )
    rc: float = _setting(1.25, Number(above=0), "renka: critical radius in units of the voxel diagonal")
    lambdamin: float = _setting(4000.0, Number(low=0), "rows below this wavelength in Angstrom are left out")
    lambdamax: float = _setting(10000.0, Number(low=0), "rows above this wavelength in Angstrom are left out")
    weight: str = _setting(
        "exptime",
        ChoiceOrPath("exptime", "fwhm", "header", "none", "column"),
        "weight of an exposure: a scheme, or a table (CSV or ECSV) with the columns DATE_OBS and WEIGHT",
    )
    offsets: str = _setting(
        "auto",
        ChoiceOrPath("auto", "none"),
        "offsets and flux scales: an OFFSET_LIST or ECSV table, 'auto' for offsets.fits of the field, which "
        "`run` measures, or 'none'",
    )
    reject: str = _setting("guarded", Choice("guarded", "eso", "none"), "outlier rejection rule")
    nclip: tuple = _setting(
        (4.0, 4.0),
        Numbers(1, 2, above=0, spread=lambda v: v * 2 if len(v) == 1 else v),
        "guarded: clip below and above, in units of 1.4826 MAD; one value or 'low,high'",
    )
    nmax: int = _setting(1, Number(low=1, high=20, integer=True), "guarded: largest number of rounds")
    nkeep: int = _setting(0, Number(low=0, integer=True), "guarded: least number of rows a voxel keeps")
    gradient: float = _setting(0.5, Number(low=0), "guarded: weight of the gradient term (0 switches it off)")
    coherence: float = _setting(2.0, Number(low=0), "guarded: coherence guard of sharper exposures (0: off)")
    sample: str = _setting("auto", Choice("auto", "own", "27"), "guarded: voxels that a row is judged by")
    trails: float = _setting(
        0.0,
        Number(low=0),
        "guarded: sigma that an exposure is off along a trail (0: keep its wings)",
    )
    crtype: str = _setting("median", Choice("median", "mean", "iraf"), "eso: statistics of the rejection")
    crsigma: float = _setting(10.0, Number(low=0), "eso: rejection threshold (0 switches rejection off)")
    select: str | tuple = _setting(
        "all",
        Selection(),
        "exposures: 'all', DATE-OBS values, 'half:A', 'half:B', 'every:K', 'night:odd', 'night:even', "
        "'ob:NAME' or 'without=DATE-OBS,...'",
    )
    keep_dq: tuple = _setting((), Words(_dq_names), "DQ bits that do not make a row bad")

    def __post_init__(self):
        super().__post_init__()
        if not self.lambdamin < self.lambdamax:
            raise UsageError(
                f"lambdamin = {self.lambdamin:g} is not below lambdamax = {self.lambdamax:g}; no row is left"
            )


@dataclass(frozen=True)
class AlignSettings(_Section):
    """How offsets and flux scales of the exposures are measured; muse_exp_align's options by their names."""

    preset: str = _setting(
        "auto",
        Choice("auto", "normal", "crowded", "extended"),
        "kind of field: 'auto' looks at it and says why",
    )
    images: str = _setting("", FilePath(), "folder with IMAGE_FOV files (empty: made of the pixel tables)")
    band: str = _setting("white", Text("a name"), "filter of the images: white, or one of filter_list")
    reference: str = _setting(
        "", FilePath(), "catalogue (RA, Dec[, mag]) or image to align with (empty: the first exposure)"
    )
    fit_rotation: bool = _setting(False, Switch(), "measure a rotation of every exposure too")
    fit_scale: bool = _setting(True, Switch(), "measure the flux scale of every exposure")
    scale_limit: float = _setting(
        5.0, Number(low=1), "exposures whose flux scale is off by more than this factor are left out"
    )
    unsolved: str = _setting(
        "header",
        Choice("header", "omit"),
        "exposures without a solution: kept where the header says, or left out",
    )
    rsearch: tuple = _setting(
        (30.0, 4.0, 2.0, 0.8),
        Numbers(1, 20, above=0),
        "search radii in arcsec: the first is the largest error of a header, the last that of matches",
    )
    nbins: int = _setting(60, Number(low=2, integer=True), "bins along each axis of the first search")
    weight: bool = _setting(True, Switch(), "weigh sources by their errors")
    fwhm: float = _setting(5.0, Number(low=0.5), "FWHM of the detection kernel in pixels")
    threshold: float = _setting(
        -60.0, Number(), "first detection threshold: above 0 in units of the image, else in units of its MAD"
    )
    bkgignore: float = _setting(0.05, Number(low=0, high=0.9), "darkest fraction of pixels to ignore")
    bkgfraction: float = _setting(0.10, Number(above=0, high=1), "fraction of the others that is background")
    step: float = _setting(0.5, Number(above=0), "step of the threshold in units of the image")
    iterations: int = _setting(100000, Number(low=1, integer=True), "most steps of the threshold")
    srcmin: int = _setting(5, Number(low=1, integer=True), "fewest sources of an image")
    srcmax: int = _setting(80, Number(low=1, integer=True), "most sources of an image")
    roundmin: float = _setting(-1.0, Number(), "least roundness")
    roundmax: float = _setting(1.0, Number(), "largest roundness")
    sharpmin: float = _setting(0.2, Number(above=0), "least sharpness")
    sharpmax: float = _setting(1.0, Number(above=0), "largest sharpness")
    bpixdistance: float = _setting(5.0, Number(low=0), "least distance of a source to a bad pixel, pixels")
    expmap: bool = _setting(False, Switch(), "write a map of the exposure time of the aligned images too")
    override_detection: str = _setting(
        "", FilePath(), "table of sources (DATE_OBS, X, Y) to measure instead of those detected"
    )

    def __post_init__(self):
        super().__post_init__()
        for low, high in (("srcmin", "srcmax"), ("roundmin", "roundmax"), ("sharpmin", "sharpmax")):
            if getattr(self, low) > getattr(self, high):
                found = f"{low} = {getattr(self, low):g} is above {high} = {getattr(self, high):g}"
                raise UsageError(f"{found}; no source is left")


@dataclass(frozen=True)
class ProductSettings(_Section):
    """What is written to the products folder."""

    filter: tuple = _setting(
        ("white",), Words(), "images to make: white, or filters of filter_list; none for no image"
    )
    filter_list: str = _setting("", FilePath(), "throughput curves of the filters: a FILTER_LIST")
    extensions: tuple = _setting(
        (),
        Words(lambda: ("exposure_count", "exposure_time", "rejected_count", "weight")),
        "maps to add to the FITS cube as extensions",
    )
    names: str = _setting(
        "plain", Choice("plain", "origfile"), "file names: 'plain', or those of ESO's archive (MU_SCBD_...)"
    )
    publication: str = _setting(
        "", Text("a bibcode or 'doi:...'"), "bibcode or DOI of the paper about the data (REFERENC)"
    )
    raw_suffix: bool = _setting(
        False, Switch(), "keep the ending .fits of raw files in PROVi, as ESO's pipeline does"
    )


@dataclass(frozen=True)
class QualitySettings(_Section):
    """How the quality of a field is assessed."""

    thresholds: str = _setting(
        "",
        FilePath(),
        "thresholds of the diagnostics: a changed copy of qc/thresholds.toml (empty: those of musedeep)",
    )
    assess: str = _setting(
        "quick",
        Choice("quick", "full", "off"),
        "'full' also maps what was rejected of every exposure, which takes as long as the combination",
    )
    proprietary_months: float = _setting(
        12.0, Number(low=0), "how long an exposure belongs to its PI, for the ACCESS of the product"
    )


@dataclass(frozen=True)
class RunSettings(_Section):
    """The resources of a run; they never change a result."""

    memory: str = _setting("4GB", Memory(), "memory that each worker process may use")
    workers: int = _setting(
        0, Number(low=0, integer=True), "workers: processes, or threads in one process (0: cores)"
    )
    threads: int = _setting(1, Number(low=1, integer=True), "threads of each worker process")
    pixel_store: str = _setting(
        "", StorePlace(), "object storage for the pixel store, s3://BUCKET/NAME (empty: the field's folder)"
    )
    cube_store: str = _setting(
        "", StorePlace(), "object storage for the cube store, s3://BUCKET/NAME (empty: the field's folder)"
    )
    cluster: str = _setting(
        "threads",
        Place(),
        "where to compute: 'threads', 'processes', and on the command line also a preset (.yaml), a "
        "scheduler's address (tls://...) or its scheduler file (.json)",
    )

    @property
    def memory_bytes(self):
        """The memory of each worker process in bytes."""
        return memory_bytes(self.memory)


@dataclass(frozen=True)
class Mask(_Section):
    """Rows to leave out: those that meet every condition given here."""

    exposures: tuple = _setting((), Words(), "DATE-OBS of the exposures (empty: all)")
    ifu: tuple = _setting((), Numbers(0, 24, low=1, most=24, integer=True), "IFUs, 1 to 24")
    slice: tuple = _setting((), Numbers(0, 48, low=1, most=48, integer=True), "slices, 1 to 48")
    wavelength: tuple = _setting((), Numbers(0, 2, above=0), "wavelength range in Angstrom: low and high")
    region: str = _setting("", Text("a DS9 region in fk5 or icrs coordinates"), "sky region as DS9 writes it")
    dq: tuple = _setting((), Words(_dq_names), "DQ bits")
    note: str = _setting("", Text("any text"), "why these rows are left out")

    def __post_init__(self):
        super().__post_init__()
        if len(self.wavelength) == 1 or (self.wavelength and not self.wavelength[0] < self.wavelength[1]):
            raise UsageError(
                f"mask: wavelength = {list(self.wavelength)} is not allowed: give [low, high], low first"
            )
        if not (self.exposures or self.ifu or self.slice or self.wavelength or self.region or self.dq):
            raise UsageError(
                "mask: names no rows; give one or more of exposures, ifu, slice, wavelength, region, dq"
            )


SECTIONS = {
    "grid": GridSettings,
    "combine": CombineSettings,
    "align": AlignSettings,
    "products": ProductSettings,
    "qc": QualitySettings,
    "run": RunSettings,
}


def setting_fields():
    """Iterate over all settings.

    Yields
    ------
    (str, dataclasses.Field)
        Name of the section and the declaration; ``metadata`` holds ``kind`` and ``help``.
    """
    for section, kind in SECTIONS.items():
        for item in dataclasses.fields(kind):
            yield section, item


# A name that two sections have means that of the first one; the other is reached by its section.
_HOME = {item.name: section for section, item in reversed(list(setting_fields()))}


def _unknown(name, known, where):
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    if name in _HOME and name not in known:
        hint = f"; it belongs in [{_HOME[name]}]."
    return UsageError(f"unknown setting {name!r}{where}{hint} Known are: {', '.join(sorted(known))}")


@dataclass(frozen=True)
class Settings:
    """All settings of a field, checked.

    Attributes
    ----------
    grid, combine, align, products, qc, run : the settings of each section
    masks : tuple of Mask
        Rows to leave out when combining.
    """

    grid: GridSettings = dataclasses.field(default_factory=GridSettings)
    combine: CombineSettings = dataclasses.field(default_factory=CombineSettings)
    align: AlignSettings = dataclasses.field(default_factory=AlignSettings)
    products: ProductSettings = dataclasses.field(default_factory=ProductSettings)
    qc: QualitySettings = dataclasses.field(default_factory=QualitySettings)
    run: RunSettings = dataclasses.field(default_factory=RunSettings)
    masks: tuple = ()

    @classmethod
    def from_dict(cls, data, folder=None):
        """Settings from the sections of a field.toml, or from `to_dict`.

        Parameters
        ----------
        data : dict
            ``{"grid": {...}, "combine": {...}, "align": {...}, "products": {...}, "run": {...}, "mask":
            [{...}]}``; what is missing keeps its default.
        folder : Path, optional
            Relative file names are taken from here; without it, from the current folder.

        Raises
        ------
        UsageError
            A section or a setting is unknown (the nearest known one is named), or a value is not allowed.
        """
        known = [*SECTIONS, "mask"]
        for name in data:
            if name not in known:
                raise _unknown(name, known, " (a section)")
        sections = {
            name: kind(**_resolved(kind, data.get(name, {}), f" in [{name}]", folder))
            for name, kind in SECTIONS.items()
        }
        masks = tuple(Mask(**_resolved(Mask, item, " in [[mask]]", folder)) for item in data.get("mask", ()))
        return cls(**sections, masks=masks)

    def to_dict(self):
        """Sections and values as plain lists, strings and numbers, in the form that `from_dict` takes."""
        data = {name: _plain(getattr(self, name)) for name in SECTIONS}
        defaults = {item.name: item.default for item in dataclasses.fields(Mask)}
        if self.masks:
            data["mask"] = [
                {name: value for name, value in _plain(mask).items() if value != _as_plain(defaults[name])}
                for mask in self.masks
            ]
        return data

    def changed(self, **changes):
        """The same settings with some of them changed.

        Parameters
        ----------
        **changes
            Settings by their own name, whatever section they are in: ``nclip=(4, 4), select="half:A"``.
            ``masks`` takes a list of `Mask` or of dicts, and the name of a section a dict of its settings.

        Raises
        ------
        UsageError
            A name is unknown or a value is not allowed.
        """
        sections = {}
        for name, value in changes.items():
            if name == "masks":
                sections["masks"] = tuple(_as_mask(mask) for mask in value)
                continue
            if name in SECTIONS and isinstance(value, dict):
                sections.setdefault(name, {}).update(value)
                continue
            if name not in _HOME:
                raise _unknown(name, [*_HOME, "masks"], "")
            sections.setdefault(_HOME[name], {})[name] = value
        for section, values in list(sections.items()):
            if section != "masks":
                values = _resolved(SECTIONS[section], values, "")
                sections[section] = dataclasses.replace(getattr(self, section), **values)
        return dataclasses.replace(self, **sections)


def _resolved(kind, values, where, folder=None):
    """Check the names, and make file names absolute."""
    known = {item.name: item for item in dataclasses.fields(kind)}
    if not isinstance(values, dict):
        raise UsageError(f"expected settings (name = value){where}, found {values!r}")
    resolved = {}
    for name, value in values.items():
        if name not in known:
            raise _unknown(name, list(known), where)
        resolved[name] = known[name].metadata["kind"].resolve(value, folder)
    return resolved


def _as_mask(mask):
    return mask if isinstance(mask, Mask) else Mask(**_resolved(Mask, mask, " in a mask"))


def _as_plain(value):
    return list(value) if isinstance(value, tuple) else value


def _plain(section):
    return {item.name: _as_plain(getattr(section, item.name)) for item in dataclasses.fields(section)}
