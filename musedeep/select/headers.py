"""The few keywords of a FITS header that the selection needs, read without parsing the other thousands."""

import gzip
from pathlib import Path

from astropy.io import fits

__all__ = ["KEYWORDS", "find_files", "read_header"]

_BLOCK = 2880
_CARD = 80
_MOST_BLOCKS = 400
_SUFFIXES = (".fits", ".fits.fz", ".fits.gz", ".fit")

KEYWORDS = (
    "INSTRUME", "OBJECT", "RA", "DEC", "EXPTIME", "MJD-OBS", "DATE-OBS", "DATE", "ARCFILE", "PI-COI",
    "EXTNAME",
    "ESO DPR CATG", "ESO DPR TYPE", "ESO DPR TECH", "ESO PRO CATG", "ESO PRO REC1 ID", "ESO PRO REC1 PIPE ID",
    "ESO PRO REC1 RAW1 CATG", "ESO INS MODE", "ESO INS DROT POSANG", "ESO INS DROT MODE",
    "ESO OBS ID", "ESO OBS NAME", "ESO OBS PROG ID", "ESO OBS PI-COI ID", "ESO OBS PI-COI NAME",
    "ESO OBS TARG NAME", "ESO OBS CONTAINER ID", "ESO OBS CONTAINER TYPE", "ESO OBS AMBI FWHM",
    "ESO OBS AMBI TRANS", "ESO TEL AMBI FWHM START", "ESO TEL AMBI FWHM END", "ESO TEL IA FWHMLIN",
    "ESO TEL TARG PMA", "ESO TEL TARG PMD", "ESO TEL TARG ADDVELALPHA", "ESO TEL TARG ADDVELDELTA",
)  # fmt: skip
"""What is read of every primary header; all else is passed over."""

_WANTED = frozenset(KEYWORDS)


def find_files(paths, but_not=None):
    """FITS files of paths, folders and patterns.

    Parameters
    ----------
    paths : iterable of path
        A folder stands for all FITS files in and below it.
    but_not : Path, optional
        A folder that is passed over when it lies in another one.

    Returns
    -------
    list of Path
        Absolute, sorted, each once.
    """
    found = set()
    for path in map(Path, paths):
        pattern = path.expanduser()
        matches = [pattern]
        if not pattern.exists() and any(letter in str(pattern) for letter in "*?["):
            matches = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        for match in matches:
            if match.is_dir():
                below = (p.absolute() for p in match.rglob("*") if p.name.lower().endswith(_SUFFIXES))
                found.update(p for p in below if but_not is None or not p.is_relative_to(but_not))
            elif match.exists():
                found.add(match)
    return sorted(path.absolute() for path in found)


def read_header(path):
    """Read the wanted keywords of a primary header.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        Keyword to str, int, float or bool; keywords that are missing or without a value are left out.

    Raises
    ------
    ValueError
        It is no FITS file, or its header has no end.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    values = {}
    with opener(path, "rb") as file:
        for number in range(_MOST_BLOCKS):
            block = file.read(_BLOCK)
            if number == 0 and not block.startswith(b"SIMPLE"):
                raise ValueError("it does not begin with SIMPLE, so it is no FITS file")
            if len(block) < _BLOCK:
                raise ValueError("it ends within its header; fetch or write it again")
            for start in range(0, _BLOCK, _CARD):
                card = block[start : start + _CARD]
                if card.startswith(b"END") and not card[3:].strip():
                    return values
                _read_card(card, values)
    raise ValueError(f"its header is longer than {_MOST_BLOCKS} blocks; it is no header of an exposure")


def _read_card(card, values):
    key, equals, rest = card.partition(b"=")
    name = key.decode("latin-1").removeprefix("HIERARCH ").strip()
    if not equals or name not in _WANTED or name in values:
        return
    # Anything but plain characters has no place in a header, but is found there: names keep their other
    # letters.
    text = f"{name:<8}= " if len(name) <= 8 else f"HIERARCH {name} = "
    text += "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in rest).strip()
    try:
        value = fits.Card.fromstring(text).value
    except fits.VerifyError:
        return
    if isinstance(value, str):
        value = value.strip()
    if value is not None and not isinstance(value, fits.card.Undefined) and value != "":
        values[name] = value
