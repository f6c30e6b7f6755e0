"""What is waited for before anything is done."""

import sys

from harness import measure, musedeep

__all__ = ["Start"]


class Start:
    """Processes that do nothing else."""

    def track_import(self):
        """Wall time of a process that imports the package."""
        return min(measure([sys.executable, "-c", "import musedeep"]).seconds for _ in range(3))

    def track_help(self):
        """Wall time of ``musedeep --help``."""
        return min(musedeep("--help").seconds for _ in range(3))

    track_import.unit = track_help.unit = "s"
