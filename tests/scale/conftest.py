"""A field of hundreds of small exposures, and runs of the command line, measured from outside."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from harness import measure, musedeep, repeated, simulated  # noqa: E402


@pytest.fixture(scope="session")
def run_stage():
    """A function that runs a stage with one worker and tells memory in bytes: predicted, worker."""

    def run(stage, field, memory, *words, **environment):
        words = ("--memory", memory, "--workers", "1", "--quiet", "--json", *words)
        done = musedeep(stage, field, *words, **environment)
        stages = json.loads(done.output)["stages"]
        return [
            SimpleNamespace(
                stage=facts["stage"],
                predicted=facts["predicted_bytes"],
                worker=facts["measured_bytes"],
                facts=facts["facts"],
            )
            for facts in stages
        ]

    return run


@pytest.fixture(scope="session")
def deep_field(tmp_path_factory):
    """A field of 512 exposures of twenty thousand rows, four files over and over again; not ingested."""
    folder = tmp_path_factory.mktemp("deep")
    distinct = simulated(folder / "distinct", 4, 2e4, field_arcsec=12.0, dither_arcsec=0.4)
    files = repeated(distinct, 512, folder / "exposures")
    musedeep("init", *files, "-o", folder / "field")
    yield folder / "field"
    measure(["rm", "-rf", folder])
