"""A Dask cluster as docs/scaling.md sets it up takes the cluster's key from both ends, and no run goes without it."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import dask
import pytest
from dask.config import collect_env, global_config, merge
from distributed import Client, Scheduler, Worker

from flows.shards.engines import check_runner
from retrieval_core.errors import BadConfig
from retrieval_core.settings import Settings

DOCS = (Path(__file__).parents[3] / "docs" / "scaling.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)

MAKE_KEY = next(block for block in BLOCKS if "openssl req" in block)


def run_documented(block: str, folder: Path) -> str:
    """Run lines of the page in `folder`, which stands for the one of the key, and return what they print."""
    script = block.replace("/etc/vitrine-dask", str(folder))
    done = subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=True, env={})
    return done.stdout


@pytest.fixture(scope="module")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("key")
    run_documented(MAKE_KEY, folder)
    return folder


@pytest.fixture(scope="module")
def config(key_folder: Path) -> dict[str, Any]:
    """What Dask makes of the variables of the page."""
    exports = next(block for block in BLOCKS if "REQUIRE_ENCRYPTION" in block).partition("# on one machine")[0]
    lines = run_documented(f"{exports}\nexport -p", key_folder)
    return merge(global_config, collect_env(dict(re.findall(r'declare -x (DASK_\w+)="(.*)"', lines))))


def tls(folder: Path | None) -> ssl.SSLContext:
    """Return how a client speaks TLS that takes every server, with the certificate in `folder` if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if folder:
        context.load_cert_chain(folder / "dask.crt", folder / "dask.key")
    return context


async def is_answered(address: str, context: ssl.SSLContext | None) -> bool:
    """Return whether a client is greeted, as Dask greets everyone whom it lets in."""
    host, _, port = address.partition("://")[2].partition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        with closing(writer):
            if context is None:
                writer.write(b"a" * 64)  # otherwise the server waits for the rest of the handshake
            return bool(await asyncio.wait_for(reader.read(1), 2))
    except (OSError, TimeoutError):  # SSLError is an OSError
        return False


def test_only_who_has_the_key_reaches_the_cluster(config: dict[str, Any], key_folder: Path, tmp_path: Path) -> None:
    run_documented(MAKE_KEY, tmp_path)
    clients = {"no TLS": None, "no certificate": tls(None), "another key": tls(tmp_path), "the key": tls(key_folder)}

    async def connect_all() -> set[str]:
        options: dict[str, Any] = {"host": "127.0.0.1", "dashboard": False}
        async with (
            Scheduler(protocol="tls", port=0, **options) as scheduler,
            Worker(scheduler.address, **options) as worker,
        ):
            async with Client(scheduler.address, asynchronous=True) as client:
                assert await client.submit(sum, [1, 2]) == 3
            addresses = [scheduler.address, worker.address]
            return {name for name in clients for address in addresses if await is_answered(address, clients[name])}

    with dask.config.set(config):
        assert asyncio.run(connect_all()) == {"the key"}


def test_a_scheduler_without_encryption_does_not_start(config: dict[str, Any]) -> None:
    async def start() -> None:
        async with Scheduler(protocol="tcp", host="127.0.0.1", port=0, dashboard=False):
            pass

    with dask.config.set(config), pytest.raises(RuntimeError) as failed:
        asyncio.run(start())
    assert "encryption required" in str(failed.value.__cause__)


@pytest.mark.parametrize(
    "address",
    ["tcp://10.0.0.1:8786", "tcp://scheduler:8786", "scheduler:8786", "ws://10.0.0.1:8786", "tcp://127.0.0.1.nip.io:1"],
)
def test_a_run_refuses_a_cluster_of_another_machine_without_encryption(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be sent there")

    monkeypatch.setattr(socket.socket, "connect", connect)
    settings = Settings(store=str(tmp_path), runner="dask", dask_address=address)
    with pytest.raises(
        BadConfig, match=r"neither encryption nor a login; set up TLS as docs/scaling\.md shows: tls://"
    ):
        check_runner(settings)
