"""The stages of a field, from the outside and from within, and their kernels."""

from pathlib import Path

from harness import STAGES, row_count, run_stages, simulated, start_up, warm_up
from speed import kernel_times

__all__ = ["Combination", "Kernels", "Stages"]

EXPOSURES, ROWS, FIELD_ARCSEC = 6, 1e5, 8.0
WORDS = ("--memory", "1GB", "--workers", "1")


class _OnOneField:
    """Benchmarks that share a field whose stages have run."""

    timeout = 600

    def setup_cache(self):
        """Run everything once; dict of the field's folder, its rows, and what was measured."""
        place = Path("measured").resolve()
        place.mkdir(exist_ok=True)
        warm_up(place)
        files = simulated(place / "exposures", EXPOSURES, ROWS, FIELD_ARCSEC)
        found = {"folder": place / "field", "rows": row_count(files)}
        found["stages"] = run_stages(files, found["folder"], *WORDS)
        found["starts"] = start_up(place, *WORDS, repeat=1)
        return found | {"kernels": kernel_times(found)}


class Stages(_OnOneField):
    """Every stage in a process of its own."""

    params = STAGES
    param_names = ("stage",)

    def track_cpu(self, run, stage):
        """CPU time of the process."""
        return run["stages"][stage]["cpu"]

    def track_cpu_a_row(self, run, stage):
        """CPU time a row, the start-up taken off."""
        return (run["stages"][stage]["cpu"] - run["starts"][stage]) / run["rows"] * 1e9

    def track_peak_memory(self, run, stage):
        """Largest resident size of the process."""
        return run["stages"][stage]["peak"] / 1e6

    track_cpu.unit = "s"
    track_cpu_a_row.unit = "ns"
    track_peak_memory.unit = "MB"


class Kernels(_OnOneField):
    """CPU time a row in each kernel, all in one process."""

    def track_ingest(self, run):
        """All kernels of the ingest together."""
        return sum(value for name, value in run["kernels"].items() if name.startswith("ingest"))

    def track_judge(self, run):
        """Rejection."""
        return run["kernels"]["combine: judge"]

    def track_drizzle(self, run):
        """Sums of the rows in the voxels."""
        return run["kernels"]["combine: drizzle"]

    track_ingest.unit = track_judge.unit = track_drizzle.unit = "ns"


class Combination(_OnOneField):
    """What a session in Python waits for."""

    def setup(self, run):
        """Open the field."""
        import musedeep

        self.cube = musedeep.combine_exposures(musedeep.open_field(run["folder"]))

    def time_combine(self, run):
        """Combine all exposures."""
        self.cube.compute(scheduler="synchronous")

    def peakmem_combine(self, run):
        """Combine all exposures."""
        self.cube.compute(scheduler="synchronous")
