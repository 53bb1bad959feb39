"""What every command has in common: its arguments, errors of one line, exit codes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import retrieval_core
from deployments.cli.main import build_parser, main
from retrieval_core.images import thumbnail

ROOT = Path(__file__).parents[3]
TRAIN = ["train", "backbone", "--source=folder:photos", "--store=s"]


def test_the_commands_of_the_readme_are_understood() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = [line.partition("#")[0] for line in readme.splitlines() if line.startswith("vitrine ")]
    assert len(commands) >= 3
    for command in commands:
        build_parser().parse_args(shlex.split(command)[1:])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "--store=s", "--source=folder:absent"], 2, "absent"),
        (["run", "--store=s", "--source=folder:empty"], 2, "empty"),
        (["run", "--store=s", "--source=nothing"], 2, "KIND:URI"),
        (["run", "--store=s"], 2, "--source"),
        (["run", "--source=folder:photos", "--store=s", "--set=embed.backbone=resnet19"], 2, "resnet19"),
        (["run", "--source=folder:photos", "--store=s", "--set=embed.weights=file:nope.pt"], 1, "nope.pt"),
        (["run", "--source=folder:photos", "--store=s", "--set=embed.weights=file:notes.txt"], 1, "notes.txt"),
        (["run", "--source=folder:photos", "--store=notes.txt/s", "--set=embed.weights=random:0"], 1, "notes.txt"),
        (["search", "--store=s", "--image=photos/a.jpg"], 1, "nothing is published"),
        (["search", "--store=s", "--text=red dress", "--mode=classified"], 2, "give --image"),
        (["search", "--store=s", "--unlike-text=red", "--where=category=dress"], 2, "--image, --text or --item"),
        (["rollback", "--store=s"], 1, "no earlier release"),
        ([*TRAIN, "tripletts"], 2, "unknown objective 'tripletts'; did you mean triplet?"),
        ([*TRAIN, "triplet", "--set=margins=1"], 2, "train.triplet.margins; did you mean margin?"),
        ([*TRAIN, "triplet", "--teacher=production"], 2, "unknown config key train.triplet.teacher"),
        ([*TRAIN, "triplet", "--set=margin"], 2, "key=value"),
        ([*TRAIN, "triplet", "--set=mask.sice_px=64"], 2, "unknown config key mask.sice_px"),
        ([*TRAIN, "triplet", "--set=weights=file:nope.pt"], 1, "nope.pt"),
        ([*TRAIN, "triplet", "--set=weights=artifact:nobody"], 2, "no backbone 'nobody'"),
        (["train", "segmenter", "--source=folder:photos", "--store=s", "--set=mask.enabled=false"], 2, "mask.enabled"),
        (["train", "head", "--source=folder:photos", "--store=s", "--set=embed.backbone=resnet19"], 2, "resnet19"),
        (["promote", "--store=s", "ghost"], 1, "ghost"),
        (["verify", "--store=ftp://host"], 2, "ftp"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_clear_line(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITRINE_STORE", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(thumbnail(np.zeros((8, 8, 3), np.uint8), 8))
    (tmp_path / "notes.txt").write_text("not weights")
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("vitrine: ")
    assert printed.err.count("\n") == 1
    assert says in printed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serch"], "argument COMMAND: unknown 'serch'; did you mean search?; `vitrine --help` explains"),
        (["qqqqqq"], "argument COMMAND: unknown 'qqqqqq'; expected one of demo, run, plan"),
        (["train", "segmentor"], "argument WHAT: unknown 'segmentor'; did you mean segmenter?"),
        (["search", "--mode=nearst"], "argument --mode: unknown 'nearst'; did you mean nearest?"),
        (["search", "--imgae=a.jpg"], "unknown argument --imgae; did you mean --image?; `vitrine search --help`"),
        (["status", "production"], "unknown argument production; `vitrine status --help` explains"),
        (["search", "-k=many"], "argument -k: invalid int value: 'many'"),
        ([], "the following arguments are required: COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_that_names_the_nearest(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    printed = capsys.readouterr().err
    assert (raised.value.code, printed.count("\n")) == (2, 1)
    assert says in printed


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert (raised.value.code, capsys.readouterr().out) == (0, f"vitrine {retrieval_core.__version__}\n")


@pytest.mark.parametrize(
    ("library", "command", "extra"),
    [
        ("prefect", ["run", "--source=folder:photos", "--store=s"], "run"),
        ("prometheus_client", ["app", "--store=s"], "serve"),
        ("polars", ["search", "--store=s", "--item=a"], "train"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_what_installs_it(
    library: str, command: list[str], extra: str, tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None; from deployments.cli.main import main; sys.exit(main({command}))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    need = f"vitrine: this command needs {library}, which is not installed: pip install 'vitrine[{extra}]'\n"
    assert result.stderr == need
