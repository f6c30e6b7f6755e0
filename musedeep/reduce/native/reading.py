"""Reading of calibrations that may be broken."""

import warnings
from contextlib import contextmanager

from astropy.utils.exceptions import AstropyUserWarning

from musedeep.errors import InputError

__all__ = ["reading"]


@contextmanager
def reading(path, what):
    """Tell of a file that cannot be read as what it should be.

    Parameters
    ----------
    path : Path
    what : str
        What is wanted of it.

    Raises
    ------
    InputError
        Something within could not be read, or is not there.
    """
    try:
        with warnings.catch_warnings():
            # of a file that was cut: what is missing is told when it is read
            warnings.simplefilter("ignore", AstropyUserWarning)
            yield
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{path}: {what} cannot be read ({error}); is it the right file, and whole?"
        ) from error
