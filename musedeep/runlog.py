"""The text log of a folder: all that the package logs while it works there."""

import logging
from contextlib import contextmanager

__all__ = ["log_to"]


@contextmanager
def log_to(path):
    """Append everything the package logs to a file for the time of a ``with`` block.

    Parameters
    ----------
    path : Path
    """
    package = logging.getLogger("musedeep")
    level = package.level
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()
