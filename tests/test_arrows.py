"""Imports run downwards only: deployments -> flows -> tasks -> stages -> ground files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("ingest", "mask", "embed", "head", "reduce", "index")
# Above the stages, inside the core: they put stages together.
UPPER = (
    "evaluate", "search", "chain", "live", "lineage", "holdings", "inspection", "vacuum", "remake", "mend", "repair",
    "forecast", "train", "explain",
)  # fmt: skip
FLOORS = ("deployments", "flows", "tasks", "retrieval_core")
OWNERS = {
    "boto3": ("retrieval_core/store_s3.py", "deployments/trigger_queue.py"),
    "pyarrow.parquet": ("retrieval_core/shards.py",),
    "PIL": ("retrieval_core/images.py", "retrieval_core/ingest"),
    "faiss": ("retrieval_core/index", "retrieval_core/evaluate"),
    "prefect": (
        "flows",
        "tasks",
        "deployments/server.py",
        "deployments/trigger_server.py",
        "deployments/automations.py",
    ),
    "prefect_dask": ("flows/shards.py",),
    "gradio": ("deployments/search_app.py",),
    "httpcore": ("deployments/fetching.py",),
    "timm": ("retrieval_core/embed",),
    "open_clip": ("retrieval_core/embed",),
    "lightning": ("retrieval_core/train",),
    "pytorch_metric_learning": ("retrieval_core/train",),
    "torchvision.models.detection": ("retrieval_core/mask",),
    "segmentation_models_pytorch": ("retrieval_core/mask",),
    "onnxruntime": ("retrieval_core/embed", "retrieval_core/mask"),
}
FILES = sorted(path.relative_to(ROOT) for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place(name: str) -> str:
    """The room of a dotted name or a path: `embed` of `retrieval_core.embed.engine`."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if parts[0] == "retrieval_core" and len(parts) > 1 else ""


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_floor_imports_only_itself_and_the_floors_below(path: Path) -> None:
    above = FLOORS[: FLOORS.index(path.parts[0])]
    assert not {name for name in imported(path) if name.split(".")[0] in above}


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "retrieval_core"], ids=str)
def test_stages_never_import_each_other_and_the_ground_imports_no_stage(path: Path) -> None:
    here = place(str(path))
    if here in UPPER or here == "":
        return
    rooms = {place(name) for name in imported(path)} - {here}
    assert not rooms & {*STAGES, *UPPER}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_library_is_imported_by_its_owner_alone(path: Path) -> None:
    names = imported(path)
    for library, owners in OWNERS.items():
        used = any(name == library or name.startswith(f"{library}.") for name in names)
        assert not used or str(path).startswith(owners), f"{library} belongs to {owners}"


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    heavy = ("torch", "faiss", "prefect", "polars", "boto3", "gradio")
    code = f"import sys, deployments.cli as cli; cli._parser(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
