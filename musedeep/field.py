"""A field: one folder with its exposures, its settings and everything that is made from them."""

import dataclasses
import os
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from musedeep.errors import InputError, UsageError
from musedeep.exposures import ExposureList, Source
from musedeep.kinds import FilePath
from musedeep.objects import ObjectPath, place_of
from musedeep.offsets import DATE_OBS_LENGTH, OffsetTable
from musedeep.settings import SECTIONS, Settings

__all__ = ["Field", "folder_bytes", "open_field"]

_FORMAT = 1


@dataclass(frozen=True)
class Field:
    """One field and its folder; make it with `Field.from_exposures` or `open_field`.

    Attributes
    ----------
    folder : Path
        Where everything of the field lies.
    name : str
        What the products call the object.
    settings : Settings
        All settings, checked.
    sources : tuple of Source
        Where the exposures lie, in the order of time.
    selection : dict
        Why these exposures and no others, as `musedeep select` wrote it. No result depends on it.
    """

    folder: Path
    name: str
    settings: Settings
    sources: tuple
    selection: dict = dataclasses.field(default_factory=dict, compare=False)

    @classmethod
    def from_exposures(cls, paths, folder, *, name="", overwrite=False, **settings):
        """Make a field from reduced pixel tables and write its field.toml.

        Parameters
        ----------
        paths : path, or iterable of paths
            Files of PIXTABLE_REDUCED; glob patterns are expanded.
        folder : path
            The folder of the field, made where it is missing (or the field.toml in it).
        name : str, optional
            What the products call the object; the OBJECT of the first exposure by default.
        overwrite : bool, optional
            Replace a field.toml that says something else.
        **settings
            Any setting by its name: ``pixfrac=0.8``, ``memory="2GB"``; ``masks`` takes a list of dicts.

        Returns
        -------
        Field

        Raises
        ------
        InputError
            A file is not a reduced pixel table, or the files do not agree.
        UsageError
            A setting is not allowed, or the folder has another field.toml.
        """
        from musedeep.pixtable import group_exposures

        settings = Settings().changed(**settings)
        exposures = group_exposures(paths)
        name = name or exposures[0].object_name or "field"
        field = _checked(cls(_folder_of(folder), name, settings, _sources_of(exposures)))
        field.exposures.keep(exposures)
        field.write(overwrite=overwrite)
        return field

    @property
    def toml(self):
        """Path of field.toml."""
        return self.folder / "field.toml"

    @property
    def offsets_path(self):
        """Path of the field's own table of offsets."""
        return self.folder / "offsets.fits"

    @property
    def pixels_path(self):
        """Place of the pixel store: a path in the folder, or one on object storage."""
        return place_of(self.settings.run.pixel_store or self.folder / "pixels.zarr")

    @property
    def staging_path(self):
        """Folder where parts of exposures wait for a store on object storage; None beside a local one."""
        return self.folder / "pixels.zarr.partial" if self.settings.run.pixel_store else None

    @property
    def cube_path(self):
        """Place of the cube store: a path in the folder, or one on object storage."""
        return place_of(self.settings.run.cube_store or self.folder / "cube.zarr")

    @property
    def ledger_path(self):
        """Path of the records of finished blocks."""
        return self.folder / "cube.ledger"

    @property
    def products_dir(self):
        """Path of the folder with the FITS products."""
        return self.folder / "products"

    @property
    def qc_dir(self):
        """Path of the folder with plots and figures of quality."""
        return self.folder / "qc"

    @property
    def log_path(self):
        """Path of the log of all runs."""
        return self.folder / "log"

    @property
    def state_path(self):
        """What a run tells about itself while it goes on."""
        return self.folder / "run.state"

    @property
    def lock_path(self):
        """Path of the file that says a run is going on."""
        return self.folder / "run.lock"

    @cached_property
    def exposures(self):
        """The exposures, earliest first, as an `ExposureList`."""
        return ExposureList(self.sources, self.toml)

    def _repr_html_(self):
        from musedeep.picture import field_html

        return field_html(self)

    def __reduce__(self):
        # Without the headers that were read: a field travels to workers.
        return Field, (self.folder, self.name, self.settings, self.sources, self.selection)

    def read_offsets(self):
        """The table of offsets that applies: the one of the settings, else the field's own.

        Returns
        -------
        OffsetTable or None
        """
        asked = self.settings.combine.offsets
        if asked != "auto":
            return OffsetTable.read(asked) if asked != "none" else None
        return OffsetTable.read(self.offsets_path) if self.offsets_path.exists() else None

    def combined_exposures(self, offsets):
        """The exposures that are combined: those selected, without those that an offset list leaves out.

        Parameters
        ----------
        offsets : OffsetTable or None

        Returns
        -------
        list of Exposure

        Raises
        ------
        InputError
            None is left.
        """
        chosen = [self.exposures[n] for n in self.exposures.select(self.settings.combine.select)]
        left_out = offsets.left_out if offsets is not None else set()
        kept = [exposure for exposure in chosen if exposure.date_obs[:DATE_OBS_LENGTH] not in left_out]
        if not kept:
            raise InputError(
                f"{self.toml}: the offset list leaves out all {len(chosen)} exposures; raise scale_limit and "
                "align again, or correct its column LEFT_OUT"
            )
        return kept

    def changed(self, **changes):
        """The same field with other settings; field.toml stays as it is until `write`.

        Parameters
        ----------
        **changes
            As in `Settings.changed`.
        """
        return _checked(dataclasses.replace(self, settings=self.settings.changed(**changes)))

    def without(self, *dates):
        """The same field without some exposures; field.toml stays as it is until `write`.

        Parameters
        ----------
        *dates : str
            DATE-OBS of the exposures to leave out.

        Raises
        ------
        UsageError
            The field has no such exposure, or none is left.
        """
        sources = tuple(self.sources[n] for n in self.exposures.select("without=" + ",".join(dates)))
        left = {source.date_obs[:23] for source in sources}
        masks = []
        for mask in self.settings.masks:
            named = tuple(date for date in mask.exposures if date[:23] in left)
            if named or not mask.exposures:
                masks.append(dataclasses.replace(mask, exposures=named))
        return dataclasses.replace(self, sources=sources, settings=self.settings.changed(masks=masks))

    def add_exposures(self, paths):
        """Add reduced pixel tables to field.toml, whose other lines stay as they are.

        Parameters
        ----------
        paths : path, or iterable of paths
            Those the field has already are passed over.

        Returns
        -------
        Field
            The field with the new exposures.

        Raises
        ------
        InputError
            A file is not a reduced pixel table, or has the DATE-OBS of another file of the field.
        """
        from musedeep.pixtable import group_exposures

        known = {source.date_obs: source for source in self.sources}
        added = []
        for source in _sources_of(group_exposures(paths)):
            if source.date_obs not in known:
                added.append(source)
            elif known[source.date_obs].files != source.files:
                raise InputError(
                    f"{source.files[0]}: the field has an exposure with DATE-OBS {source.date_obs} already, "
                    f"{known[source.date_obs].files[0]}; take one of the two out of {self.toml}"
                )
        text = self.toml.read_text() if self.toml.exists() else self.to_toml()
        _write_text(self.toml, text.rstrip("\n") + "\n" + _exposure_lines(added, self.folder))
        return dataclasses.replace(self, sources=_in_time((*self.sources, *added)))

    def to_toml(self):
        """The text of field.toml: every setting with its meaning, then masks and exposures."""
        lines = [
            "# A field of musedeep. Edit it as you like: what is left out keeps its default,",
            "# and `musedeep info` checks what you wrote. File names start at this folder.",
            f"format = {_FORMAT}",
            f"name = {_toml_value(self.name)}",
        ]
        for section, kind in SECTIONS.items():
            lines += ["", f"[{section}]"]
            for item in dataclasses.fields(kind):
                value = getattr(getattr(self.settings, section), item.name)
                lines += [
                    f"# {item.metadata['help']}",
                    f"{item.name} = {_toml_value(self._shortened(item, value))}",
                ]
        for mask in self.settings.to_dict().get("mask", ()):
            lines += ["", "[[mask]]"] + [f"{name} = {_toml_value(value)}" for name, value in mask.items()]
        lines += _selection_lines(self.selection)
        return "\n".join(lines) + "\n" + _exposure_lines(self.sources, self.folder)

    def _shortened(self, item, value):
        value = item.metadata["kind"].kept(value)
        is_file = isinstance(item.metadata["kind"], FilePath) and os.sep in value
        return _relative(Path(value), self.folder) if is_file else value

    def _makes_the_same_as(self, other):
        # The resources of a run may differ; they never change a result.
        return self == dataclasses.replace(
            other, settings=dataclasses.replace(other.settings, run=self.settings.run)
        )

    def write(self, *, overwrite=True):
        """Write field.toml.

        Parameters
        ----------
        overwrite : bool, optional
            Replace a field.toml that says something else; without it, one that differs in the resources of
            a run alone is left as it is.

        Raises
        ------
        UsageError
            There is one that says something else and `overwrite` is false, or the folder cannot be written.
        """
        if self.toml.exists() and not overwrite and not self._makes_the_same_as(open_field(self.toml)):
            raise UsageError(
                f"{self.toml} exists and says something else; run it as it is, edit it, add exposures to it, "
                "choose another folder, or ask to overwrite it (what was made is kept where it still fits)"
            )
        if not self.toml.exists() or overwrite:
            _write_text(self.toml, self.to_toml())


