"""How the work of a run that goes on is printed."""

import time

from musedeep.cli.output import bytes_text
from musedeep.progress import duration

__all__ = ["work_lines"]


def work_lines(work):
    """Lines about the work that goes on: how far, how long still, what failed, and the workers."""
    if work is None:
        return []
    total = "" if work["total"] is None else f"/{work['total']}"
    line = f"{work['label']}: {work['done']}{total} {work['unit']}, {work['rate']:.3g}/s"
    if work["seconds_left"] is not None:
        line += f", {duration(work['seconds_left'])} left"
    lines = [f"{line}, {len(work['failures'])} failures (told {duration(time.time() - work['written'])} ago)"]
    lines += [f"  {text}" for text in work["failures"]]
    if work["dashboard"]:
        lines.append(f"dashboard: {work['dashboard']}")
    for worker in work["workers"]:
        allowed = f" of {bytes_text(worker['limit'])}" if worker["limit"] else ""
        busy = f", {worker['working']} at work" if worker["working"] is not None else ""
        lines.append(f"worker {worker['name']}: {bytes_text(worker['memory'])}{allowed}{busy}")
    return lines
