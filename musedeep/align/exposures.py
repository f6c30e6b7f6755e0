"""Measure the offsets of exposures: images, sources, the joint fit, and what else is needed."""

import dataclasses
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from musedeep.align.check import check_offsets
from musedeep.align.effort import images_at_once
from musedeep.align.images import exposure_image, read_image
from musedeep.align.joint import Member, align_sources, common_frame, moved
from musedeep.align.products import read_places
from musedeep.align.ratios import scaled_by_images
from musedeep.align.references import read_reference
from musedeep.align.refine import place_by_correlation, recentre
from musedeep.align.sources import find_sources
from musedeep.align.table import is_off_scale, offset_table, qc_cards
from musedeep.errors import InputError
from musedeep.execute import run_tasks
from musedeep.images import WHITE, read_filters
from musedeep.layout import WIDEST_FIELD_DEG
from musedeep.offsets import Offset, OffsetTable
from musedeep.settings import AlignSettings
from musedeep.sky import sky_frame

__all__ = ["Alignment", "NothingInCommonError", "Result", "align_exposures"]

# The ladder of thresholds, as parts of the first: it is climbed down until every exposure has a solution.
_LADDER = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
# What has no solution yet may share sources with others only this near to its border, pixels.
_AT_THE_BORDER = 2.0
_CROWDED_MOST = 300
_FEWEST = 3
# Where fewer of the peaks than this can be fitted as sources, stars are blended and images say more; the same
# where no image shows the PSF.
_UNBLENDED = 0.35
_UNBLENDED_AND_CLEAR = 0.5
_WARN_SCALE = 2.0
# A flux scale that is known less well than this, and could be 1, is taken for 1.
_KNOWN_SCALE = 0.05
# What scales of images are wrong by where one is blurred to look like the other.
_BLURRING = 0.03
# The same of an image in which not even the PSF could be told from cosmic rays and blends.
_GUESSED = 0.2
_NEAR_ARCSEC = 3.0
# How often what the sources do not place is placed by its image, and then by sources once more.
_PLACINGS = 3


class NothingInCommonError(InputError):
    """No image could be placed on another one."""


@dataclass(frozen=True)
class Result:
    """What was measured of all exposures, in the order of the images.

    Attributes
    ----------
    images : list of WhiteImage
    sources : list of Sources
    offsets : list of Offset
    shift_errors : ndarray, shape (N, 2), arcsec
    rotation_errors, scale_errors : ndarray, shape (N,), degrees and relative; NaN where unknown
    scale_known : ndarray, shape (N,), bool
        False where the flux scale could not be measured and is kept at 1.
    methods : list of str
        'sources', 'image' or 'header'.
    matched : ndarray, shape (N,), int
        Sources of each exposure that the fit counts.
    residuals : list of ndarray, shape (n, 4), arcsec
        Of each exposure's matched sources: east and north on the sky, and what is left in each.
    preset, reason : str
        Kind of field, and why.
    """

    images: list = field(repr=False)
    sources: list = field(repr=False)
    offsets: list
    shift_errors: np.ndarray
    rotation_errors: np.ndarray
    scale_errors: np.ndarray
    scale_known: np.ndarray
    methods: list
    matched: np.ndarray
    residuals: list = field(repr=False)
    preset: str
    reason: str


class Alignment(OffsetTable):
    """Measured offsets, with all that was learned on the way.

    Attributes
    ----------
    result : Result
    check : Check
        Each exposure against the others, with these offsets.
    settings : AlignSettings
    set_aside : list of str
        DATE-OBS of exposures that are left out when the others are combined.
    notes : list of str
        Sentences for the user.
    """

    def __init__(self, table, result, check, settings, set_aside, notes):
        super().__init__(table)
        self.settings = settings
        self.result = result
        self.check = check
        self.set_aside = set_aside
        self.notes = notes

    @property
    def verdict(self):
        """'aligned', or 'suspicious: ' and the exposures."""
        return self.check.verdict

    def write(self, path, **cards):
        """Write the table, as `OffsetTable.write`; an OFFSET_LIST also gets its QC keywords, and `cards`."""
        from astropy.io import fits

        path = Path(path)
        if path.suffix != ".fits":
            return super().write(path)
        partial_path = path.with_name(f".{path.stem}.new.fits")
        super().write(partial_path)
        with fits.open(partial_path, mode="update") as hdus:
            for keyword, value, comment in qc_cards(self):
                name = f"ESO QC EXPALIGN {keyword}"
                # a card holds 80 characters
                room = len(f"HIERARCH {name} = {value!r} / {comment}") <= 78
                hdus[0].header[f"HIERARCH {name}"] = (value, comment if room else "")
            hdus[0].header.update({f"HIERARCH {name}": value for name, value in cards.items()})
            hdus[0].add_checksum()
        partial_path.replace(path)
        return path


