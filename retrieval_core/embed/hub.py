"""Published weights: found in a local cache, or downloaded into it from the Hugging Face hub or a plain URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrieval_core.embed.cards import Card
from retrieval_core.errors import WeightsUnavailable
from retrieval_core.state_dict import PROBE_TIMEOUT_S, cached_download, first_line


def published_weights(card: Card, names: Sequence[str]) -> Path:
    """Return a local copy of a card's weights: the file at its URL, or the first of `names` in its repository.

    Raises `WeightsUnavailable`.
    """
    source = card.url or card.hub_repo
    try:
        return cached_download(card.url, card.sha256) if card.url else hub_path(card.hub_repo, names)
    except Exception as error:  # each client fails in many ways; in each, the weights are not available now
        raise WeightsUnavailable(
            f"cannot fetch pretrained {card.name} ({source}): {first_line(error)}; "
            f"give a copy of its {(card.url or card.hub_file).rsplit('/', 1)[-1]} as --set embed.weights=file:PATH, "
            "or do without pretraining by --set embed.weights=random:0"
        ) from error


def hub_path(repo: str, names: Sequence[str]) -> Path:
    """Return the first of the files `names` that a repository has, from the hub's cache or downloaded into it.

    `repo` is `OWNER/NAME` or `OWNER/NAME@REVISION`. Raises what the hub's client raises.
    """
    from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    repo, _, commit = repo.partition("@")
    revision = commit or None
    for name in names:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    # Without internet the hub's client retries for most of a minute; one request with a timeout fails sooner.
    get_session().head(constants.ENDPOINT, timeout=PROBE_TIMEOUT_S)
    for name in names[:-1]:
        try:
            return Path(hf_hub_download(repo, name, revision=revision))
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repo, names[-1], revision=revision))


def revision_of(path: Path) -> str:
    """Return the commit of a file in the hub's cache, "" for any other file."""
    return path.parent.name if path.parent.parent.name == "snapshots" else ""
