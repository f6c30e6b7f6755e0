"""Synthetic exposures of a scene with known truth, in the format that ESO's pipeline writes.

`simulate_exposures` writes reduced pixel tables with the geometry of the instrument, noise of the right
variance, and whatever may go wrong with an exposure; what went wrong is in ``truth.json`` and beside every
table. `truth_cube` gives the noise-free scene on any voxels, `truth_rows` the spoilt rows of an exposure.
"""

from musedeep.simulate.exposures import simulate_exposures
from musedeep.simulate.faults import Fault
from musedeep.simulate.plan import SimulationSettings, Trail
from musedeep.simulate.scene import Source
from musedeep.simulate.truth import truth_cube, truth_rows

__all__ = ["Fault", "SimulationSettings", "Source", "Trail", "simulate_exposures", "truth_cube", "truth_rows"]