def align_exposures(exposures, *, client=None, progress=None, **changes):
    """Measure shift, flux scale and, if asked for, rotation of every exposure.

    Parameters
    ----------
    exposures : Field, or list of paths
        A field, whose images are made of its pixel tables (or are read from the folder `images`), or
        IMAGE_FOV files.
    client : distributed.Client, optional
        Where images are made and sources are found; threads of this process by default.
    progress : Progress, optional
        Is advanced by one for each image.
    **changes
        Settings of `AlignSettings` by their names.

    Returns
    -------
    Alignment
        An `OffsetTable`, one row an exposure, in the order of DATE-OBS; errors, numbers of sources and a
        quality word stand in further columns. The first exposure, or the reference, has the offset 0.

    Raises
    ------
    InputError
        There are fewer than two images, one of them is broken, they are of different filters, or none of
        them overlaps another (`NothingInCommonError`).
    UsageError
        A setting is not allowed.
    """
    own = getattr(exposures, "settings", None)
    settings = dataclasses.replace(own.align, **changes) if own is not None else AlignSettings(**changes)
    read, items = _readers(exposures, settings)
    workers = images_at_once(own.run, len(items), client) if own is not None else None
    images, sources = _images_and_sources(read, items, settings, client, workers, progress)
    _check_spread(images)
    preset, reason = _preset(settings, sources)
    detected = not settings.override_detection
    if preset == "crowded" and settings.srcmax < _CROWDED_MOST and detected:
        settings = dataclasses.replace(settings, srcmax=_CROWDED_MOST)
        sources = [find_sources(image, settings) for image in images]
    result = _measured(images, sources, settings, preset, reason)
    check = check_offsets(images, result.sources, result.offsets, settings)
    set_aside, notes = _judged(result, settings)
    table = offset_table(result, check, settings)
    return Alignment(table, result, check, settings, set_aside, [*notes, *check.notes])


def _readers(exposures, settings):
    """The function that makes an image, and the items that it is called with."""
    if not hasattr(exposures, "sources"):
        paths = [exposures] if isinstance(exposures, str | Path) else list(exposures)
        return read_image, sorted(map(Path, paths))
    if settings.images:
        found = {}
        for path in sorted(Path(settings.images).glob("IMAGE_FOV*.fits")):
            found[read_image(path).date_obs] = path
        missing = [date for date in exposures.exposures.dates if date[:23] not in found]
        if missing:
            raise InputError(
                f"{settings.images}: holds no IMAGE_FOV*.fits with DATE-OBS {missing[0]} "
                f"({len(missing)} of {len(exposures.exposures)} are missing); make the images of the pixel "
                "tables instead (leave `images` empty)"
            )
        return read_image, [found[date[:23]] for date in exposures.exposures.dates]
    curve = WHITE
    if settings.band != "white":
        listed = exposures.settings.products.filter_list
        curve = read_filters([settings.band], Path(listed) if listed else None)[0]
    return partial(exposure_image, curve=curve), list(exposures.exposures)


def _read_and_find(numbered, read, settings, places):
    image = read(numbered[1])
    given = None if places is None else places.get(image.date_obs, np.empty((0, 2)))
    return image, find_sources(image, settings, given)


