"""Kinds of setting: what values are allowed, and how a value is written on the command line.

A kind has ``check(name, value)``, which returns the normalised value or raises `UsageError`; ``parse(text)``,
which turns the text of an option into a value for `check`; ``resolve(value, folder)``, which makes file names
absolute; and ``metavar``, which stands in the help.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from musedeep.errors import UsageError
from musedeep.objects import ObjectPath

__all__ = [
    "Choice",
    "ChoiceOrNumber",
    "ChoiceOrPath",
    "FilePath",
    "Memory",
    "Number",
    "Numbers",
    "Place",
    "Selection",
    "StorePlace",
    "Switch",
    "Text",
    "Words",
    "memory_bytes",
]

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}


def _refuse(name, value, allowed):
    return UsageError(f"{name} = {value!r} is not allowed: give {allowed}")


def _split(text):
    return [part.strip() for part in text.split(",") if part.strip()]


def memory_bytes(text):
    """Number of bytes of a size such as ``"4GB"``, ``"512 MiB"`` or ``1e9``.

    GB are 1000**3 bytes and GiB 1024**3, as everywhere in dask.

    Raises
    ------
    UsageError
        It is not a size, or it is less than one megabyte.
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)", str(text).strip().lower())
    try:
        size = float(match[1]) * _UNITS[match[2]]
    except (TypeError, KeyError, ValueError):
        size = 0.0
    if not 1e6 <= size < math.inf:
        raise _refuse("memory", text, "a size of at least 1 MB, such as '4GB' or '512MiB'")
    return int(size)


class _Kind:
    metavar = "TEXT"

    def parse(self, text):
        return text

    def resolve(self, value, folder):
        return value

    def kept(self, value):
        """What of a value is written to field.toml."""
        return value


