"""A Ray cluster on this machine, for what can be shared out over one."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from loralab.extras import lacking

PORT = 6399


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head with two processors, each of which can have a task."""
    if lacking("cluster"):
        pytest.skip("Ray is not installed (the extra [cluster]), and no cluster can be started")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    head = ["start", "--head", "--port", str(PORT), "--num-cpus", "2", "--include-dashboard", "false"]
    subprocess.run([*ray, *head, "--object-store-memory", "80000000"], check=True, capture_output=True)
    yield f"127.0.0.1:{PORT}"
    subprocess.run([*ray, "stop", "--force"], check=True, capture_output=True)
