"""What the U-Net starts from."""

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet34

from retrieval_core.config import MaskConfig
from retrieval_core.errors import BadConfig, WeightsInvalid
from retrieval_core.mask.unet import build_unet, rebuild_unet


def encoder_state(unet):
    return unet.net.encoder.state_dict()


def save_as(suffix, state, path):
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_the_encoder_starts_from_a_torchvision_file(tmp_path, suffix):
    state = resnet18(num_classes=7).state_dict()
    path = tmp_path / f"resnet18.{suffix}"
    save_as(suffix, state, path)
    encoder = encoder_state(build_unet(MaskConfig(weights=f"file:{path}")))
    assert all(torch.equal(value, state[name]) for name, value in encoder.items())


def test_an_old_file_without_step_counters_is_accepted(tmp_path):
    state = {k: v for k, v in resnet18().state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "old.safetensors")
    encoder = encoder_state(build_unet(MaskConfig(weights=f"file:{tmp_path / 'old.safetensors'}")))
    assert torch.equal(encoder["conv1.weight"], state["conv1.weight"])


def test_weights_of_another_architecture_are_refused_with_the_keys(tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save(resnet34().state_dict(), path)
    with pytest.raises(
        WeightsInvalid,
        match=r"resnet34.pth is not a torchvision state dict of a resnet18: keys \d+ unknown \(layer1\.2\.",
    ):
        build_unet(MaskConfig(weights=f"file:{path}"))


def test_weights_of_another_width_are_refused(tmp_path):
    state = resnet18().state_dict() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    torch.save(state, tmp_path / "grey.pth")
    with pytest.raises(
        WeightsInvalid, match=r"grey.pth is not .* 1 of another shape \(conv1\.weight \(64, 1, 7, 7\) instead of"
    ):
        build_unet(MaskConfig(weights=f"file:{tmp_path / 'grey.pth'}"))


@pytest.mark.parametrize("name", ["junk.pth", "junk.safetensors", "empty.pth", "empty.safetensors", "absent.pth"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name):
    path = tmp_path / name
    if not name.startswith("absent"):
        path.write_bytes(b"" if name.startswith("empty") else b"these are not weights")
    with pytest.raises(WeightsInvalid, match=name):
        build_unet(MaskConfig(weights=f"file:{path}"))


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("touched").touch, ())

    torch.save({"conv1.weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsInvalid):
        build_unet(MaskConfig(weights=f"file:{tmp_path / 'evil.pth'}"))
    assert not (tmp_path / "touched").exists()


def test_a_file_of_something_else_than_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsInvalid, match="no state dict"):
        build_unet(MaskConfig(weights=f"file:{tmp_path / 'checkpoint.pth'}"))


@pytest.mark.parametrize("weights", ["pretrained", "random:", "random:x", "file:", "artifact:a", ""])
def test_unknown_kinds_of_weights_are_refused(weights):
    with pytest.raises((BadConfig, WeightsInvalid), match=r"expected|cannot read"):
        build_unet(MaskConfig(weights=weights))


def test_an_unknown_encoder_is_refused_with_the_known_ones():
    with pytest.raises(BadConfig, match=r"'resnet19'; expected one of .*resnet18"):
        build_unet(MaskConfig(encoder="resnet19"))


def test_random_weights_follow_their_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (build_unet(MaskConfig(weights=f"random:{seed}")).net.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.conv1.weight"], other["encoder.conv1.weight"])


def test_a_trained_state_of_another_encoder_is_refused():
    state = build_unet(MaskConfig()).net.state_dict()
    with pytest.raises(WeightsInvalid, match="do not fit a U-Net on resnet34"):
        rebuild_unet(state, "resnet34")
