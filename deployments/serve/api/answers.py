"""What the HTTP API answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from retrieval_core.images import Box
from retrieval_core.search.hits import Hit, Item
from retrieval_core.search.query import Mode


class SearchAnswer(BaseModel):
    """The hits of a search, best first, and the release that they come from."""

    query_id: str = Field(description="Names this answer, for example in what the shop reports about it.")
    release: str = Field(description="The fingerprint of the release.")
    hits: list[Hit]
    facets: dict[str, dict[str, int]] | None = Field(
        None, description="For each name of `facets` its commonest values, each with its number of items."
    )
    next_cursor: str | None = Field(None, description="Send it with the same search to get the next page.")


class ItemsAnswer(BaseModel):
    """Items of different products and as many categories as possible, always the same ones."""

    release: str
    items: list[Item]


class ViewAnswer(BaseModel):
    """A picture as it was sent, as the model of a release sees it, and where the product is."""

    release: str
    picture: str = Field(description="`data:` URI of a JPEG, upright.")
    view: str | None = Field(description="The same of the masked or cropped picture, null where it is the picture.")
    box: Box | None = Field(
        description="The box around the product, which a search takes as `box`; null where it is not known."
    )


class FacetsAnswer(BaseModel):
    """Values that a filter can name, the commonest first, each with its number of items."""

    release: str
    facets: dict[str, dict[str, int]]


class ReleaseAnswer(BaseModel):
    """A release of the store."""

    release: str
    created: str
    gate: str = Field(description="`published` or `held`.")
    rows: int
    is_production: bool


class ReleaseDetails(ReleaseAnswer):
    """A release of the store and what it can be searched by."""

    reads_text: bool
    modes: list[Mode]


class ReleasesAnswer(BaseModel):
    """The last releases, the newest first."""

    releases: list[ReleaseAnswer]


class Problem(BaseModel):
    """Why there is no answer (RFC 9457)."""

    model_config = ConfigDict(json_schema_extra={"example": {
        "type": "about:blank", "title": "Unprocessable Content", "status": 422,
        "detail": "unknown parameter 'colour'; did you mean facets?",
    }})  # fmt: skip

    type: str = "about:blank"
    title: str = Field(description="The name of the status.")
    status: int
    detail: str = Field(description="What is wrong, and what to do.")


class BatchAnswer(BaseModel):
    """The answers of a batch in its order; a search that has none has a problem in its place."""

    answers: list[SearchAnswer | Problem]


class EventsAnswer(BaseModel):
    """How many events were taken; they are in the store within seconds."""

    accepted: int
