"""A configuration is loaded from a file and overrides, and a mistake is one clear line."""

from pathlib import Path

import pytest

from retrieval_core.config.stages import NightlyConfig
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
        ("embed.backbon=resnet18", "unknown config key embed.backbon; did you mean backbone?"),
        ("embeds.backbone=resnet18", "unknown config key embeds; did you mean embed?"),
        ("embed.background=blue", "embed.background"),
        ("index.shards=-1", "index.shards"),
        ("reduce.dims=[]", "distinct positive"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(override: str, says: str) -> None:
    with pytest.raises(BadConfig) as raised:
        NightlyConfig.load(None, [override])
    assert raised.value.exit_code == 2
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
