"""A shop's name fits wherever it stands: a pool, a tag, an automation, an event."""

from __future__ import annotations

import pytest

from deployments.shop import deployment_name, shop_name
from retrieval_core.errors import BadConfig


def test_the_default_shop_keeps_the_names_of_its_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, name, nightly in (("", "vitrine", "nightly"), ("acme-2", "acme-2", "acme-2-nightly")):
        monkeypatch.setenv("VITRINE_SHOP", given)
        assert shop_name() == name
        assert deployment_name(name, "nightly") == nightly


@pytest.mark.parametrize("name", ["Acme", "a.b", "-a", "a-", "a--b", "ä", "a\n", "a b", "x" * 41, "training"])
def test_what_is_no_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_SHOP", name)
    with pytest.raises(BadConfig, match="VITRINE_SHOP"):
        shop_name()
