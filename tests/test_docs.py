"""The pages name files that exist, link to each other, and cover every room."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docker").glob("*.md")]
ROOMS = sorted(path.parent.name for folder in ("retrieval_core", "") for path in (ROOT / folder).glob("*/__init__.py"))
EXTENSIONS = "py|md|toml|yaml|yml|conf|svg|png"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    names = re.findall(rf"`([\w.-]+(?:/[\w.-]+)+\.(?:{EXTENSIONS}))[`:]", page.read_text())
    names = [name for name in names if "NAME" not in name and "MODULE" not in name]  # of a file to be written
    absent = [name for name in names if not any((ROOT / folder / name).exists() for folder in ("", "tests"))]
    assert not absent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_modules_that_a_page_runs_exist(page: Path) -> None:
    modules = re.findall(r"python -m ((?:retrieval_core|deployments|benchmarks)[\w.]*)", page.read_text())
    paths = {module: ROOT / module.replace(".", "/") for module in modules}
    assert not [
        m for m, path in paths.items() if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists())
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_reference_page(room: str) -> None:
    if room in ("benchmarks", "tests"):
        return
    pages = [path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md")]
    assert any(re.search(rf"^::: (retrieval_core\.)?{room}$", text, re.MULTILINE) for text in pages)


def test_the_pages_and_the_api_reference_build(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    outside = re.findall(r'(?:src|<link[^>]* href)="(https?://[^"]+)', (tmp_path / "index.html").read_text())
    assert not outside
