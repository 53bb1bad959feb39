"""Weights files: downloaded once, read in every format alike, and copied with every key accounted for."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from retrieval_core import state_dict
from retrieval_core.errors import WeightsInvalid
from retrieval_core.state_dict import cached_download, fill, first_line, read_state

WEIGHTS = b"the bytes of a weights file"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


def new_network(seed: int = 0) -> nn.Module:
    """Return a small network whose every weight, running mean and counter depends on the seed."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
        else:
            tensor.fill_(seed)
    return network


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


def as_safetensors(state: dict[str, Tensor], path: Path) -> None:
    save_file(state, path)


def as_torch_file(state: dict[str, Tensor], path: Path) -> None:
    torch.save(state, path)


def as_old_torch_file(state: dict[str, Tensor], path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def as_checkpoint(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"state_dict": state, "epoch": 3}, path)


@pytest.mark.parametrize("write", [as_safetensors, as_torch_file, as_old_torch_file, as_checkpoint])
@pytest.mark.parametrize("name", ["weights.pth", "weights"])
def test_every_format_gives_the_tensors_that_were_written(
    write: Callable[[dict[str, Tensor], Path], None], name: str, tmp_path: Path
) -> None:
    state = state_of(new_network()) | {"half": torch.rand(3).half()}
    write(state, tmp_path / name)
    assert_equal(read_state(tmp_path / name), state)


def test_a_file_that_cannot_be_opened_is_refused_with_the_cause(tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match=r"^cannot read weights file .*absent\.pth: No such file or directory$"):
        read_state(tmp_path / "absent.pth")
    with pytest.raises(WeightsInvalid, match=r"^cannot read weights file .*: Is a directory$"):
        read_state(tmp_path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"a": torch.zeros(2), "epoch": 3}, {"state_dict": 3}, 7])
def test_a_file_that_holds_more_or_less_than_tensors_by_name_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsInvalid, match=r"odd\.pth is no state dict: expected tensors by name"):
        read_state(tmp_path / "odd.pth")


@pytest.mark.parametrize("write", [as_safetensors, as_torch_file])
def test_a_file_that_was_cut_short_is_refused(write: Callable[[dict[str, Tensor], Path], None], tmp_path: Path) -> None:
    path = tmp_path / "short.pth"
    write(state_of(new_network()), path)
    for data in (path.read_bytes()[:-10], b""):
        path.write_bytes(data)
        with pytest.raises(WeightsInvalid, match=r"short\.pth holds no plain tensors \(.+\); expected a safetensors"):
            read_state(path)


def test_a_network_is_filled_with_every_tensor_of_the_file() -> None:
    network, state = new_network(0), state_of(new_network(1))
    fill(network, state, "new.pth", "a small network")
    assert_equal(state_of(network), state)


def test_half_precision_tensors_become_float32_in_the_network() -> None:
    network, expected = new_network(0), state_of(new_network(1))
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in expected.items()}
    fill(network, half, "half.pth", "a small network")
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, half[name].to(tensor.dtype)), name


def test_counters_of_batch_norms_may_be_absent_but_their_running_means_may_not() -> None:
    network, state = new_network(0), state_of(new_network(1))
    del state["1.num_batches_tracked"]
    fill(network, state, "old.pth", "a small network")
    assert_equal(state_of(network), state | {"1.num_batches_tracked": torch.tensor(0)})
    del state["1.running_mean"]
    with pytest.raises(WeightsInvalid, match=r"keys 1 missing \(1\.running_mean\)$"):
        fill(network, state, "old.pth", "a small network")


def refusal(change: Callable[[dict[str, Tensor]], None]) -> str:
    """Return the message that refuses a changed state, after a check that the network keeps all of its weights."""
    network, state = new_network(0), state_of(new_network(1))
    change(state)
    with pytest.raises(WeightsInvalid) as caught:
        fill(network, state, "odd.pth", "a small network")
    assert_equal(state_of(network), state_of(new_network(0)))
    return str(caught.value)


def test_a_missing_key_is_refused_by_name() -> None:
    message = refusal(lambda state: state.pop("2.bias"))
    assert message == "odd.pth is not a small network: keys 1 missing (2.bias)"


