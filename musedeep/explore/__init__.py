"""Look behind a deep cube: rows, cutouts combined otherwise, tests of significance, and earlier versions."""

from musedeep.explore.tracing import trace

__all__ = ["trace"]
