"""Names of targets and observing blocks: what is left of them when numbers and fashions are taken off."""

import re
import unicodedata
from functools import lru_cache

from rapidfuzz import fuzz
from rapidfuzz.distance import JaroWinkler

__all__ = ["base_name", "moving_name", "name_likeness", "slug"]

_SUFFIX = re.compile(
    r"(P(OINTING|OS|TG)?\d+|OB\d+|PART\d+|FIELD\d+|VISIT\d+|(WFM|NOAO|AO)[A-Z]*|DEEP|NEW|CENTRE|CENTER|"
    r"[^0-9A-Z]\d{1,2}|(?<=[A-Z])\d{1,2}|[^0-9A-Z][A-D])$"
)
# A catalogue number is no counter: NGC 3201 and M 83 keep theirs.
_CATALOGUE = re.compile(
    r"\b(NGC|IC|UGC|ESO|ABELL|A|M|HD|HIP|PGC|RXJ|MACS|SDSS|QSO|HE|J|B|Q|SN|CL|MRK|ARP|HDF)[\W_]*\d+"
)
_ROMAN = {"II": "2", "III": "3", "IV": "4", "VI": "6", "VII": "7", "VIII": "8", "IX": "9"}
_PLANETS = (
    "MERCURY|VENUS|MARS|JUPITER|SATURN|URANUS|NEPTUNE|PLUTO|MOON|IO|EUROPA|GANYMEDE|CALLISTO|TITAN|ENCELADUS|"
    "TRITON|CERES|VESTA|PALLAS|CHARON|CHURYUMOV|OUMUAMUA"
)
_MOVING = re.compile(
    rf"^(COMET|ASTEROID|{_PLANETS})(?=$|[ (,/]|-\d$)(?!.*\b(NEBULA|GHOST|TROJAN FIELD|CLUSTER|GALAXY)\b)|"
    r"^[CPDA]/\d{4}|^\d{1,3}P([/\s-]|$)|^\(?\d{3,6}\)?\s+[A-Z][A-Z]+$|^\d{4}\s[A-Z]{2}\d*$"
)


def _plain(name):
    text = unicodedata.normalize("NFKD", name or "")
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return re.sub(r"\s+", " ", text.upper().strip())


@lru_cache(maxsize=1 << 16)
def base_name(name):
    """A name without accents, case, separators, counters of pointings and blocks, and words like DEEP.

    Parameters
    ----------
    name : str

    Returns
    -------
    str
        ``"UDF"`` for ``"UDF-01"`` and ``"udf_10_deep"``; ``"NGC3201"`` for ``"NGC 3201 P2"``.
    """
    text = " ".join(_ROMAN.get(word, word) for word in re.split(r"[\s_]+", _plain(name)))
    head = _CATALOGUE.match(text)
    floor = head.end() if head else 1
    while (found := _SUFFIX.search(text)) and found.start() >= floor:
        text = text[: found.start()].rstrip(" -_.")
    return re.sub(r"[^0-9A-Z+]", "", text)


@lru_cache(maxsize=1 << 16)
def name_likeness(first, second):
    """How alike two names are: 0 to 1.

    The larger of the Jaro-Winkler similarity of the base names and the token-set ratio of the words.

    Parameters
    ----------
    first, second : str
    """
    one, two = base_name(first), base_name(second)
    if not one or not two:
        return 0.0
    # Counters apart, two catalogue numbers that differ are two objects, however alike they are spelt.
    if re.sub(r"\d", "", one) == re.sub(r"\d", "", two) and one != two:
        return 0.5 * JaroWinkler.similarity(one, two)
    words = [" ".join(re.findall(r"[A-Z]+|\d+", _plain(name))) for name in (first, second)]
    return max(JaroWinkler.similarity(one, two), fuzz.token_set_ratio(*words) / 100)


def moving_name(name):
    """Whether a name is that of a body of the solar system.

    Parameters
    ----------
    name : str
    """
    return bool(_MOVING.search(_plain(name).replace("_", " ")))


def slug(name):
    """A name fit for a folder: lower case letters, digits and hyphens.

    Parameters
    ----------
    name : str
    """
    return re.sub(r"[^0-9a-z+]+", "-", _plain(name).lower()).strip("-")[:40]
