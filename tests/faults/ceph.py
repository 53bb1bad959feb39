"""Ceph on loopback: one monitor, one disk in memory and the S3 gateway, which checks signatures and conditions.

Debian's packages `ceph-mon`, `ceph-osd` and `radosgw` hold the programs.
"""

from __future__ import annotations

import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 120.0
CONFIG = """
[global]
fsid = {cluster}
mon host = [v2:127.0.0.1:{port}]
public addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}
crash dir = {folder}
admin socket =
log file = {folder}/$name.log
mon data = {folder}/mon
mon allow pool size one = true
mon max pg per osd = 1000
osd data = {folder}/osd
osd objectstore = memstore
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
rgw data = {folder}/rgw
"""
RIGHTS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
}


class Gateway(NamedTuple):
    """The addresses of a gateway, which can add users."""

    url: str
    secure_url: str
    folder: Path

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        keys = (f"--access-key={access_key}", f"--secret-key={secret_key}")
        _run(self.folder, "radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", *keys)


@contextmanager
def running_ceph(folder: Path, certificate: Path) -> Iterator[Gateway]:
    """Yield the gateway of a cluster with its files in the empty `folder`; its processes end with the context."""
    port, plain, secure = _free_ports(3)
    cluster = str(uuid.uuid4())
    (folder / "ceph.conf").write_text(CONFIG.format(cluster=cluster, port=port, folder=folder))
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    for entity, rights in RIGHTS.items():
        caps = [word for kind, cap in zip(rights[::2], rights[1::2], strict=True) for word in ("--cap", kind, cap)]
        keyring = folder / "keyring"
        create = () if keyring.exists() else ("--create-keyring",)
        _run(folder, "ceph-authtool", str(keyring), *create, "--gen-key", "-n", entity, *caps)
    monmap = str(folder / "monmap")
    _run(folder, "monmaptool", "--create", "--fsid", cluster, "--addv", "a", f"[v2:127.0.0.1:{port}]", monmap)
    _run(folder, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
    front = f"beast endpoint=127.0.0.1:{plain} ssl_endpoint=127.0.0.1:{secure} ssl_certificate={certificate}"
    gateway = Gateway(f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}", folder)
    with ExitStack() as daemons:
        daemons.enter_context(_daemon(folder, "ceph-mon", "-i", "a"))
        disk = str(uuid.uuid4())
        _run(folder, "ceph", "osd", "new", disk)
        _run(folder, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        daemons.enter_context(_daemon(folder, "ceph-osd", "-i", "0"))
        process = daemons.enter_context(_daemon(folder, "radosgw", "-n", "client.admin", "--rgw-frontends", front))
        _wait_for(plain, process, folder)
        yield gateway


def _run(folder: Path, program: str, *arguments: str) -> None:
    """Run a program of Ceph. Raises `RuntimeError` with its output if it fails."""
    command = [program, "--conf", str(folder / "ceph.conf"), *arguments]
    if program in {"ceph-authtool", "monmaptool"}:
        command = [program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-2000:]}")


@contextmanager
def _daemon(folder: Path, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{program}.out").open("wb") as out:
        command = [program, "--conf", str(folder / "ceph.conf"), "-f", *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"Ceph's gateway does not answer: {(folder / 'radosgw.out').read_text()[-2000:]}")


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [listener.getsockname()[1] for listener in sockets]
