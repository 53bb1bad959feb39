import pytest

from retrieval_core.errors import BadConfig
from retrieval_core.export.targets.registry import KINDS, find_address, open_target


def test_the_address_may_be_given_or_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_EXPORT_URL", "postgresql://user:secret@db/shop")
    monkeypatch.setenv("VITRINE_EXPORT_TOKEN", "token")
    assert find_address("parquet", "", "shop").url == "postgresql://user:secret@db/shop"
    given = find_address("parquet", "postgresql://user@db/other", "shop")
    assert (given.url, given.token) == ("postgresql://user@db/other", "token")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_address_is_asked_for_with_an_example(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_EXPORT_URL", raising=False)
    with pytest.raises(BadConfig, match="give --url, or set VITRINE_EXPORT_URL"):
        find_address(kind, "", "shop")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2@db/shop",
        "https://user:hunter2@search.example:9200",
        "postgresql://db/shop?password=hunter2",
        "https://[user:hunter2@search",
    ],
)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadConfig, match="VITRINE_EXPORT_URL") as refused:
        find_address("parquet", url, "shop")
    assert "hunter2" not in str(refused.value)


def test_a_name_that_a_target_could_not_have_is_refused() -> None:
    with pytest.raises(BadConfig, match="--name 'Shop;'"):
        find_address("parquet", "folder", "Shop;")


def test_a_wrong_address_is_refused() -> None:
    with pytest.raises(BadConfig, match="ftp://"):
        open_target("parquet", find_address("parquet", "ftp://shop/x", "shop"))
