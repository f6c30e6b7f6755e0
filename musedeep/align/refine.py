"""Leave-one-out recentring: every image against the stack of all others, until nothing moves."""

from dataclasses import dataclass

import numpy as np

from musedeep.align.joint import moved
from musedeep.align.registration import correlate, make_canvas, register

__all__ = ["Recentred", "Stack", "place_by_correlation", "recentre"]

_ROUNDS = 8
_STILL_ARCSEC = 0.001
_SIGNIFICANT = 6.0


@dataclass(frozen=True)
class Recentred:
    """What the images say.

    Attributes
    ----------
    offsets : list of Offset
    matches : list of Match or None
        Of the last round: what is left of the shift of each image against the stack of the others.
    """

    offsets: list
    matches: list


def place_by_correlation(images, offsets, placed, frame, reach):
    """Place images on the stack of those that are placed already, one after the other.

    Parameters
    ----------
    images : list of WhiteImage
    offsets : list of Offset
    placed : ndarray of bool
        Those to build on; where none is, the one with most pixels is the first.
    frame : ndarray, shape (3, 3)
    reach : float
        Largest shift to look for, arcsec.

    Returns
    -------
    offsets : list of Offset
    placed : ndarray of bool
        False for those that are not like the others anywhere within reach.
    """
    offsets, placed = list(offsets), np.array(placed)
    data = np.array([int(np.isfinite(image.flux).sum()) for image in images])
    if not placed.any() and data.any():
        placed[int(np.argmax(data))] = True
    canvas = make_canvas(frame, images, offsets, reach)
    stack = Stack(canvas)
    for n in np.flatnonzero(placed):
        stack.add(images[n], offsets[n])
    left = np.flatnonzero(~placed & (data > 0))
    waiting = {int(n): np.isfinite(canvas.draw(images[n], offsets[n])) for n in left}
    while waiting:
        # first the one that shares most with what is placed already: there is least to go wrong
        covered = stack.count > 0
        n = max(waiting, key=lambda n: int((waiting[n] & covered).sum()))
        del waiting[n]
        image = canvas.draw(images[n], offsets[n])
        found = correlate(image, stack.mean(), reach / canvas.step_arcsec)
        if found is None or found[1] < _SIGNIFICANT:
            continue
        row, column = found[0]
        shift = np.array([-column, row]) * canvas.step_arcsec
        offset = moved(images[n], offsets[n], shift)
        match = register(canvas.draw(images[n], offset), stack.mean(), canvas.step_arcsec)
        if match is None:
            continue
        offsets[n], placed[n] = moved(images[n], offset, match.shift, scale=_correction(match)), True
        stack.add(images[n], offsets[n])
    return offsets, placed


def recentre(images, offsets, movable, used, frame):
    """Move images onto the stack of the others until nothing moves.

    Parameters
    ----------
    images : list of WhiteImage
    offsets : list of Offset
    movable, used : ndarray of bool
        Which ones to move, and which make the stack.
    frame : ndarray, shape (3, 3)

    Returns
    -------
    Recentred
    """
    offsets, matches = list(offsets), [None] * len(images)
    others = max(int(used.sum()) - 1, 1)
    for _ in range(_ROUNDS):
        canvas = make_canvas(frame, images, offsets)
        stack = Stack(canvas)
        for n in np.flatnonzero(used):
            stack.add(images[n], offsets[n])
        largest = 0.0
        for n in np.flatnonzero(movable):
            image = canvas.draw(images[n], offsets[n]) * np.float32(offsets[n].flux_scale)
            matches[n] = register(image, stack.mean(without=image if used[n] else None), canvas.step_arcsec)
            if matches[n] is None:
                continue
            # The others move too: all the way would overshoot.
            share = others / (others + 1) if movable.sum() > 1 else 1.0
            factor = _correction(matches[n]) ** share
            offsets[n] = moved(images[n], offsets[n], share * matches[n].shift, scale=factor)
            largest = max(largest, float(np.abs(matches[n].shift).max()))
        if largest < _STILL_ARCSEC:
            break
    return Recentred(offsets, matches)


def _correction(match):
    """Factor that brings the flux of an image to that of the stack."""
    return 1 / match.scale if match.scale > 0 else 1.0


class Stack:
    """Mean of images on a canvas, fluxes on one scale.

    Parameters
    ----------
    canvas : Canvas
    """

    def __init__(self, canvas):
        self.canvas = canvas
        self.total = np.zeros(canvas.shape)
        self.count = np.zeros(canvas.shape, np.int32)

    def add(self, image, offset):
        """Add a `WhiteImage`, its `Offset` taken off."""
        drawn = self.canvas.draw(image, offset) * np.float32(offset.flux_scale)
        good = np.isfinite(drawn)
        self.total[good] += drawn[good]
        self.count += good

    def mean(self, without=None):
        """The mean, NaN without data; without one of the images that were added, as it was drawn."""
        total, count = self.total, self.count
        if without is not None:
            good = np.isfinite(without)
            total = total - np.where(good, without, 0)
            count = count - good
        return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0).astype(np.float32)