def _images_and_sources(read, items, settings, client, workers, progress):
    if len(items) < 2:
        raise InputError(f"align: {len(items)} image was given, but two or more are needed to compare them")
    given = Path(settings.override_detection) if settings.override_detection else None
    places = read_places(given) if given else None
    task = partial(_read_and_find, read=read, settings=settings, places=places)
    numbered = list(enumerate(items))
    done = run_tasks(task, numbered, client=client, workers=workers, progress=progress, describe=_name_of)
    # in the order of the items first, so that of two with one date always the same one is named first
    found = [pair for _, pair in sorted(done, key=lambda entry: entry[0][0])]
    found.sort(key=lambda pair: pair[0].date_obs)
    images, sources = [image for image, _ in found], [listed for _, listed in found]
    _check_images(images)
    if given and not any(image.date_obs in places for image in images):
        raise InputError(
            f"{given}: none of its DATE_OBS, as {next(iter(places), 'nothing')}, is that of an image, as "
            f"{images[0].date_obs}; give the list that belongs to these images"
        )
    return images, sources


def _name_of(numbered):
    return str(getattr(numbered[1], "date_obs", numbered[1]))


def _check_images(images):
    dates = [image.date_obs for image in images]
    for first, second in zip(images, images[1:], strict=False):
        if first.date_obs == second.date_obs:
            raise InputError(
                f"align: {first.name} and {second.name} both have DATE-OBS {first.date_obs}; give each "
                "exposure once"
            )
    filters = {image.filter_name: image.name for image in images}
    if len(filters) > 1:
        found = ", ".join(f"{name!r} in {where}" for name, where in filters.items())
        raise InputError(f"align: the images are of different filters: {found}; make them with one filter")
    if not any(np.isfinite(image.flux).any() for image in images):
        raise InputError(f"align: none of the {len(dates)} images holds any data; make them anew")


def _check_spread(images):
    """Refuse exposures that no image can hold together."""
    first = sky_frame(images[0].ra_deg, images[0].dec_deg)[:, 2]
    for image in images:
        ahead = float(sky_frame(image.ra_deg, image.dec_deg)[:, 2] @ first)
        apart = math.degrees(math.acos(min(ahead, 1.0)))
        if apart > WIDEST_FIELD_DEG:
            raise InputError(
                f"{image.name} lies {apart:.2f} degrees from {images[0].name}: they have no common field; "
                f"at most {WIDEST_FIELD_DEG:g} degrees make one cube. Combine them apart, or correct its "
                "pointing."
            )


def _preset(settings, sources):
    """Kind of field, and why."""
    if settings.preset != "auto":
        return settings.preset, "as the settings say"
    peaks = np.median([listed.first_detected for listed in sources])
    usable = np.median([len(listed) for listed in sources])
    if usable < _FEWEST:
        return "extended", f"the median image has {usable:.0f} sources, fewer than {_FEWEST}"
    share = np.median([len(listed) / max(min(listed.detected, settings.srcmax), 1) for listed in sources])
    clear = np.mean([listed.points for listed in sources]) >= 0.5
    if share < (_UNBLENDED if clear else _UNBLENDED_AND_CLEAR):
        return "extended", f"only {100 * share:.0f} % of the peaks are sources that can be told apart"
    if peaks > settings.srcmax:
        return "crowded", f"the median image has {peaks:.0f} sources above the threshold"
    return "normal", f"the median image has {usable:.0f} sources"