def open_field(path):
    """Open a field.

    Parameters
    ----------
    path : path
        A field.toml, or the folder it lies in.

    Returns
    -------
    Field

    Raises
    ------
    UsageError
        There is none, it is not TOML, or a setting in it is unknown or not allowed.
    """
    folder = _folder_of(path)
    toml = folder / "field.toml"
    if not toml.exists():
        raise UsageError(f"there is no {toml}; make one with `musedeep init FILES... -o {path}`")
    try:
        data = tomllib.loads(toml.read_text())
        return _field_from(data, folder)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{toml}: not valid TOML: {error}") from error
    except UsageError as error:
        raise UsageError(f"{toml}: {error}") from error


def folder_bytes(folder):
    """Bytes of all files below a folder, or of all objects; they may come and go meanwhile."""
    if isinstance(folder, ObjectPath):
        return sum(folder.files().values())
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += Path(root, name).stat().st_size
    return size


def _field_from(data, folder):
    if data.get("format", _FORMAT) != _FORMAT:
        raise UsageError(f"format = {data['format']!r} is not known to this version, which reads {_FORMAT}")
    own = ("format", "name", "exposure", "selection")
    sections = {name: data[name] for name in data if name not in own}
    settings = Settings.from_dict(sections, folder)
    entries = data.get("exposure", [])
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            "it lists no exposure; give each one as [[exposure]] with file = ... and date_obs = ..."
        )
    sources = [_source_from(entry, folder) for entry in entries]
    dates = [source.date_obs for source in sources]
    for date in dates:
        if dates.count(date) > 1:
            raise UsageError(f"DATE-OBS {date} is listed {dates.count(date)} times; keep one of them")
    name, selection = str(data.get("name", folder.name)), data.get("selection", {})
    return _checked(Field(folder, name, settings, _in_time(sources), selection))