def test_an_unexpected_key_is_refused_by_name() -> None:
    message = refusal(lambda state: state.update({"3.weight": torch.zeros(1)}))
    assert message == "odd.pth is not a small network: keys 1 unknown (3.weight)"


def test_a_tensor_of_another_shape_is_refused_by_name_with_both_shapes() -> None:
    message = refusal(lambda state: state.update({"0.bias": torch.zeros(5), "2.bias": torch.zeros(2, 1)}))
    assert message == (
        "odd.pth is not a small network: keys 2 of another shape (0.bias (5,) instead of (4,), "
        "2.bias (2, 1) instead of (2,))"
    )


def test_all_faults_are_said_at_once_and_three_keys_of_each() -> None:
    message = refusal(
        lambda state: (
            [state.pop(name) for name in ("0.weight", "0.bias", "1.weight", "1.bias")],
            state.update({"a": torch.zeros(1), "2.bias": torch.zeros(5)}),
        )
    )
    assert message == (
        "odd.pth is not a small network: keys 4 missing (0.weight, 0.bias, 1.weight, …); 1 unknown (a); "
        "1 of another shape (2.bias (5,) instead of (2,))"
    )


def test_the_first_line_of_an_error_is_short_and_never_empty() -> None:
    assert first_line(ValueError("\n  broken header\nat byte 9")) == "broken header"
    assert first_line(ValueError("x" * 300)) == "x" * 200
    assert first_line(ValueError()) == "ValueError"


class WeightsServer:
    """An HTTP server on loopback that has one file, and notes the method and path of every request."""

    def __init__(self) -> None:
        requests = self.requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(f"{self.command} {self.path}")
                is_found = self.path == "/model/weights.pth"
                self.send_response(200 if is_found else 404)
                self.send_header("Content-Length", str(len(WEIGHTS) if is_found else 0))
                self.end_headers()
                if is_found and self.command == "GET":
                    self.wfile.write(WEIGHTS)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, name: str = "weights.pth") -> str:
        return f"http://127.0.0.1:{self._http.server_port}/model/{name}"

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    server = WeightsServer()
    yield server
    server.stop()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloaded files in a cache of torch that only this test uses."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8]], ids=["whole checksum", "first digits"])
def test_a_file_is_downloaded_once(server: WeightsServer, cache: Path, sha256: str) -> None:
    path = cached_download(server.url(), sha256)
    assert path == cache / "weights.pth"
    assert path.read_bytes() == WEIGHTS
    assert server.requests == ["HEAD /model/weights.pth", "GET /model/weights.pth"]
    assert cached_download(server.url(), sha256) == path
    assert len(server.requests) == 2


def test_a_file_of_another_checksum_is_refused_and_not_kept(server: WeightsServer, cache: Path) -> None:
    with pytest.raises(RuntimeError, match="invalid hash value"):
        cached_download(server.url(), "0" * 64)
    assert list(cache.iterdir()) == []
    assert cached_download(server.url(), SHA256).read_bytes() == WEIGHTS


def test_a_file_in_the_cache_is_used_as_it_is(server: WeightsServer, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "weights.pth").write_bytes(b"put there by hand")
    assert cached_download(server.url(), SHA256).read_bytes() == b"put there by hand"
    assert server.requests == []


def test_a_server_without_the_file_and_one_that_is_stopped_are_told_apart_from_a_wrong_checksum(cache: Path) -> None:
    server = WeightsServer()
    try:
        with pytest.raises(OSError, match="404"):
            cached_download(server.url("absent.pth"), SHA256)
    finally:
        server.stop()
    with pytest.raises(OSError, match="refused"):
        cached_download(server.url(), SHA256)
    assert not cache.exists()


@pytest.mark.timeout(60)
def test_a_server_that_does_not_answer_is_given_up_after_the_probe(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_dict, "PROBE_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="timed out"):
        cached_download(f"http://127.0.0.1:{silent.getsockname()[1]}/weights.pth", SHA256)
    assert not cache.exists()
