"""Names of datasets that stay the same when more exposures come in."""

from collections import Counter

from musedeep.select.names import base_name, slug

__all__ = ["name_datasets"]


def name_datasets(datasets, former):
    """Give every dataset a name for its folder and its target.

    A dataset that shares exposures with one of an earlier selection keeps that one's name; of several, that
    with which it shares most. New names are the target's, with what tells the dataset from others of the
    target.

    Parameters
    ----------
    datasets : list of Dataset
        Their ``name`` and ``title`` are set.
    former : dict
        Names of an earlier selection, each to the set of DATE-OBS of its exposures.
    """
    shares = []
    for place, dataset in enumerate(datasets):
        dataset.title = _title(dataset)
        for name, dates in former.items():
            count = len(dates & dataset.all_dates)
            if count:
                shares.append((-count, name, place))
    used = set()
    for _, name, place in sorted(shares):
        if name not in used and not datasets[place].name:
            datasets[place].name = name
            used.add(name)
    used |= set(former)
    fresh = [dataset for dataset in datasets if not dataset.name]
    wanted = {id(dataset): _wanted(dataset) for dataset in fresh}
    counts = Counter(wanted.values())
    # Those of one name are told apart by their place on the sky, whichever came first.
    for dataset in sorted(fresh, key=lambda d: (d.decisions[0].candidate.date_obs, d.marks)):
        name = wanted[id(dataset)]
        if counts[name] > 1 or name in used:
            name = f"{name}-{_place(dataset)}"
        number, unique = 2, name
        while unique in used:
            unique, number = f"{name}-{number}", number + 1
        dataset.name = unique
        used.add(unique)


def _title(dataset):
    members = dataset.taken or dataset.decisions
    names = Counter(d.candidate.target for d in members if d.candidate.target)
    return min(names, key=lambda name: (-names[name], name)) if names else ""


def _wanted(dataset):
    members = dataset.taken or dataset.decisions
    bases = Counter(base_name(d.candidate.target) for d in members if d.candidate.target)
    spelt = {base_name(d.candidate.target) for d in members}
    # Of UDF-01, UDF-02, ... the field is UDF; a single name is kept as it is.
    names = {d.candidate.target for d in members}
    text = min(bases, key=lambda name: (-bases[name], name)) if bases else "field"
    if len(spelt) == 1 and len(names) == 1:
        text = next(iter(names))
    return "-".join([slug(text) or "field", *dataset.marks])


def _place(dataset):
    placed = [d.candidate for d in dataset.decisions if d.candidate.is_placed]
    if not placed:
        return "unplaced"
    ra, dec = placed[0].ra_deg / 15, placed[0].dec_deg
    hours, minutes = divmod(int(ra * 60), 60)
    degrees, arcmin = divmod(int(abs(dec) * 60), 60)
    return f"j{hours:02d}{minutes:02d}{'+' if dec >= 0 else '-'}{degrees:02d}{arcmin:02d}"
