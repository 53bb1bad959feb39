"""The names that `retrieval_core` offers to scripts."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import retrieval_core

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", retrieval_core.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(retrieval_core, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="open_relese"):
        retrieval_core.open_relese  # noqa: B018


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert retrieval_core.__version__ == project["version"]


def test_importing_the_package_imports_no_library() -> None:
    code = """
import sys
before = {name.partition(".")[0] for name in sys.modules}
import retrieval_core
after = {name.partition(".")[0] for name, module in sys.modules.items() if module}  # some are forbidden, by None
print(sorted(after - before - sys.stdlib_module_names))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['retrieval_core']"
