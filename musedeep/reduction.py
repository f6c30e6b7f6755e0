"""Every setting of the reduction of raw frames, declared once."""

import dataclasses
import difflib
from dataclasses import dataclass

from musedeep.errors import UsageError
from musedeep.kinds import Choice, FilePath, Memory, Number, Switch, memory_bytes

__all__ = ["ReductionSettings"]


def _setting(default, kind, text):
    return dataclasses.field(default=default, metadata={"kind": kind, "help": text})


@dataclass(frozen=True)
class ReductionSettings:
    """How raw frames are reduced."""

    backend: str = _setting(
        "esorex",
        Choice("esorex", "native", "auto"),
        "what reduces frames: ESO's recipes (esorex), musedeep itself (native), or whichever can (auto), "
        "native first",
    )
    case: str = _setting(
        "auto",
        Choice("auto", "sky", "no-sky", "crowded"),
        "case of the release: with a SKY frame, without, or a crowded field; auto looks for SKY frames",
    )
    with_sky: str = _setting(
        "subtract-model",
        Choice("subtract-model", "model"),
        "skymethod of exposures with a SKY frame",
    )
    sky_fraction: float = _setting(
        0.2, Number(above=0, high=1), "skymodel_fraction of exposures without a SKY frame"
    )
    sky_hours: float = _setting(
        4.0, Number(above=0), "a SKY frame is taken for exposures of its OB, or within so many hours"
    )
    arc_days: float = _setting(1.5, Number(above=0), "an arc further away sets bit 4 of QCFLAG")
    saturation: int = _setting(
        300, Number(low=1, integer=True), "so many saturated pixels set bit 6 of QCFLAG"
    )
    shift: float = _setting(
        0.2, Number(above=0), "a shift of the sky lines (Angstrom) of this size sets bit 9 of QCFLAG"
    )
    fov_image: bool = _setting(
        True,
        Switch(),
        "make an IMAGE_FOV of every exposure, for which the recipe has to make a cube (native does not)",
    )
    keep: bool = _setting(
        False, Switch(), "keep the tables of every IFU, so that another sky subtraction need not redo them"
    )
    esorex: str = _setting("", FilePath(), "the esorex command (empty: the one on the PATH)")
    threads: int = _setting(1, Number(low=1, integer=True), "threads of each recipe")
    recipe_memory: str = _setting("32GB", Memory(), "memory that each recipe may use")
    timeout_minutes: float = _setting(
        240.0, Number(above=0), "a recipe that takes longer is stopped and tried again"
    )
    retries: int = _setting(
        1, Number(low=0, integer=True), "how often a recipe that crashed or hung is tried again"
    )

    def __post_init__(self):
        for item in dataclasses.fields(self):
            value = item.metadata["kind"].check(item.name, getattr(self, item.name))
            object.__setattr__(self, item.name, value)

    @classmethod
    def of(cls, changes):
        """Settings with some of them changed.

        Parameters
        ----------
        changes : dict of str to value

        Raises
        ------
        UsageError
            A name is unknown (the nearest known one is named), or a value is not allowed.
        """
        known = {item.name: item for item in dataclasses.fields(cls)}
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"; did you mean {close[0]!r}?" if close else f". Known are: {', '.join(known)}"
                raise UsageError(f"reduce: unknown setting {name!r}{hint}")
        return cls(**changes)

    @property
    def recipe_bytes(self):
        """The memory of a recipe in bytes."""
        return memory_bytes(self.recipe_memory)
