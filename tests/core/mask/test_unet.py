"""What the U-Net starts from."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet34

from retrieval_core.config.stages import MaskConfig
from retrieval_core.errors import BadConfig, WeightsInvalid, WeightsUnavailable
from retrieval_core.mask import unet
from retrieval_core.mask.unet import build_unet, rebuild_unet, to_images
from retrieval_core.packaged_weights.efficientnet_lite import weights_file


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
    encoder = encoder_state(build_unet(MaskConfig(encoder="resnet18", weights=f"file:{path}")))
    assert all(torch.equal(value, state[name]) for name, value in encoder.items())


def test_an_old_file_without_step_counters_is_accepted(tmp_path):
    state = {k: v for k, v in resnet18().state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "old.safetensors")
    encoder = encoder_state(build_unet(MaskConfig(encoder="resnet18", weights=f"file:{tmp_path / 'old.safetensors'}")))
    assert torch.equal(encoder["conv1.weight"], state["conv1.weight"])


def test_weights_of_another_architecture_are_refused_with_the_keys(tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save(resnet34().state_dict(), path)
    with pytest.raises(
        WeightsInvalid,
        match=r"resnet34.pth is not a state dict of a resnet18: keys \d+ unknown \(layer1\.2\.",
    ):
        build_unet(MaskConfig(encoder="resnet18", weights=f"file:{path}"))


def test_weights_of_another_width_are_refused(tmp_path):
    state = resnet18().state_dict() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    torch.save(state, tmp_path / "grey.pth")
    with pytest.raises(
        WeightsInvalid, match=r"grey.pth is not .* 1 of another shape \(conv1\.weight \(64, 1, 7, 7\) instead of"
    ):
        build_unet(MaskConfig(encoder="resnet18", weights=f"file:{tmp_path / 'grey.pth'}"))


@pytest.mark.parametrize("name", ["junk.pth", "junk.safetensors", "empty.pth", "empty.safetensors", "absent.pth"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name):
    path = tmp_path / name
    if not name.startswith("absent"):
        path.write_bytes(b"" if name.startswith("empty") else b"these are not weights")
    with pytest.raises(WeightsInvalid, match=name):
        build_unet(MaskConfig(encoder="resnet18", weights=f"file:{path}"))


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("touched").touch, ())

    torch.save({"conv1.weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsInvalid):
        build_unet(MaskConfig(encoder="resnet18", weights=f"file:{tmp_path / 'evil.pth'}"))
    assert not (tmp_path / "touched").exists()


def test_a_file_of_something_else_than_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsInvalid, match="no state dict"):
        build_unet(MaskConfig(encoder="resnet18", weights=f"file:{tmp_path / 'checkpoint.pth'}"))


@pytest.mark.parametrize("weights", ["pretrained:x", "random:", "random:x", "file:", "artifact:a", ""])
def test_unknown_kinds_of_weights_are_refused(weights):
    with pytest.raises((BadConfig, WeightsInvalid), match=r"expected|cannot read"):
        build_unet(MaskConfig(encoder="resnet18", weights=weights))


@pytest.mark.parametrize("names", ["timm", "package"])
def test_an_encoder_of_timm_starts_from_the_files_of_its_classifier(tmp_path, names):
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    if names == "package":
        state["_conv_stem.weight"] = state.pop("conv_stem.weight")
        state["_blocks.1._expand_conv.weight"] = state.pop("blocks.1.0.conv_pw.weight")
    torch.save(state, tmp_path / "lite0.pth")
    segmenter = build_unet(MaskConfig(encoder="tu-tf_efficientnet_lite0", weights=f"file:{tmp_path / 'lite0.pth'}"))
    encoder = encoder_state(segmenter)
    assert torch.equal(encoder["model.conv_stem.weight"], state.get("conv_stem.weight", state.get("_conv_stem.weight")))
    assert torch.equal(encoder["model.blocks.6.0.bn3.weight"], state["blocks.6.0.bn3.weight"])
    white = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    assert segmenter.eval()(white).shape == (1, 64, 64)
    torch.testing.assert_close(
        (to_images(white) - segmenter.mean) / segmenter.std, torch.ones(1, 3, 64, 64)
    )  # lite: -1 to 1


def test_a_pretrained_lite_encoder_starts_from_its_package_without_a_hub():
    encoder = encoder_state(build_unet(MaskConfig(encoder="tu-tf_efficientnet_lite0", weights="pretrained")))
    packaged = torch.load(weights_file("tf_efficientnet_lite0"), weights_only=True)
    assert torch.equal(encoder["model.blocks.6.0.conv_pwl.weight"], packaged["_blocks.15._project_conv.weight"])


def test_a_package_with_another_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "lite0.pth").write_bytes(b"something else")
    monkeypatch.setattr(unet, "weights_file", lambda _: tmp_path / "lite0.pth")
    with pytest.raises(WeightsInvalid, match=r"lite0.pth has sha256 \w+, expected 57934424"):
        build_unet(MaskConfig(encoder="tu-tf_efficientnet_lite0", weights="pretrained"))


@pytest.mark.parametrize(("encoder", "weights"), [("resnet18", "imagenet"), ("tu-resnet18", True)])
def test_other_pretrained_encoders_come_from_the_hub_or_say_what_to_do_without_it(monkeypatch, encoder, weights):
    fetch, asked = smp.encoders.get_encoder, []

    def fetched(name, weights=None, **rest):
        asked.append((name, weights))
        torch.manual_seed(7)
        return fetch(name, weights=None, **rest)

    def offline(name, weights=None, **_):
        raise OSError("no hub")

    monkeypatch.setattr(smp.encoders, "get_encoder", fetched)
    encoder_weights = encoder_state(build_unet(MaskConfig(encoder=encoder, weights="pretrained")))
    assert asked == [(encoder, weights)]
    torch.manual_seed(7)
    assert all(torch.equal(encoder_weights[name], value) for name, value in fetch(encoder).state_dict().items())
    monkeypatch.setattr(smp.encoders, "get_encoder", offline)
    with pytest.raises(
        WeightsUnavailable, match=rf"pretrained encoder {encoder}: no hub; give .*mask.weights=file:PATH"
    ):
        build_unet(MaskConfig(encoder=encoder, weights="pretrained"))


def test_an_encoder_of_timm_refuses_the_file_of_a_larger_one(tmp_path):
    torch.save(timm.create_model("tf_efficientnet_lite1").state_dict(), tmp_path / "lite1.pth")
    with pytest.raises(WeightsInvalid, match=r"lite1.pth is not a state dict of a tu-tf_efficientnet_lite0: .*unknown"):
        build_unet(MaskConfig(encoder="tu-tf_efficientnet_lite0", weights=f"file:{tmp_path / 'lite1.pth'}"))


@pytest.mark.parametrize("encoder", ["tu-nonsense", "tu-vit_base_patch16_224"])
def test_a_network_of_timm_that_cannot_be_an_encoder_is_refused(encoder):
    with pytest.raises(BadConfig, match=rf"'{encoder}' cannot be an encoder: "):
        build_unet(MaskConfig(encoder=encoder))


def test_an_unknown_encoder_is_refused_with_the_known_ones():
    with pytest.raises(BadConfig, match=r"'resnet19'; expected tu-NAME of timm, or one of .*resnet18"):
        build_unet(MaskConfig(encoder="resnet19"))


def test_random_weights_follow_their_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (
        build_unet(MaskConfig(encoder="resnet18", weights=f"random:{seed}")).net.state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.conv1.weight"], other["encoder.conv1.weight"])


def test_a_trained_state_of_another_encoder_is_refused():
    state = build_unet(MaskConfig(encoder="resnet18", weights="random:0")).net.state_dict()
    with pytest.raises(WeightsInvalid, match="do not fit a U-Net on resnet34"):
        rebuild_unet(state, "resnet34")
