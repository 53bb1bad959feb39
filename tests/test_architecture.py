"""The architecture's rules: who may import whom, how much a folder and a file may hold, and what a test mirrors."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PRODUCT = ("benchmarks", "deployments", "flows", "tasks", "retrieval_core")
# A room imports only rooms on lower floors. A room is a folder or file of retrieval_core, or another top-level folder;
# `retrieval_core` itself is the room of its public names.
FLOORS = (
    ("benchmarks",),
    ("deployments",),
    ("flows",),
    ("tasks", "explain", "retrieval_core"),
    ("evaluate", "maintenance", "export"),
    ("search", "train"),
    ("ingest", "mask", "embed", "metrics", "feedback"),
    ("head", "reduce", "index"),
    ("artifacts", "settings"),
    ("store", "config", "filters", "images", "state_dict"),
    ("picture_files", "item_ids", "fields", "packaged_weights"),
    ("errors", "arrays"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(reversed(FLOORS)) for room in rooms}
STAGES = {"ingest", "mask", "embed", "head", "reduce", "index"}
OWNERS = {
    "boto3": ("retrieval_core/store/", "deployments/triggers/queue.py"),
    "pyarrow.parquet": ("retrieval_core/artifacts/", "retrieval_core/ingest/sources/tables/parquet.py"),
    "PIL": ("retrieval_core/images.py", "retrieval_core/picture_files/", "retrieval_core/ingest/"),
    "faiss": ("retrieval_core/index/", "retrieval_core/metrics/"),
    "lancedb": ("retrieval_core/export/",),
    "qdrant_client": ("retrieval_core/export/",),
    "psycopg": ("retrieval_core/export/",),
    "prefect": ("flows/", "tasks/", "deployments/"),
    "prefect_dask": ("flows/",),
    "fastapi": ("deployments/serve/",),
    "httpcore": ("retrieval_core/store/",),
    "timm": ("retrieval_core/embed/",),
    "open_clip": ("retrieval_core/embed/",),
    "huggingface_hub": ("retrieval_core/embed/",),
    "tokenizers": ("retrieval_core/embed/",),
    "onnxruntime": ("retrieval_core/embed/", "retrieval_core/mask/"),
    "torchvision.models.detection": ("retrieval_core/mask/",),
    "segmentation_models_pytorch": ("retrieval_core/mask/",),
    "lightning": ("retrieval_core/train/",),
    "pytorch_metric_learning": ("retrieval_core/train/",),
    "jinja2": ("retrieval_core/evaluate/",),
}
MAX_FILES, MAX_TOP_FILES = 16, 8  # Python files in a folder, and at the top of retrieval_core
MAX_LINES, MAX_TEST_LINES = 400, 500
MIRRORS = {"core": "retrieval_core", "flows": "flows", "tasks": "tasks", "deployments": "deployments"}
UNTESTED_LINES = 60  # a core module with more has a test file of its own


def python_files(*folders: str) -> list[Path]:
    """Return the Python files under `folders`, relative to the root, sorted."""
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


FILES = python_files(*PRODUCT)
TESTS = python_files("tests")
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


@cache
def imported_names(path: Path) -> frozenset[str]:
    """Return the dotted names that a file imports anywhere, also within functions and for type checkers only."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def imported_modules(path: Path) -> set[str]:
    """Return the modules of this project that a file imports."""
    names = imported_names(path)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


def room(module: str) -> str:
    """Return the room of a dotted module name: `embed` for `retrieval_core.embed.engine`."""
    top, *inner = module.split(".")
    return inner[0] if top == "retrieval_core" and inner else top


def imports_between_rooms() -> Iterator[tuple[str, str]]:
    """Yield (module, imported module) for every import that leaves a room."""
    for module, path in MODULES.items():
        for target in sorted(imported_modules(path)):
            if room(module) != room(target):
                yield module, target


def n_lines(path: Path) -> int:
    return len((ROOT / path).read_text().splitlines())