def _checked(field):
    """The field itself, if its masks name exposures that it has."""
    known = {date[:23] for date in field.exposures.dates}
    for mask in field.settings.masks:
        for date in mask.exposures:
            if date[:23] not in known:
                raise UsageError(
                    f"mask: exposures = {date!r} is none of this field, "
                    f"whose first is {field.exposures.dates[0]}; correct or remove it"
                )
    return field


def _source_from(entry, folder):
    files = entry.get("file", []) if isinstance(entry, dict) else []
    files = [files] if isinstance(files, str) else files
    date = entry.get("date_obs", "") if isinstance(entry, dict) else ""
    good = isinstance(files, list) and files and all(isinstance(item, str) for item in files)
    if not good or not date or set(entry) - {"file", "date_obs"}:
        raise UsageError(f"[[exposure]] wants file = ... and date_obs = ..., found {entry!r}")
    paths = tuple((folder / Path(item).expanduser()).resolve() for item in files)
    # An unquoted date is a TOML date; isoformat would write microseconds, DATE-OBS has milliseconds.
    return Source(date if isinstance(date, str) else date.isoformat(timespec="milliseconds"), paths)


def _folder_of(path):
    path = Path(path).expanduser().resolve()
    return path.parent if path.suffix == ".toml" else path


def _sources_of(exposures):
    return _in_time(
        Source(exposure.date_obs, tuple(table.path.resolve() for table in exposure.tables))
        for exposure in exposures
    )


def _in_time(sources):
    return tuple(sorted(sources, key=lambda source: source.date_obs))


def _relative(path, folder):
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _exposure_lines(sources, folder):
    lines = []
    for source in sources:
        files = [_relative(path, folder) for path in source.files]
        lines += [
            "",
            "[[exposure]]",
            f"date_obs = {_toml_value(source.date_obs)}",
            f"file = {_toml_value(files if len(files) > 1 else files[0])}",
        ]
    return "\n".join(lines) + "\n" if lines else ""


def _selection_lines(selection):
    import tomli_w

    if not selection:
        return []
    text = tomli_w.dumps({"selection": selection}, multiline_strings=False)
    return ["", "# Written by `musedeep select`: why these exposures and no others.", text.rstrip("\n")]


def _toml_value(value):
    import tomli_w

    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip("\n")


def _write_text(path, text):
    # Written beside and renamed: a crash leaves the old file or the new one, never half of one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UsageError(
            f"cannot write {path}: {error.strerror}; choose a folder that you may write"
        ) from error
