"""What a pool makes of a run is in its template alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.pools import PROCESSES, pool_kind
from retrieval_core.errors import BadConfig

CLOSED: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}


def test_a_pool_without_a_template_makes_processes(tmp_path: Path) -> None:
    (tmp_path / "gpu.kubernetes.json").write_text(json.dumps({"variables": CLOSED}))
    assert pool_kind("cpu", tmp_path) == pool_kind("cpu", None) == PROCESSES
    assert pool_kind("gpu", tmp_path) == ("kubernetes", {"variables": CLOSED})


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ({"variables": CLOSED | {"properties": {"command": {"type": "string"}}}}, "could choose its command"),
        ({"variables": CLOSED | {"additionalProperties": True}}, "could choose its command"),
        ({"variables": {"properties": {}}}, "is no template"),
        ({"job_configuration": {}}, "is no template"),
        (["variables"], "is no template"),
    ],
)
def test_a_template_in_which_a_run_chooses_something_is_refused(template: Any, says: str, tmp_path: Path) -> None:
    (tmp_path / "gpu.kubernetes.json").write_text(json.dumps(template))
    with pytest.raises(BadConfig, match=says):
        pool_kind("gpu", tmp_path)


def test_a_template_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gpu.kubernetes.json").write_text("{")
    with pytest.raises(BadConfig, match="is no template"):
        pool_kind("gpu", tmp_path)
