"""The demonstration: a small deep field with known truth, from simulated exposures to a picture."""

from musedeep.demo.picture import draw
from musedeep.demo.scene import simulate_demo
from musedeep.demo.truth import compare_with_truth

__all__ = ["compare_with_truth", "draw", "simulate_demo"]