def _measured(images, sources, settings, preset, reason):
    extra = [read_reference(settings)] if settings.reference else []
    count = len(images)
    joint, sources = _by_sources(images, sources, extra, settings, preset)
    members = [*(Member.of(image, listed) for image, listed in zip(images, sources, strict=True)), *extra]
    if joint.solved.any() and _largest(joint) > _NEAR_ARCSEC:
        # Once more from what is nearly right: shifts of half an arcmin turn the direction of north a little.
        joint = align_sources(members, settings, _relative_to(members, joint.offsets, _first(joint, extra)))
    offsets, methods = joint.offsets, ["sources" if good else "header" for good in joint.solved[:count]]
    errors, scale_errors = joint.shift_errors[:count].copy(), joint.scale_errors[:count].copy()
    for _ in range(_PLACINGS):
        if preset != "extended" and joint.solved[:count].all():
            break
        placed, methods = _by_images(
            images, offsets[:count], joint.solved[:count], methods, errors, scale_errors, settings, preset
        )
        offsets = [*placed, *joint.offsets[count:]]
        if preset == "extended":
            break
        # The images told where to look; the sources tell it better.
        again = align_sources(members, settings, offsets, search=False)
        sure = again.solved & np.array([*(how != "header" for how in methods), *again.solved[count:]])
        again = dataclasses.replace(again, solved=sure)
        if sure.sum() <= joint.solved.sum():
            break
        joint = again
        offsets = [new if good else old for new, old, good in zip(joint.offsets, offsets, sure, strict=True)]
        methods = ["sources" if now else how for now, how in zip(joint.solved, methods, strict=False)]
        errors = np.where(joint.solved[:count, None], joint.shift_errors[:count], errors)
        scale_errors = np.where(joint.solved[:count], joint.scale_errors[:count], scale_errors)
    offsets = _relative_to(members, offsets, _pinned(joint, methods, extra, count))
    offsets = _scaled(offsets, joint, methods, extra)
    points = np.array([listed.points for listed in sources])
    if settings.fit_scale and "image" in methods:
        offsets, scale_errors = scaled_by_images(images, offsets, methods, scale_errors)
    if preset != "extended":
        guessed = np.array([how == "image" for how in methods]) & ~points
        scale_errors = np.where(guessed, np.hypot(scale_errors, _GUESSED), scale_errors)
    offsets, scale_known = _without_guesses(offsets, scale_errors)
    return Result(
        images,
        sources,
        offsets,
        errors,
        joint.rotation_errors[:count],
        scale_errors,
        scale_known,
        methods,
        joint.positions.counts[:count],
        _residuals(members[:count], offsets, joint),
        preset,
        reason,
    )


def _largest(joint):
    """Largest offset in declination, or of its size in right ascension, arcsec."""
    return 3600 * max(max(abs(o.ra_deg), abs(o.dec_deg)) for o in joint.offsets)


def _first(joint, extra):
    """The reference, or the first member that is solved."""
    return len(joint.offsets) - 1 if extra else int(np.flatnonzero(joint.solved)[0])


def _by_sources(images, sources, extra, settings, preset):
    """Joint fit, with fainter sources, and those at the border, of exposures that have no solution yet."""
    sources = list(sources)
    for part in _LADDER if preset != "extended" else _LADDER[:1]:
        members = [Member.of(image, listed) for image, listed in zip(images, sources, strict=True)]
        joint = align_sources([*members, *extra], settings)
        lacking = np.flatnonzero(~joint.solved[: len(images)])
        if len(lacking) == 0 or part == _LADDER[-1] or preset == "extended" or settings.override_detection:
            break
        lower = dataclasses.replace(
            settings,
            threshold=settings.threshold * _LADDER[_LADDER.index(part) + 1],
            bpixdistance=min(settings.bpixdistance, _AT_THE_BORDER),
        )
        anew = {n: find_sources(images[n], lower) for n in lacking}
        if all(len(anew[n]) == len(sources[n]) for n in lacking):
            break
        for n, listed in anew.items():
            sources[n] = listed
    return joint, sources


def _by_images(images, offsets, solved, methods, errors, scale_errors, settings, preset):
    """Place by their images what the sources do not place; in an extended field, all."""
    if preset == "extended":
        offsets, solved = [Offset()] * len(images), np.zeros(len(images), bool)
    frame = common_frame(images)
    offsets, placed = place_by_correlation(images, offsets, solved, frame, settings.rsearch[0])
    if placed.sum() < 2:
        return offsets, methods
    movable = placed.copy() if preset == "extended" else placed & ~solved
    found = recentre(images, offsets, movable, placed, frame)
    methods = list(methods)
    for n in np.flatnonzero(movable):
        if found.matches[n] is not None:
            methods[n] = "image"
            errors[n] = found.matches[n].error
            share = found.matches[n].scale_error / max(found.matches[n].scale, 1e-9)
            scale_errors[n] = math.hypot(share, _BLURRING)
    if "sources" not in methods and "image" not in methods:
        raise NothingInCommonError("align: no two of the images show the same; check that they overlap")
    return found.offsets, methods


