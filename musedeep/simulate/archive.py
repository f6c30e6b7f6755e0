"""A simulated archive: the headers of many nights, with the confusion of a real one and the truth."""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.time import Time

from musedeep.sky import sky_frame, sky_position

__all__ = ["simulate_archive"]

_FIRST_MJD = 56900.0
_BLOCK = 2880
_PERIODS = ("094", "095", "096", "097", "098", "099", "0100", "0101")
_WIDE = "WFM-NOAO-N"
_TWO_BY_TWO = ((-25, -25), (25, -25), (25, 25), (-25, 25))
_GRID = tuple((53.0 * (1 - column), 53.0 * (1 - row)) for row in range(3) for column in range(3))


@dataclass
class _Shot:
    """One exposure to be; what is missing in `cards` is made up from the rest."""

    truth: str
    target: str
    ob: int
    ob_name: str
    run: str
    pi: int
    ra: float
    dec: float
    mjd: float
    exptime: float = 900.0
    mode: str = _WIDE
    angle: float = 0.0
    request: float = 1.0
    seeing: float = 0.8
    kind: str = "OBJECT"
    taken: bool = True
    cards: dict = field(default_factory=dict)


class _Archive:
    """Shots as they are added, with their observing blocks, comments and grades."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.shots, self.grades, self.log = [], {}, {}
        self._ob, self._night, self._centres = 1000000, 0, []

    def place(self):
        """A place on the sky far from all others."""
        while True:
            ra, dec = self.rng.uniform(0, 360), math.degrees(math.asin(self.rng.uniform(-0.97, 0.4)))
            if len(self._centres) == 0:
                ra = 0.002  # a field across the meridian where right ascension begins anew
            if len(self._centres) == 1:
                dec = -89.2
            near = [c for c in self._centres if abs(c[1] - dec) < 0.2]
            if all(abs((c[0] - ra + 180) % 360 - 180) * math.cos(math.radians(dec)) > 0.2 for c in near):
                self._centres.append((ra, dec))
                return ra, dec

    def block(
        self,
        truth,
        target,
        centre,
        *,
        at=(0.0, 0.0),
        exposures=3,
        run=None,
        pi=1,
        name=None,
        service=True,
        **facts,
    ):
        """Add one observing block; its shots."""
        self._ob += int(self.rng.integers(1, 9))
        self._night += 1
        period = self._night % len(_PERIODS)
        run = run or f"{_PERIODS[period]}.A-{pi:04d}(A)"
        mjd = _FIRST_MJD + 3.0 * self._night + self.rng.uniform(0, 0.3)
        mode, request = facts.pop("mode", _WIDE), facts.pop("request", 1.0)
        turn = facts.pop("angle", 0.0)
        made = []
        for n in range(exposures):
            east, north = np.asarray(at) + self.rng.uniform(-2, 2, 2)
            ra, dec = _offset(centre, east, north)
            shot = _Shot(
                truth, target, self._ob, name or f"{target}-{self._ob % 7 + 1}", run, pi, ra, dec, mjd,
                mode=mode, angle=turn + 90.0 * n, request=request if service else math.nan, **facts,
            )  # fmt: skip
            shot.seeing = round(request * float(self.rng.uniform(0.6, 1.2)), 2)
            mjd += (shot.exptime + 150) / 86400
            made.append(shot)
        if service:
            self.grades[self._ob] = ["SM", "AB"[int(self.rng.random() < 0.2)], request, ""]
        self.shots += made
        return made


def _offset(centre, east_arcsec, north_arcsec):
    vector = sky_frame(*centre) @ (math.radians(east_arcsec / 3600), math.radians(north_arcsec / 3600), 1.0)
    return sky_position(vector)


def _names(archive):
    """Same names for different places, different names for the same place, odd letters."""
    for n in range(4):
        centre = archive.place()
        for _ in range(3):
            archive.block(f"same-name-{n}", "Deep Field", centre, pi=10 + n)
    pairs = (
        ("HUDF", "GOODS-S deep"),
        ("A370", "Abell 370"),
        ("QSO J0124", "ULAS J012+00"),
        ("LBA 14", "Herschel A"),
    )
    for n, names in enumerate(pairs):
        centre = archive.place()
        for k in range(4):
            archive.block(f"two-names-{n}", names[k % 2], centre, at=(k, -k), pi=20 + 2 * n + k % 2)
    odd = (
        "O'Brien's  field",
        "M\xfcller/1 #3",
        "=target= 7",
        "  spaces  ",
        "NGC_253;north",
        "\u201cquoted\u201d",
    )
    for n, name in enumerate(odd):
        centre = archive.place()
        for k in range(3):
            archive.block(f"odd-{n}", name if k else name.lower(), centre, pi=40 + n)


def _mosaics(archive):
    centre = archive.place()
    for n, at in enumerate(_TWO_BY_TWO * 2):
        archive.block("mosaic-2x2", f"NGC 3201 P{n % 4 + 1}", centre, at=at, exposures=4, pi=60)
    centre = archive.place()
    for n, at in enumerate((*_TWO_BY_TWO * 2, (0, 0), (0, 0))):
        archive.block("mosaic-4+1", f"A2714-{'ab'[n > 7]}", centre, at=at, pi=61)
    styles = ("{0} P{1}", "{0}-{2}", "{0}_{1:02d}", "{0} {3}", "{0}-pos{1}", "{0} Field{1}", "{2}{0}{1}")
    bases = ("NGC 4038", "A2744", "HDFS", "NGC 6397", "COSMOS_G", "Orion Bar", "HII")
    for number, (style, base) in enumerate(zip(styles, bases, strict=True)):
        centre = archive.place()
        for n, at in enumerate(_TWO_BY_TWO * 2):
            name = style.format(base, n % 4 + 1, "ABCD"[n % 4], ("SE", "SW", "NW", "NE")[n % 4])
            at = np.asarray(at) * (0.8 + 0.04 * number)
            archive.block(f"mosaic-{number}", name, centre, at=at, exposures=2, pi=63, name=f"ob_{n}")
    centre = archive.place()
    for n, at in enumerate((*_GRID, (29.0, 23.0))):
        for k in range(5 if n < 9 else 10):
            facts = {"run": f"{_PERIODS[k % 3]}.A-0062({'BCD'[k % 3]})", "name": f"UDF-{n + 1:02d}-{k + 1}"}
            facts |= {"exposures": 5, "exptime": 1500.0, "pi": 62}
            archive.block("mosaic-3x3+1", f"UDF-{n + 1:02d}", centre, at=at, **facts)


def _setups(archive):
    """Ranges, adaptive optics, sequences of exposure times, the narrow field."""
    centre = archive.place()
    for k in range(4):
        archive.block("mixed", "HDFS", centre, mode=("WFM-NOAO-N", "WFM-AO-N")[k % 2], request=0.8, pi=70)
    centre = archive.place()
    for k in range(4):
        mode, seeing = (("WFM-NOAO-N", 2.0), ("WFM-AO-N", 0.6))[k % 2]
        archive.block(f"unmixed-{mode}", "NGC 1365", centre, mode=mode, request=seeing, pi=71)
    centre = archive.place()
    for k in range(4):
        mode = ("WFM-NOAO-N", "WFM-NOAO-E")[k % 2]
        archive.block(f"range-{mode}", "SDSS J1430", centre, mode=mode, pi=72)
    for n in range(3):
        centre = archive.place()
        for k in range(9):
            seconds = (30.0, 240.0, 1500.0)[k % 3]
            archive.block(
                f"sequence-{n}-{seconds:g}", f"SN 2015{'abc'[n]}", centre, exptime=seconds, pi=73 + n
            )
    centre = archive.place()
    for k in range(4):
        wide = k % 2
        mode = _WIDE if wide else "NFM-AO-N"
        shots = archive.block(f"narrow-{mode}", "NGC 7469", centre, mode=mode, pi=77)
        for shot in shots:
            shot.taken = bool(wide)
            if not wide:
                shot.ra, shot.dec = _offset(centre, *archive.rng.uniform(-0.5, 0.5, 2))
    centre = archive.place()
    for k in range(6):
        archive.block("turned", "ESO 137-001", centre, angle=15.0 * k, pi=78, service=False)


def _moving(archive):
    for n, name in enumerate(("67P/Churyumov-Gerasimenko", "Titan", "2014 MU69")):
        for _ in range(2):
            for k, shot in enumerate(archive.block(f"moving-{n}", name, archive.place(), pi=80 + n)):
                shot.truth, shot.taken = f"moving-{n}-{shot.ob}-{k}", False
    for shot in archive.block("tracked", "WISE target", archive.place(), pi=84):
        shot.truth, shot.taken = f"tracked-{shot.mjd}", False
        shot.cards["ESO TEL TARG ADDVELALPHA"] = 0.004


def _neighbours(archive):
    """Fields that overlap others and are not the same."""
    for n, (first, second, east) in enumerate(
        (("Lens 1", "XMM-042", 40.0), ("Cluster core", "Void 9", 30.0))
    ):
        centre = archive.place()
        for k in range(3):
            archive.block(f"near-{n}-a", first, centre, pi=90 + 2 * n)
            archive.block(
                f"near-{n}-b", second, centre, at=(east, 0), pi=91 + 2 * n, name=f"{second}-visit{k}"
            )
    # tiles of a survey that just touch
    centre = archive.place()
    for n in range(4):
        for k in range(2):
            archive.block(
                f"tile-{n}", f"Wide-{n + 1}", centre, at=(57.0 * n, 0), exposures=2, pi=95, name=f"W{n}-{k}"
            )
    # what no rule can know: one place under two names by two PIs, three quarters of it in common
    centre = archive.place()
    for _ in range(2):
        archive.block("hard-one", "Pal 5 core", centre, exposures=2, pi=97)
        archive.block("hard-one", "SGR stream", centre, at=(15.0, 0), exposures=2, pi=98)
    # and two targets of one programme, so near and so alike that they pass for a mosaic
    centre = archive.place()
    for side, east in (("E", 0.0), ("W", 42.0)):
        for _ in range(2):
            archive.block(f"hard-two-{side}", f"Cl 0016 {side}", centre, at=(east, 0), exposures=2, pi=99)


def _spoilt(archive):
    """Fields with aborted exposures, bad seeing, bad grades, and headers that lack something."""
    missing = (
        "RA",
        "ESO OBS ID",
        "ESO OBS TARG NAME",
        "ESO INS MODE",
        "ESO OBS PROG ID",
        "ESO OBS AMBI FWHM",
    )
    for n in range(6):
        centre = archive.place()
        blocks = [
            archive.block(f"spoilt-{n}", f"HE {1000 + n}", centre, exposures=4, pi=100 + n) for _ in range(4)
        ]
        short, bad, lost, graded = blocks[0][3], blocks[1][1], blocks[2][0], blocks[3]
        short.exptime, short.taken = 200.0, False
        words = "aborted because of derotator issue" if n % 2 else "aborted due to increasing background"
        archive.log[_arcfile(short)] = words
        bad.seeing, bad.taken = round(2.6 * bad.request, 2), False
        lost.cards[missing[n]] = None
        lost.taken = missing[n] not in ("RA", "ESO INS MODE")
        grade, comment = (
            ("D", "thick clouds"),
            ("C", "seeing 10% out of constraint"),
            ("C", "guiding lost"),
        )[n % 3]
        archive.grades[graded[0].ob][1::2] = [grade, comment]
        for shot in graded:
            shot.taken = shot.taken and n % 3 == 1
    centre = archive.place()
    for _ in range(3):
        archive.block("sky", "Leo T", centre, pi=110)
        archive.block("sky", "Leo T", centre, at=(300.0, 0), exposures=1, kind="SKY", pi=110)
        archive.shots[-1].ob = archive.shots[-2].ob
        archive.shots[-1].truth, archive.shots[-1].taken = "SKY", False


def _plain_fields(archive, until):
    """Fields without a trap, over several periods, until there are enough exposures."""
    number = 0
    while len(archive.shots) < until:
        centre, pi = archive.place(), 200 + number
        single = number % 7 == 0
        for k in range(1 if single else 2 + number % 5):
            run = f"{_PERIODS[k % 3]}.{'ABCD'[number % 4]}-{pi:04d}({'ABC'[k % 3]})"
            room = until - len(archive.shots)
            exposures = min(1 + number % 4 if single else 2 + k % 3, room)
            if exposures:
                facts = {"exposures": exposures, "run": run, "pi": pi, "service": number % 3 > 0}
                archive.block(f"plain-{number}", f"Source {number}", centre, **facts)
        number += 1


def simulate_archive(directory, headers=2000, seed=1, spare_cards=500):
    """Write an archive of raw frames that have headers only.

    It has same names for different places and different names for one place, several PIs and periods, mosaics
    of 2 x 2, 4 + 1 and 3 x 3 + 1 pointings, moving targets, the narrow field, sequences of exposure times, AO
    beside NOAO, aborted exposures, missing keywords and odd characters.

    Parameters
    ----------
    directory : path
        Made when it is missing.
    headers : int
        Number of files; what is not needed for all the traps (931) goes into plain fields, and with
        fewer, every trap has its place still if `headers` is at least that.
    seed : int
    spare_cards : int
        Cards of each header that nobody asks for: real ones have more than a thousand.

    Returns
    -------
    paths : list of Path
        The files. Beside them lie ``ob_grades.csv``, ``nightlog.csv`` and ``truth.json``, which has the
        dataset of each DATE-OBS and whether it should be taken.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    archive = _Archive(seed)
    for part in (_names, _mosaics, _setups, _moving, _neighbours, _spoilt):
        part(archive)
    _plain_fields(archive, headers)
    spare = _spare(spare_cards)
    truth, paths = {}, []
    for n in archive.rng.permutation(len(archive.shots)):
        shot = archive.shots[n]
        path = directory / f"{_arcfile(shot)}.fits"
        path.write_bytes(_header_bytes(_cards(shot), spare))
        paths.append(path)
        truth[_date(shot)] = {"dataset": shot.truth, "taken": shot.taken, "target": shot.target}
    _write_csv(directory / "ob_grades.csv", ("ob_id", "mode", "grade", "ambi_req", "comment"), [
        (ob, *facts) for ob, facts in archive.grades.items()
    ])  # fmt: skip
    _write_csv(directory / "nightlog.csv", ("arcfile", "comment"), archive.log.items())
    (directory / "truth.json").write_text(json.dumps(truth, indent=1))
    return sorted(paths)


