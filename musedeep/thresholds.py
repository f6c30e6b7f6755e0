"""Every threshold of the selection, declared once: select.toml and the options are made from here."""

import dataclasses
import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from musedeep.errors import UsageError
from musedeep.kinds import FilePath, Number, Switch, Text, Words

__all__ = ["Thresholds", "read_thresholds", "thresholds_text"]

_FILES = ("grades", "nightlog", "known_bad", "overrides")
_PATTERN = Text("a regular expression")


def _setting(default, kind, text, rule):
    return dataclasses.field(default=default, metadata={"kind": kind, "help": text, "rule": rule})


def _modes():
    from musedeep.muse import MODES

    return tuple(MODES)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the rules R1 to R20, and the tables that they look into."""

    grades: str = _setting("", FilePath(), "OB grades: CSV with ob_id, mode, grade, ambi_req, comment", "R8")
    nightlog: str = _setting("", FilePath(), "comments on single exposures: CSV with arcfile, comment", "R11")
    known_bad: str = _setting("", FilePath(), "files known to be bad: CSV with arcfile, comment", "R20")
    overrides: str = _setting(
        "", FilePath(), "overrides: YAML (empty: targets.yaml in the folder of the fields)", ""
    )
    modes: tuple = _setting(
        ("WFM-NOAO-N", "WFM-NOAO-E", "WFM-AO-N", "WFM-AO-E"),
        Words(_modes),
        "instrument modes that are taken",
        "R1",
    )
    mix_range: bool = _setting(
        False, Switch(), "put nominal and extended wavelength ranges into one field", "R2"
    )
    ao_seeing_octaves: float = _setting(
        1.0, Number(low=0), "AO and NOAO are mixed if their seeing differs by at most 2 to this power", "R3"
    )
    fewest_exposures: int = _setting(
        2, Number(low=1, integer=True), "fewest exposures of a deep product", "R4"
    )
    fewest_obs: int = _setting(
        2, Number(low=1, integer=True), "fewest observing blocks of a deep product", "R4"
    )
    max_inputs: int = _setting(
        0, Number(low=0, integer=True), "most exposures of one product (0: no limit)", "R5"
    )
    split_overlap: float = _setting(
        0.2,
        Number(above=0, high=1),
        "overlap from which pointings share a product when a field is split",
        "R5",
    )
    seeing_factor: float = _setting(
        2.0, Number(above=0), "largest measured seeing in units of the requested one", "R7"
    )
    seeing_borderline: float = _setting(
        1.8, Number(above=0), "from this factor on a human should look at the seeing", "R7"
    )
    seeing_floor_arcsec: float = _setting(
        0.8, Number(above=0), "least seeing that stands for a request where there is none", "R7b"
    )
    rejected_grades: tuple = _setting(
        ("D", "X"), Words(), "grades of observing blocks that are left out", "R8"
    )
    seeing_words: str = _setting(
        r"seeing|fwhm|image quality|\biq\b", _PATTERN, "comments that name the seeing", "R8"
    )
    other_words: str = _setting(
        r"cloud|thick|transparen|moon|wind|airmass|guid|track|derotator|focus|abort|fail|error|problem|issue|"
        r"wrong|lost|trail|technical|crash|vignett",
        _PATTERN,
        "comments that name something else than the seeing",
        "R8",
    )
    background_words: str = _setting(
        r"abort.*(increasing )?(background|twilight)",
        _PATTERN,
        "comments on the background that reject",
        "R10",
    )
    trouble_words: str = _setting(
        r"(derotator|guiding|tracking|\bM[12]\b|shutter|TCCD)\W+(issue|error|failure|failed|problem)|abort",
        _PATTERN,
        "comments that reject",
        "R11",
    )
    harmless_words: str = _setting(
        r"\b(no|not|without|never)\b[^.;]{0,30}(abort|issue|error|failure|problem)|solved|recovered|"
        r"data (are )?ok",
        _PATTERN,
        "comments that take such a word back; a human should look",
        "R11",
    )
    trail_sigma: float = _setting(
        20.0, Number(above=0), "satellite trails brighter than this (in noise of a pixel) reject", "R12"
    )
    trail_mask_sigma: float = _setting(5.0, Number(above=0), "fainter ones are masked from here on", "R12")
    trail_area: float = _setting(
        0.01, Number(low=0, high=1), "share of the field from which a bright trail rejects", "R12"
    )
    short_fraction: float = _setting(
        0.5, Number(low=0, high=1), "aborted exposures shorter than this share of the usual time", "R13"
    )
    sequence_ratio: float = _setting(
        3.0, Number(low=1), "exposure times that differ by more than this factor make several fields", "R14"
    )
    sequence_gap_dex: float = _setting(
        0.3, Number(above=0), "gap between two exposure times of such a sequence", "R14"
    )
    overlap: float = _setting(
        0.1, Number(above=0, high=1), "least overlap, in fields of view, of pointings of one field", "R15"
    )
    same_pointing_arcsec: float = _setting(
        15.0, Number(low=0), "exposures of an observing block this near are one pointing", "R15"
    )
    name_score: float = _setting(
        0.6, Number(low=0, high=1), "likeness from which overlapping pointings are one target", "R16"
    )
    same_place: float = _setting(
        0.8, Number(low=0, high=1), "overlap that makes one target whatever the names are", "R16"
    )
    moving_arcsec_per_year: float = _setting(
        15.0, Number(low=0), "targets that move faster are not stacked", "R16"
    )
    quiet_days: float = _setting(
        90.0, Number(low=0), "days without new data after which a field is complete", "R17"
    )
    quiet_days_large: float = _setting(180.0, Number(low=0), "the same for large programmes", "R17")
    large_programmes: str = _setting(
        r"^1\d{2,3}\.[A-E]-\d{4}", _PATTERN, "identifiers of large programmes", "R17"
    )
    allow_reuse: bool = _setting(
        False, Switch(), "parts of a split field may share exposures of pointings that overlap both", "R18"
    )
    private_days: float = _setting(
        365.0, Number(low=0), "days after which an exposure is public where no table tells", "R19"
    )
    crowded_sources: int = _setting(
        80, Number(low=1, integer=True), "sources at 10 sigma from which a field is called crowded", ""
    )
    today: str = _setting(
        "", Text("a date, YYYY-MM-DD"), "date for completeness and access (empty: the real one)", "R17"
    )

    def __post_init__(self):
        for item in dataclasses.fields(self):
            kind, value = item.metadata["kind"], getattr(self, item.name)
            value = kind.check(item.name, kind.resolve(value, None))
            if kind is _PATTERN:
                _compile(item.name, value)
            object.__setattr__(self, item.name, value)
        for low, high in (("seeing_borderline", "seeing_factor"), ("trail_mask_sigma", "trail_sigma")):
            if getattr(self, low) > getattr(self, high):
                raise UsageError(
                    f"{low} = {getattr(self, low):g} is above {high} = {getattr(self, high):g}; lower it"
                )
        if not re.fullmatch(r"(\d{4}-\d\d-\d\d)?", self.today):
            raise UsageError(f"today = {self.today!r} is not allowed: give a date, YYYY-MM-DD")

    def changed(self, **changes):
        """The same settings with some of them changed.

        Raises
        ------
        UsageError
            A name is unknown or a value is not allowed.
        """
        known = [item.name for item in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
                raise UsageError(f"select: unknown setting {name!r}{hint}")
        return dataclasses.replace(self, **changes)

    def pattern(self, name):
        """A setting that is a regular expression, compiled without regard to case."""
        return _compile(name, getattr(self, name))


def _compile(name, text):
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise UsageError(f"{name} = {text!r} is no regular expression: {error}") from error


def read_thresholds(path):
    """Settings of a select.toml; the defaults where there is none.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Thresholds

    Raises
    ------
    UsageError
        It is not TOML, or a setting is unknown or not allowed.
    """
    if not path.exists():
        return Thresholds()
    try:
        data = tomllib.loads(path.read_text())
        folder = path.resolve().parent
        files = {name: FilePath().resolve(data[name], folder) for name in _FILES if data.get(name)}
        return Thresholds().changed(**(data | files))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def thresholds_text(settings, folder):
    """The text of select.toml: every setting with its rule and its meaning.

    Parameters
    ----------
    settings : Thresholds
    folder : Path
        Names of files inside of it are written relative to it.
    """
    import tomli_w

    lines = ["# Thresholds of `musedeep select`. Edit them as you like; what is left out keeps its default."]
    for item in dataclasses.fields(settings):
        value, rule = getattr(settings, item.name), item.metadata["rule"]
        if item.name == "today":
            # Tomorrow it would be wrong.
            continue
        if item.name in _FILES and value and Path(value).is_relative_to(folder):
            value = str(Path(value).relative_to(folder))
        value = list(value) if isinstance(value, tuple) else value
        lines += ["", f"# {rule + ': ' if rule else ''}{item.metadata['help']}"]
        lines.append(tomli_w.dumps({item.name: value}).rstrip("\n"))
    return "\n".join(lines) + "\n"
