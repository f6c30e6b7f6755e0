"""An exposure from its raw frame to its reduced table in one task, with nothing written in between."""

import shutil
import time
from dataclasses import dataclass, replace

from musedeep.errors import InputError
from musedeep.reduce.recipes import RecipeRun
from musedeep.reduce.tasks import (
    Task,
    finished,
    native_run,
    native_scipost,
    record_of,
    remember,
    run_task,
    wrong_states,
)

__all__ = ["FUSED_METHODS", "FusedTask", "run_step"]

FUSED_METHODS = ("none", "subtract-model")
"""Methods of the sky subtraction for which the rows of an exposure are needed once."""


@dataclass(frozen=True)
class FusedTask:
    """All steps of an exposure.

    Attributes
    ----------
    science : Task
        The last one, as if all IFUs had their tables.
    basic : tuple of Task
        The first one of each IFU.
    """

    science: Task
    basic: tuple

    @property
    def words(self):
        """What the task is, for messages."""
        return f"all steps of {self.science.exposure}"


def run_step(task):
    """Run a task.

    Parameters
    ----------
    task : Task or FusedTask

    Returns
    -------
    dict
        As for `musedeep.reduce.tasks.run_task`; for a `FusedTask` that of its last step, with the records of
        the first one of each IFU under ``ifus``.
    """
    return _run_fused(task) if isinstance(task, FusedTask) else run_task(task)


def _run_fused(task):
    known = finished(task.science.folder, task.science.key)
    # one that was done step by step does not tell of its IFUs
    if known is not None and "ifus" in known:
        return known
    ifus = {basic.ifu: _Ifu(basic) for basic in task.basic}
    while True:
        sources = [ifu.rows for ifu in ifus.values() if ifu.rows is not None]
        science, run, broken = _run_science(task, sources)
        if broken is None:
            break
        # begun anew without it, for part of its rows are in what was written
        ifus[broken.ifu].leave_out(broken)
    problems = run.problems or wrong_states(science, run)
    record = record_of(science, run, problems)
    record["ifus"] = [ifu.record() for ifu in ifus.values()]
    if not problems and len(sources) == len(ifus):
        remember(science, record)
    return record


def _run_science(task, sources):
    """The last step with some IFUs: the task, what came of it, and what is wrong with an IFU, or None."""
    from musedeep.reduce.native.scibasic import BrokenIfu

    frames = [frame for frame in task.science.frames if not frame[1].startswith("PIXTABLE_")]
    science = replace(task.science, frames=(task.basic[0].frames[0], *frames), ifu_count=max(len(sources), 1))
    names = {path: name for step in (*task.basic, science) for path, _, name in step.frames}
    broken = []

    def work():
        if not sources:
            raise InputError("muse_scibasic failed for every IFU")
        try:
            return native_scipost(replace(science, frames=tuple(frames)), names, sources)
        except BrokenIfu as error:
            broken.append(error)
            raise

    return science, native_run(science, work), broken[0] if broken else None


class _Ifu:
    """The first step of an IFU, whose rows are made when they are wanted."""

    def __init__(self, task):
        from musedeep.reduce.native import IfuRows

        self.task, self.problem, self.rows = task, "", None
        began = time.monotonic()
        (raw, tag, _), *others = task.frames
        names = {path: name for path, _, name in task.frames}
        try:
            self.rows = IfuRows(raw, tag, task.ifu, {kind: path for path, kind, _ in others}, names)
        except InputError as error:
            self.problem = str(error)
        self.seconds = time.monotonic() - began

    def leave_out(self, error):
        """Do without it."""
        self.rows, self.problem = None, str(error)

    def record(self):
        """The record of the step, and its log in the folder that its table would have been in."""
        shutil.rmtree(self.task.folder, ignore_errors=True)
        self.task.folder.mkdir(parents=True)
        qc, words, problems = {}, f"[ ERROR ] {self.problem}", [self.problem]
        if self.rows is not None:
            problems = []
            qc = {"SCIBASIC LAMBDA SHIFT": self.rows.shift, "SCIBASIC NSATURATED": self.rows.saturated}
            facts = {"rows": self.rows.row_count} | qc
            words = ", ".join(f"{name} {value}" for name, value in facts.items())
        log = f"{self.task.parameters['backend']}: {words}\n"
        (self.task.folder / "recipe.log").write_text(log)
        run = RecipeRun(
            "native", self.task.folder, 4 if problems else 0, self.seconds, timed_out=False,
            problems=problems, errors=problems,
        )  # fmt: skip
        return record_of(self.task, run, problems, qc=qc)