def _write_csv(path, names, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def _date(shot):
    return Time(round(shot.mjd, 8), format="mjd").isot


def _arcfile(shot):
    return f"MUSE.{_date(shot)}"


def _cards(shot):
    cards = {
        "INSTRUME": "MUSE",
        "OBJECT": shot.target,
        "RA": shot.ra,
        "DEC": shot.dec,
        "EXPTIME": shot.exptime,
        "MJD-OBS": round(shot.mjd, 8),
        "DATE-OBS": _date(shot),
        "ARCFILE": f"{_arcfile(shot)}.fits",
        "ESO DPR CATG": "SCIENCE",
        "ESO DPR TYPE": shot.kind,
        "ESO DPR TECH": "IFU",
        "ESO INS MODE": shot.mode,
        "ESO INS DROT MODE": "SKY",
        "ESO INS DROT POSANG": -(shot.angle % 360),
        "ESO OBS ID": shot.ob,
        "ESO OBS NAME": shot.ob_name,
        "ESO OBS PROG ID": shot.run,
        "ESO OBS PI-COI ID": 70000 + shot.pi,
        "ESO OBS TARG NAME": shot.target,
        "ESO OBS AMBI FWHM": None if math.isnan(shot.request) else shot.request,
        "ESO OBS AMBI TRANS": "2CLR",
        "ESO TEL AMBI FWHM START": shot.seeing,
        "ESO TEL AMBI FWHM END": shot.seeing,
        "ESO TEL TARG PMA": 0.0,
    }
    return {name: value for name, value in (cards | shot.cards).items() if value is not None}


def _card(name, value):
    if isinstance(value, str):
        text = "'" + value.replace("'", "''").ljust(8) + "'"
    elif isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    else:
        text = f"{value!r:>20}"
    head = f"{name:<8}= " if len(name) <= 8 else f"HIERARCH {name} = "
    # as observers type them: bytes that no standard allows
    return (head + text).encode("latin-1", errors="replace")[:80].ljust(80)


def _spare(count):
    return b"".join(_card(f"ESO INS SENS{n} VAL", 1.5 + n) for n in range(count))


def _header_bytes(cards, spare):
    fixed = {"SIMPLE": True, "BITPIX": 8, "NAXIS": 0, "EXTEND": True}
    lines = b"".join(_card(name, value) for name, value in fixed.items())
    lines += spare + b"".join(_card(name, value) for name, value in cards.items()) + b"END".ljust(80)
    return lines.ljust(-(-len(lines) // _BLOCK) * _BLOCK)