def mirrored_file(test: Path) -> Path | None:
    """Return the file that a test mirrors: `x.py` or `x.yaml` for `test_x.py`, `test_x_aspect.py`, `test_x_yaml.py`."""
    folder = Path(MIRRORS[test.parts[1]], *test.parts[2:-1])
    stem = test.stem.removeprefix("test_")
    files = [path for path in (ROOT / folder).glob("*") if path.is_file() and path.stem != "__init__"]
    names = {path.stem if path.suffix == ".py" else path.name.replace(".", "_"): path for path in files}
    matches = [name for name in names if stem == name or stem.startswith(f"{name}_")]
    return names[max(matches, key=len)].relative_to(ROOT) if matches else None


MIRRORING_TESTS = [path for path in TESTS if path.parts[1] in MIRRORS and path.name.startswith("test_")]


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} == FLOOR_OF.keys()


def test_the_figure_shows_the_floors() -> None:
    figure = (ROOT / "docs" / "figures" / "floors.svg").read_text()
    shown = re.findall(r'text-anchor="middle">(\w+)<', figure)
    assert shown == [room for rooms in FLOORS for room in rooms if room != "retrieval_core"]


def test_imports_run_downwards() -> None:
    assert not [
        f"{module} imports {target}"
        for module, target in imports_between_rooms()
        if FLOOR_OF[room(module)] <= FLOOR_OF[room(target)]
    ]


def test_no_file_imports_itself_in_a_circle() -> None:
    try:
        TopologicalSorter({module: imported_modules(path) - {module} for module, path in MODULES.items()}).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None


def test_no_module_imports_from_the_package_it_lies_in() -> None:
    assert not [
        f"{module} imports from {target}"
        for module, path in MODULES.items()
        for target in imported_modules(path)
        if module.startswith(f"{target}.")
    ]


def test_stages_never_import_each_other() -> None:
    pairs = {(room(module), room(target)) for module, target in imports_between_rooms()}
    assert not [pair for pair in pairs if STAGES.issuperset(pair)]


def test_measurements_know_nothing_of_the_report() -> None:
    measuring = tuple(f"retrieval_core.evaluate.{name}." for name in ("measure", "analysis", "gate"))
    showing = ("retrieval_core.evaluate.report", "retrieval_core.evaluate.compare")
    assert not [
        f"{module} imports {target}"
        for module, path in MODULES.items()
        if module.startswith(measuring)
        for target in imported_modules(path)
        if target.startswith(showing)
    ]


def test_a_library_is_imported_by_its_owner_alone() -> None:
    assert not [
        f"{path} imports {library}, which belongs to {owners}"
        for path in FILES
        if path.parts[0] != "benchmarks"
        for library, owners in OWNERS.items()
        if any(f"{name}.".startswith(f"{library}.") for name in imported_names(path))
        and not str(path).startswith(owners)
    ]


def test_no_folder_holds_too_many_files() -> None:
    n_files = Counter(str(path.parent) for path in [*FILES, *TESTS])
    assert not {folder: n for folder, n in n_files.items() if n > MAX_FILES}
    assert n_files["retrieval_core"] <= MAX_TOP_FILES


def test_no_file_is_too_long() -> None:
    limits = dict.fromkeys(FILES, MAX_LINES) | dict.fromkeys(TESTS, MAX_TEST_LINES)
    assert not {str(path): n_lines(path) for path, limit in limits.items() if n_lines(path) > limit}


def test_every_test_mirrors_a_file() -> None:
    assert not [str(test) for test in MIRRORING_TESTS if mirrored_file(test) is None]


def test_every_core_module_has_its_test() -> None:
    mirrored = {mirrored_file(test) for test in MIRRORING_TESTS}
    long = [path for path in FILES if path.parts[0] == "retrieval_core" and n_lines(path) > UNTESTED_LINES]
    assert not [str(path) for path in long if path.stem != "__init__" and path not in mirrored]


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = """
import contextlib, io, sys
from deployments.cli.main import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
print([name for name in ("torch", "faiss", "prefect", "polars", "boto3", "fastapi") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
