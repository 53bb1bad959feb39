import pytest

from retrieval_core.errors import TargetRefused, TargetUnavailable
from retrieval_core.export import target
from retrieval_core.export.target import NAME, Address, is_collection, patiently


def test_an_overloaded_target_is_asked_again_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(target.time, "sleep", pauses.append)
    answers = iter([TargetUnavailable("busy"), TargetUnavailable("busy"), None])

    def send() -> str:
        if error := next(answers):
            raise error
        return "done"

    assert patiently(send) == "done"
    assert pauses == [1, 4]

    def fail() -> None:
        raise TargetUnavailable("away")

    with pytest.raises(TargetUnavailable, match="away"):
        patiently(fail)
    assert pauses == [1, 4, 1, 4, 16]


def test_a_refusal_is_final() -> None:
    def refuse() -> None:
        raise TargetRefused("no")

    with pytest.raises(TargetRefused):
        patiently(refuse)


def test_only_collections_of_the_same_export_are_its_own() -> None:
    assert is_collection("shop_0123456789ab", "shop")
    for name in ("shop_0123456789abc", "shop_2_0123456789ab", "shop", "shop_customers", "xshop_0123456789ab"):
        assert not is_collection(name, "shop")


def test_an_address_never_shows_its_secrets() -> None:
    assert repr(Address("shop", "postgresql://user:secret@db", "token")) == "Address(name='shop')"


def test_names_are_valid_everywhere() -> None:
    assert NAME.fullmatch("shop_2")
    for name in ("Shop", "2shop", "shop-2", "shop;drop", "", "s" * 41):
        assert not NAME.fullmatch(name)