@dataclass(frozen=True)
class Number(_Kind):
    """One number; `low` and `high` are allowed themselves, `above` is not."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    integer: bool = False

    @property
    def metavar(self):
        return "INTEGER" if self.integer else "NUMBER"

    def describe(self):
        """The allowed values in words."""
        words = "a whole number" if self.integer else "a number"
        if self.above > -math.inf:
            words += f" above {self.above:g}"
        elif self.low > -math.inf:
            words += f" from {self.low:g}" + (" on" if self.high == math.inf else "")
        return words + (f" to {self.high:g}" if self.high < math.inf else "")

    def check(self, name, value):
        """The value as int or float."""
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or (self.integer and value != int(value)):
            raise _refuse(name, value, self.describe())
        if not (self.low <= value <= self.high and value > self.above):
            raise _refuse(name, value, self.describe())
        return int(value) if self.integer else float(value)

    def parse(self, text):
        """A number, or the text itself where it is none (`check` then refuses it)."""
        try:
            return int(text) if self.integer else float(text)
        except ValueError:
            return text


@dataclass(frozen=True)
class Numbers(_Kind):
    """A list of `fewest` to `longest` numbers, brought to its full length by `spread`."""

    fewest: int
    longest: int
    low: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    integer: bool = False
    spread: object = tuple
    metavar = "NUMBER[,...]"

    @property
    def _one(self):
        return Number(self.low, self.most, self.above, self.integer)

    def check(self, name, value):
        """The values as a tuple."""
        values = (value,) if isinstance(value, int | float) else value
        if not isinstance(values, tuple | list) or not self.fewest <= len(values) <= self.longest:
            raise _refuse(name, value, f"{self.fewest} to {self.longest} values, each {self._one.describe()}")
        return tuple(self.spread(tuple(self._one.check(name, item) for item in values)))

    def parse(self, text):
        """Values between commas."""
        return [self._one.parse(part) for part in _split(text)]


@dataclass(frozen=True)
class Switch(_Kind):
    """True or false."""

    metavar = ""

    def check(self, name, value):
        """The value itself."""
        if not isinstance(value, bool):
            raise _refuse(name, value, "true or false")
        return value


class Choice(_Kind):
    """One word out of a few."""

    def __init__(self, *allowed):
        self.allowed = allowed
        self.metavar = "|".join(allowed)

    def check(self, name, value):
        """The word."""
        word = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if word not in self.allowed:
            raise _refuse(name, value, "one of " + ", ".join(self.allowed))
        return word


class ChoiceOrNumber(Choice):
    """One word out of a few, or a finite number."""

    def __init__(self, *allowed):
        super().__init__(*allowed)
        self.metavar += "|NUMBER"

    def check(self, name, value):
        """The word or the number."""
        if value in self.allowed:
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        raise _refuse(name, value, "one of " + ", ".join(self.allowed) + ", or a number")

    def parse(self, text):
        """The word, or a number where it is one."""
        return text if text in self.allowed else Number().parse(text)


class FilePath(_Kind):
    """The name of a file, or nothing."""

    metavar = "FILE"

    def check(self, name, value):
        """The name as text."""
        if not isinstance(value, str | Path):
            raise _refuse(name, value, "the name of a file")
        return str(value)

    def resolve(self, value, folder):
        """The name made absolute; relative ones start at `folder`, or at the current folder."""
        if not isinstance(value, str | Path) or not str(value):
            return value
        return str((Path(folder or Path.cwd()) / Path(value).expanduser()).resolve())


class StorePlace(_Kind):
    """Where a store lies: an address on object storage, or nothing for the folder of the field."""

    metavar = "s3://BUCKET/NAME"

    def check(self, name, value):
        """The address as text."""
        if value and str(value) != str(ObjectPath(value)):
            raise _refuse(name, value, "s3://BUCKET/NAME")
        return str(value)


class Place(FilePath):
    """Where a run computes: one word out of a few, a file with more about it, or the address of a scheduler.

    A scheduler is trusted with running code. So files and addresses come from whoever gives the command, and
    never from a field.toml, which may be somebody else's.
    """

    words = ("threads", "processes")
    metavar = "threads|processes|FILE|ADDRESS"

    def resolve(self, value, folder):
        """File names made absolute; in a field.toml (`folder` is given) only the words are allowed."""
        if value in self.words or not isinstance(value, str | Path):
            return value
        if folder is not None:
            raise _refuse("cluster", value, "'threads' or 'processes' here, and others with --cluster")
        return super().resolve(value, None) if Path(value).suffix in (".yaml", ".yml", ".json") else value

    def kept(self, value):
        """One of the words."""
        return value if value in self.words else self.words[0]


class ChoiceOrPath(FilePath):
    """One word out of a few, or the name of a file (which has a dot or a slash in it)."""

    def __init__(self, *allowed):
        self.allowed = allowed
        self.metavar = "|".join((*allowed, "FILE"))

    def check(self, name, value):
        """The word or the name of the file."""
        is_file = isinstance(value, str | Path) and re.search(r"[./]", str(value))
        if value not in self.allowed and not is_file:
            raise _refuse(name, value, "one of " + ", ".join(self.allowed) + ", or the name of a file")
        return str(value)

    def resolve(self, value, folder):
        """File names made absolute, words as they are."""
        looks_like_file = isinstance(value, Path) or (isinstance(value, str) and re.search(r"[./]", value))
        return super().resolve(value, folder) if looks_like_file else value


@dataclass(frozen=True)
class Text(_Kind):
    """Any text; `allowed` describes it where something else was given."""

    allowed: str

    def check(self, name, value):
        """The text."""
        if not isinstance(value, str):
            raise _refuse(name, value, self.allowed)
        return value


@dataclass(frozen=True)
class Words(_Kind):
    """A list of words, all of them out of `allowed()` where that is given."""

    allowed: object = None
    metavar = "WORD[,...]"

    def check(self, name, value):
        """The words as a tuple without duplicates."""
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, tuple | list) or not all(isinstance(word, str) for word in words):
            raise _refuse(name, value, "a list of words")
        if words and self.allowed is not None:
            allowed = self.allowed()
            for word in words:
                if word not in allowed:
                    raise _refuse(name, word, "some of " + ", ".join(allowed))
        return tuple(dict.fromkeys(words))

    def parse(self, text):
        """Words between commas; 'none' is the empty list."""
        return [] if text == "none" else _split(text)


class Memory(_Kind):
    """A size in bytes, with a unit."""

    metavar = "SIZE"

    def check(self, name, value):
        """The size as text, as it was given."""
        memory_bytes(value)
        return str(value)


class Selection(_Kind):
    """Which exposures are combined; `ExposureList.select` explains the forms."""

    metavar = "WHICH"
    _form = re.compile(r"all|half:[AB]|every:[1-9][0-9]*|night:(odd|even)|ob:.+|without=.+")
    _date = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?")
    _allowed = (
        "'all', DATE-OBS values, 'half:A', 'half:B', 'every:K', 'night:odd', 'night:even', 'ob:NAME' or "
        "'without=DATE-OBS,...'"
    )

    def check(self, name, value):
        """A keyword form as text, or a tuple of DATE-OBS."""
        if isinstance(value, str) and self._form.fullmatch(value):
            dates = _split(value.removeprefix("without=")) if value.startswith("without=") else ()
        else:
            dates = value = _split(value) if isinstance(value, str) else value
            if not isinstance(dates, tuple | list) or not dates:
                raise _refuse(name, value, self._allowed)
            value = tuple(dates)
        for date in dates:
            if not isinstance(date, str) or not self._date.fullmatch(date):
                raise _refuse(name, date, self._allowed)
        return value
