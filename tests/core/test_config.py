"""Configuration is read from TOML and overrides, and a mistake is one clear line."""

from pathlib import Path

import pytest

from retrieval_core.config import NightlyConfig
from retrieval_core.errors import BadConfig


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vitrine.toml"
    path.write_text('[embed]\nbackbone = "resnet50"\nsize_px = 128\n[settings]\nstore = "x"\n')
    config = NightlyConfig.load(path, ["embed.backbone=resnet18", "reduce.dims=[32, 16]", "embed.weights=random:0"])
    assert (config.embed.backbone, config.embed.size_px, config.reduce.dims) == ("resnet18", 128, (32, 16))
    assert config.embed.weights == "random:0"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("embed.backbon=resnet18", "unknown config key embed.backbon"),
        ("embeds.backbone=resnet18", "unknown config key embeds"),
        ("embed.background=blue", "embed.background"),
        ("index.shards=-1", "index.shards"),
        ("reduce.dims=[]", "distinct positive"),
        ("backbone", "stage.key=value"),
        ("embed.backbone", "stage.key=value"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(override: str, says: str) -> None:
    with pytest.raises(BadConfig, match=says) as raised:
        NightlyConfig.load(None, [override])
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"absent\.toml"):
        NightlyConfig.load(tmp_path / "absent.toml", [])
    (tmp_path / "broken.toml").write_text("[embed")
    with pytest.raises(BadConfig, match=r"broken\.toml"):
        NightlyConfig.load(tmp_path / "broken.toml", [])
