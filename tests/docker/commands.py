"""Whether the commands that services run are understood by the programs that they start."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from unittest import mock

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import register, worker
from deployments.cli.main import build_parser
from deployments.triggers import server as triggers

ROOT = Path(__file__).parents[2]


def assert_understood(words: list[str], api_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command as its program does, which finds a Prefect server named by `api_url`."""
    with temporary_settings({PREFECT_API_URL: api_url}):
        match words:
            case ["vitrine", *arguments]:
                build_parser().parse_args(arguments)
            case ["prefect", *arguments]:
                _assert_prefect_understands(arguments)
            case ["dask", role, *arguments]:
                import_module(f"distributed.cli.dask_{role}").main.make_context(role, list(arguments))
            case ["python", "-m", "deployments.triggers", *arguments]:
                assert _served_by_triggers(arguments, monkeypatch) == ("0.0.0.0", 8700)
            case ["python", "-m", "deployments.worker", *arguments]:
                with mock.patch("asyncio.run", lambda work: work.close()):
                    assert worker.main(arguments) == 0
            case ["python", "-m", "deployments.register", *arguments]:
                with (
                    mock.patch.object(register, "get_client"),
                    mock.patch.object(register, "register", return_value=()),
                ):
                    assert register.main([*arguments, "--wait=0"]) == 0
            case ["python", "-m", module]:
                assert (ROOT / f"{module.replace('.', '/')}.py").exists()
            case _:
                assert words in ([], ["python", "-"])


def _assert_prefect_understands(arguments: list[str]) -> None:
    from prefect.cli._app import _app

    _app.parse_args(arguments, exit_on_error=False, print_error=False)


def _served_by_triggers(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """Return where the door for triggers would listen."""
    served: list[tuple[str, int]] = []
    monkeypatch.setenv("VITRINE_TRIGGER_TOKEN", "t" * 32)
    monkeypatch.setattr("uvicorn.Server.run", lambda self: served.append((self.config.host, self.config.port)))
    assert triggers.main(arguments) == 0
    return served[0]
