"""Raw frames, and the master calibrations that go with them."""

from musedeep.simulate.raw.exposures import RawSettings, simulate_raw_exposures

__all__ = ["RawSettings", "simulate_raw_exposures"]