def _pinned(joint, methods, extra, count):
    """Number of the member that all others are relative to; None where it has no solution."""
    if extra:
        if not joint.solved[count]:
            raise InputError(
                "align: the reference has too few sources in common with the images; check its coordinates, "
                "raise the first value of rsearch, or leave the reference out"
            )
        return count
    known = [n for n, method in enumerate(methods) if method != "header"]
    if not known:
        raise NothingInCommonError(
            "align: no image could be matched with another one, neither by sources nor as a whole; check "
            "that they overlap on the sky, and raise the first value of rsearch if headers are off by more"
        )
    return known[0]


def _relative_to(members, offsets, pinned):
    """The same offsets with that of one member taken off all."""
    at = offsets[pinned]
    dec = math.radians(at.pointing(0.0, members[pinned].dec_deg)[1])
    shift = np.array([at.ra_deg * math.cos(dec), at.dec_deg]) * 3600
    turn = math.radians(at.rotation_deg)
    result = [moved(member, offset, -shift, -turn) for member, offset in zip(members, offsets, strict=True)]
    result[pinned] = Offset(flux_scale=at.flux_scale)
    return result


def _scaled(offsets, joint, methods, extra):
    """Offsets of the exposures, flux scales relative to the reference, or to the median exposure.

    What has no solution stays where its header says.
    """
    known = [offset.flux_scale for offset, m in zip(offsets, methods, strict=False) if m != "header"]
    unit = float(np.median(known))
    if extra and math.isfinite(joint.scale_errors[-1]):
        unit = offsets[-1].flux_scale
    return [
        dataclasses.replace(offset, flux_scale=offset.flux_scale / unit) if method != "header" else Offset()
        for offset, method in zip(offsets, methods, strict=False)
    ]


def _without_guesses(offsets, errors):
    """Offsets with the flux scale 1 where a measured one says no more than that; and where one is known."""
    scales = np.array([offset.flux_scale for offset in offsets])
    with np.errstate(invalid="ignore"):
        known = (errors <= _KNOWN_SCALE) | (np.abs(np.log(scales)) > 3 * errors)
    kept = np.where(known, scales, 1.0).tolist()
    result = [dataclasses.replace(one, flux_scale=value) for one, value in zip(offsets, kept, strict=True)]
    return result, known


def _residuals(members, offsets, joint):
    """Places and residuals of the matched sources of every exposure."""
    frame = common_frame(members)
    result = []
    for n, (member, offset) in enumerate(zip(members, offsets, strict=True)):
        mine = (joint.catalogue.exposure == n) & (joint.positions.weights > 0.1)
        places = member.places(frame, offset)[joint.catalogue.row[mine]]
        result.append(np.column_stack([places, joint.positions.residuals[mine]]))
    return result


def _judged(result, settings):
    """Exposures to set aside, and sentences about what is unusual."""
    set_aside, notes = [], [f"preset {result.preset}: {result.reason}"]
    for n, (image, offset, method) in enumerate(
        zip(result.images, result.offsets, result.methods, strict=True)
    ):
        factor = 1 / offset.flux_scale
        brightness = f"exposure {image.date_obs}: its fluxes are {factor:.2g} times those of the others"
        if method == "header":
            kept = "kept where its header says" if settings.unsolved == "header" else "left out"
            notes.append(f"exposure {image.date_obs}: no solution; it is {kept}")
            set_aside += [image.date_obs] if settings.unsolved == "omit" else []
        elif is_off_scale(offset, settings):
            set_aside.append(image.date_obs)
            notes.append(f"{brightness}; it is left out: calibrate it anew, or raise scale_limit")
        elif settings.fit_scale and not result.scale_known[n]:
            error = result.scale_errors[n]
            told = f"to {100 * error:.0f} % only" if math.isfinite(error) else "not at all"
            notes.append(
                f"exposure {image.date_obs}: its flux scale is not measured (its sources tell it {told}); it "
                "is taken for 1"
            )
        elif settings.fit_scale and max(factor, 1 / factor) > _WARN_SCALE:
            notes.append(brightness)
    return set_aside, notes
