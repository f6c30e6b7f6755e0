"""What the header of a product says about how it was made."""

from pathlib import Path

from musedeep import __version__

__all__ = ["quote_inputs"]


def quote_inputs(header, recipe, inputs, parameters, names):
    """Add to a header what was done to which files, after what earlier steps have written there.

    Parameters
    ----------
    header : fits.Header
    recipe : str
    inputs : dict of str to list of (Path, str)
        Files and their tags, for ``RAW`` and ``CAL``.
    parameters : dict of str to value
    names : dict of Path to str
        Under which names files are quoted; others under their own.
    """
    number = next(n for n in range(1, 100) if f"ESO PRO REC{n} ID" not in header)
    cards = {"ID": recipe, "PIPE ID": f"musedeep/{__version__}"}
    for kind, files in inputs.items():
        for n, (path, tag) in enumerate(files, start=1):
            cards |= {f"{kind}{n} NAME": names.get(path, Path(path).name), f"{kind}{n} CATG": tag}
    for n, (name, value) in enumerate(parameters.items(), start=1):
        cards |= {f"PARAM{n} NAME": name, f"PARAM{n} VALUE": str(value)}
    for name, value in cards.items():
        header[f"HIERARCH ESO PRO REC{number} {name}"] = value
