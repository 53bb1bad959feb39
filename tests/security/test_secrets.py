"""Keys and tokens stay where they were given: in no log, error, artifact, fingerprint or run document."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from deployments.cli.main import main
from retrieval_core.config.stages import IngestConfig, NightlyConfig
from retrieval_core.errors import VitrineError
from retrieval_core.images import thumbnail
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store, read_uri
from tests.ingesting import ingest_source

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIASENTINELKEY00001",
    "AWS_SECRET_ACCESS_KEY": "sentinel-secret-swordfish",
    "AWS_SESSION_TOKEN": "sentinel-token-marlin",
    "HF_TOKEN": "hf_sentinelhub",
    "PREFECT_API_KEY": "pnu_sentinelprefect",
}
USER_INFO = "AKIASENTINELKEY00001:sentinel-secret/swordfish@"
WORDS = ("sentinel", "SENTINEL", "swordfish", "marlin")

pytestmark = pytest.mark.usefixtures("aws_environment")


@pytest.fixture(autouse=True)
def _secrets(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def shop(bucket: str, s3_client: Any) -> str:
    """A catalogue on S3 of one picture that is good, one that is not, and one that is not there."""
    picture = thumbnail(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8), 24)
    for name, data in {"a.jpg": picture, "b.jpg": b"%PDF"}.items():
        s3_client.put_object(Bucket=bucket, Key=f"shop/{name}", Body=data)
    table = b"item_id,image_uri\na,a.jpg\nb,b.jpg\nc,c.jpg\n"
    s3_client.put_object(Bucket=bucket, Key="shop/items.csv", Body=table)
    return f"table:s3://{bucket}/shop/items.csv"


def assert_silent(*said: object) -> None:
    for text in map(str, said):
        assert not [word for word in WORDS if word in text], text[:2000]


def test_nothing_written_or_logged_holds_a_key(
    shop: str,
    bucket: str,
    s3_endpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", s3_endpoint)
    settings = Settings.load(store=f"s3://{bucket}/store", cache_dir=tmp_path / "cache")
    done = ingest_source(settings, shop, IngestConfig(max_reject_fraction=1.0))
    store = settings.open_store()

    keys = list(store.list(""))
    assert len(keys) >= 4
    for key in keys:
        assert_silent(key, store.get(key), store.local_path(key).read_bytes())
        if key.endswith(".parquet"):  # compressed
            assert_silent(pl.read_parquet(store.local_path(key)).rows())
    assert_silent(*(path for path in tmp_path.rglob("*")))
    assert_silent(done.model_dump_json(), settings.model_dump_json(), repr(settings), repr(store), store.url)
    assert_silent(caplog.text, *capfd.readouterr())


def test_other_keys_give_the_same_names(
    shop: str, bucket: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fingerprint asks what is made, not who may read it."""
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", s3_endpoint)
    made = []
    for number in range(2):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"another-{number}")
        settings = Settings.load(store=str(tmp_path / f"store-{number}"))
        made.append(ingest_source(settings, shop, IngestConfig(max_reject_fraction=1.0)).catalog)
    assert made[0].key == made[1].key


FAILURES: dict[str, Callable[[str, str, Path], Any]] = {
    "no answer": lambda bucket, endpoint, _: open_store("s3://bucket", s3_endpoint_url="http://127.0.0.1:1").get("a"),
    "no bucket": lambda bucket, endpoint, _: open_store("s3://no-such-bucket", s3_endpoint_url=endpoint).put("a", b""),
    "no object": lambda bucket, endpoint, _: open_store(f"s3://{bucket}", s3_endpoint_url=endpoint).get("absent"),
    "store with keys": lambda bucket, endpoint, _: open_store(f"s3://{USER_INFO}{bucket}/house").get("a"),
    "endpoint with keys": lambda bucket, *_: open_store(f"s3://{bucket}", s3_endpoint_url=f"http://{USER_INFO}h").get("a"),
    "other scheme with keys": lambda *_: open_store(f"sftp://{USER_INFO}host/house"),
    "source with keys": lambda bucket, *_: open_source(f"folder:s3://{USER_INFO}{bucket}/shop").rows(),
    "table with keys": lambda bucket, *_: open_source(f"table:s3://{USER_INFO}{bucket}/items.csv").rows(),
    "picture with keys": lambda bucket, *_: read_uri(f"s3://{USER_INFO}{bucket}/a.jpg"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_no_error_tells_a_key(
    name: str, bucket: str, s3_endpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(VitrineError) as caught:
        FAILURES[name](bucket, s3_endpoint, tmp_path)
    assert_silent(caught.value, caplog.text, *(str(error) for error in _chain(caught.value)))


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and what it came from, as a traceback shows them."""
    return [error, *_chain(error.__cause__ or error.__context__)] if error else []


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--store", f"s3://{USER_INFO}bucket/house"],
        ["verify", "--store", f"s3://{USER_INFO}bucket/house", "--json"],
        ["plan", "--store", "{folder}", "--source", f"folder:s3://{USER_INFO}bucket/shop"],
        ["run", "--store", "{folder}", "--source", f"table:s3://{USER_INFO}bucket/items.csv"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_command_line_does_not_repeat_a_key(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main([word.replace("{folder}", str(tmp_path / "store")) for word in arguments])
    assert code == 2
    out = capfd.readouterr()
    assert out.err.startswith("vitrine: ")
    assert_silent(*out)


def test_a_config_has_no_place_for_a_key() -> None:
    """What is fingerprinted and shown in a report: were there such a field, it would be in both."""
    names = {name.lower() for name in _field_names(NightlyConfig().model_dump())} | set(Settings.model_fields)
    assert not [name for name in names if any(word in name for word in ("secret", "token", "password", "key"))]


def _field_names(config: dict[str, Any]) -> set[str]:
    nested = [_field_names(value) for value in config.values() if isinstance(value, dict)]
    return set(config).union(*nested)


def test_a_client_shows_no_key(s3_store: Store) -> None:
    """A debugger's view, and the traceback with it."""
    try:
        s3_store.get("absent")
    except VitrineError:
        assert_silent(traceback.format_exc(), vars(s3_store))
