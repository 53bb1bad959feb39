"""A night holds no table of its rows in memory: what it takes more for each row is far less than a row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

N_ROWS = 100_000
# Of the night's first steps; where they held the rows, they took 280 and 255 MB.
MOST_MB = {"plan": 180, "seal": 215}
MEASURED = """
import sys
from pathlib import Path
from benchmarks.measuring.process_usage import PeakMemory
from benchmarks.memory.catalogue import Nights
from retrieval_core.artifacts import mapped_rows
from retrieval_core.ingest import catalog

mapped_rows.BATCH_ROWS = 4_096  # so that a batch takes little beside all rows
with PeakMemory() as memory:
    Nights(Path(sys.argv[1]), int(sys.argv[2]), "first").run(sys.argv[3])
print(memory.growth_mb)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is measured as the kernel of Linux counts it"
)
def test_planning_and_sealing_do_not_hold_the_rows(tmp_path: Path) -> None:
    growth_mb = {step: _growth_mb(tmp_path, step) for step in ("draw", "plan", "read", "seal")}
    assert all(growth_mb[step] < MOST_MB[step] for step in MOST_MB), growth_mb


def _growth_mb(folder: Path, step: str) -> float:
    """Return how much the memory of a process that no file backs grows at most in a step, in MB."""
    command = [sys.executable, "-c", MEASURED, str(folder), str(N_ROWS), step]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
