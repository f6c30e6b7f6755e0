"""Benchmarks that airspeed velocity runs for commit after commit; tiny, so that a run takes a minute.

    asv run --python=same --quick

They measure with what the scripts of the folder above share, which are found because it goes on the path.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
