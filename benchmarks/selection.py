"""Grouping of a simulated archive against its truth, and the time that it takes.

    python benchmarks/selection.py FOLDER [--headers 2000] [--seed 1]

The archive is written, selected once from nothing, once more without a change, and once with a night more;
all with `musedeep select` as a process of its own. Pairs of exposures are compared: those put into one
dataset, and those that belong to one. Every dataset that is mixed or torn is listed, and every exposure that
was taken or left out against the truth.
"""

import json
import shutil
from collections import Counter

from harness import Report, carry_out, command_line, musedeep

from musedeep.simulate.archive import simulate_archive

__all__ = ["compare", "main"]

_LEAST = 0.99
_MOST_CPU = 60.0


def _pairs(names):
    return sum(n * (n - 1) // 2 for n in Counter(names).values())


def compare(truth, selection):
    """Hold a selection against the truth.

    Parameters
    ----------
    truth : dict
        Of truth.json.
    selection : dict
        Of selection.json.

    Returns
    -------
    precision, recall : float
        Of pairs of exposures that are in one dataset.
    exact : int
        Number of true datasets that were found just as they are.
    confused : list of str
        Sentences about datasets and exposures that are not as they should be.
    """
    home = {date: name for name, facts in selection["fields"].items() for date in facts["dates"]}
    taken = {date for facts in selection["fields"].values() for date in facts["taken"]}
    dates = [date for date in truth if truth[date]["dataset"] != "SKY"]
    found = {date: home.get(date, date) for date in dates}
    true = {date: truth[date]["dataset"] for date in dates}
    both = Counter((found[date], true[date]) for date in dates)
    right = _pairs([(found[date], true[date]) for date in dates])
    confused = []
    for place, words in ((0, "holds exposures of"), (1, "is torn into")):
        for name in sorted({pair[place] for pair in both}):
            parts = {pair[1 - place]: n for pair, n in both.items() if pair[place] == name}
            if len(parts) > 1:
                listed = ", ".join(f"{part} ({n})" for part, n in sorted(parts.items()))
                confused.append(f"{name} {words} {listed}")
    for date in sorted(truth):
        if truth[date]["taken"] != (date in taken):
            done = "taken" if date in taken else "left out"
            confused.append(f"{date} of {truth[date]['dataset']} was {done}")
    alone = {pair for pair in both if sum(pair[0] == p[0] or pair[1] == p[1] for p in both) == 1}
    return right / _pairs(found.values()), right / _pairs(true.values()), len(alone), confused


def measure_all(options, folder):
    """Select three times; whether it kept what is promised."""
    report = Report(f"Selecting from an archive of {options.headers} headers")
    archive, late, fields = folder / "archive", folder / "late", folder / "fields"
    for old in (archive, late, fields):
        shutil.rmtree(old, ignore_errors=True)
    paths = simulate_archive(archive, options.headers, options.seed)
    truth = json.loads((archive / "truth.json").read_text())
    # the last night comes later
    nights = sorted({path.name[5:15] for path in paths})
    late.mkdir()
    for path in paths:
        if path.name[5:15] == nights[-1]:
            path.rename(late / path.name)
    tables = ("--grades", archive / "ob_grades.csv", "--nightlog", archive / "nightlog.csv")
    words = ("select", "-o", fields, "--quiet")
    for name, more in (
        ("from nothing", (archive, *tables)),
        ("no change", ()),
        ("one night more", (late,)),
    ):
        took = musedeep(*words, *more)
        line = next(line for line in took.output.splitlines() if " files read" in line)
        report.add(
            case=name, cpu_s=took.cpu, seconds=took.seconds, peak_mb=took.peak_bytes / 1e6,
            files_read=line.split(";")[-1].split(",")[0].strip(), written=line.rsplit(", ", 1)[-1],
        )  # fmt: skip
        if took.cpu > _MOST_CPU:
            report.fail(f"{took.cpu:.0f} CPU seconds, {_MOST_CPU:.0f} are promised")
    selection = json.loads((fields / "selection.json").read_text())
    precision, recall, exact, confused = compare(truth, selection)
    true = {facts["dataset"] for facts in truth.values()} - {"SKY"}
    report.note(
        f"{len(truth)} exposures, {len(true)} true datasets, {exact} of them exact: "
        f"pair precision {precision:.4f}, recall {recall:.4f}."
    )
    for text in confused:
        report.note(f"- {text}")
    if min(precision, recall) < _LEAST:
        report.fail(f"precision and recall of {_LEAST} are promised")
    return report.write(options.output or folder / "selection")


def main():
    parser = command_line(__doc__, folder_given=True)
    parser.add_argument("--headers", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
