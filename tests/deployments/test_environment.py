"""Loopback without a proxy, and a user without a home folder."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from deployments.environment import prepare_environment


@pytest.mark.parametrize("hosts", ["", "intranet.example, 10.0.0.1", "*"])
def test_loopback_never_goes_through_a_proxy(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, hosts)
    prepare_environment()
    with httpx.Client() as client:
        for url in ("http://127.0.0.1:4200/api", "http://localhost:4200", "https://[::1]:9"):
            assert client._transport_for_url(httpx.URL(url)) is client._transport
        elsewhere = client._transport_for_url(httpx.URL("http://hub.example"))
        assert (elsewhere is client._transport) == (hosts == "*")


def test_a_user_without_a_home_folder_gets_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare_environment()
    assert Path.home() == tmp_path

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "home", homeless)
        prepare_environment()
    assert Path.home() != tmp_path
    assert Path.home().is_dir()
    Path.home().rmdir()
