"""What a client asks: the parameters of the HTTP API with their bounds. A parameter that is not here is refused."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from retrieval_core.artifacts import releases
from retrieval_core.feedback.log import Choice
from retrieval_core.filters import MAX_CHARS
from retrieval_core.images import Box
from retrieval_core.search.query import Mode

MAX_K = 100
MAX_PICTURE_BYTES = 20_000_000
MAX_PICTURES = 8  # of one kind in a search
MAX_ITEMS = 32
MAX_TEXT_CHARS = 1_000
MAX_URL_CHARS = 4_000
MAX_SEARCHES = 50  # of a batch
MAX_NAMES, MAX_VALUES = 20, 50  # of a filter by values, and of each name
MAX_CURSOR_CHARS = 16_000
MAX_EVENTS = 500  # of a request
MAX_POSITION = 2_000
MIN_PICTURE_PX, MAX_PICTURE_PX = 16, 1_600  # of a side of a picture in an answer


def _picture(value: Any) -> Any:
    """Return the bytes of base64, with or without `data:...;base64,` before it."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the picture is not base64") from None


Picture = Annotated[
    bytes,
    Field(min_length=1, max_length=MAX_PICTURE_BYTES),
    BeforeValidator(_picture),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
Pictures = Annotated[tuple[Picture, ...], Field(max_length=MAX_PICTURES)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
Texts = Annotated[tuple[Text, ...], Field(max_length=MAX_PICTURES)]
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS)]
Urls = Annotated[tuple[Url, ...], Field(max_length=MAX_PICTURES)]
Names = Annotated[tuple[Text, ...], Field(max_length=MAX_NAMES)]
Choices = Annotated[
    dict[Text, Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_VALUES)]], Field(max_length=MAX_NAMES)
]
ReleaseName = Annotated[str, Field(max_length=64, examples=[releases.PRODUCTION])]


def _ordered(box: Box) -> Box:
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError("the box is left, top, right and bottom, each from 0 to 1 and ascending; this one is not")
    return box


PictureBox = Annotated[Box, AfterValidator(_ordered)]
WHOLE: Any = Field(False, description="Neither mask nor crop the pictures, even if the release does so.")
BOX: Any = Field(
    None,
    description="The part of the one picture to search with: left, top, right and bottom as shares of its sides.",
    examples=[[0.1, 0, 0.9, 0.5]],
)
FILTERS: Any = Field(
    {}, description="Items that have one of the values of every name.", examples=[{"colour": ["red", "blue"]}]
)
SIDE_PX: Any = Field(320, ge=MIN_PICTURE_PX, le=MAX_PICTURE_PX, description="The longer side of the picture at most.")


class Parameters(BaseModel):
    """Base of the parameters of a request."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Unlike(Parameters):
    """What hits should not resemble."""

    texts: Texts = ()
    images: Pictures = ()
    image_urls: Urls = ()


class RankParameters(Parameters):
    """Which items to return, and what of them."""

    where: str = Field("", max_length=MAX_CHARS, description="A filter.", examples=["category=dress and price < 30"])
    k: int = Field(10, ge=1, le=MAX_K, description="Number of hits.")
    all_items: bool = Field(False, description="Every item that is found; without it, the best of each product.")
    collapse: bool = Field(False, description="Every item, but of near-identical pictures of a product only the best.")
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="No hits where it is less likely than this that one of the first five is relevant."
    )
    release: ReleaseName = Field(releases.PRODUCTION, description="`production`, or a release's fingerprint.")
    fields: Names | None = Field(None, description="The fields of a hit to return; all by default.")
    cursor: str = Field("", max_length=MAX_CURSOR_CHARS, description="`next_cursor` of the page before.")


class SearchRequest(RankParameters):
    """A search for what all pictures, texts and items have in common."""

    texts: Texts = Field((), description="Words, if the backbone of the release reads text.")
    item_ids: Annotated[tuple[Text, ...], Field(max_length=MAX_ITEMS)] = Field(
        (), description="Items of the catalogue; they are not among their own hits."
    )
    images: Pictures = Field((), description="Files of pictures in base64, with or without `data:…;base64,`.")
    image_urls: Urls = Field((), description="Addresses of pictures on the public internet.")
    unlike: Unlike = Unlike()
    filters: Choices = FILTERS
    facets: Names = Field((), description="Names whose values are counted among the items that match the filter.")
    mode: Mode = Field("nearest", description="`classified` searches first among the likeliest classes of a picture.")
    whole: bool = WHOLE
    box: PictureBox | None = BOX

    @model_validator(mode="after")
    def _has_what_the_box_is_of(self) -> Self:
        if self.box and len(self.images) + len(self.image_urls) != 1:
            raise ValueError("box: it is a part of one picture, so give one image or image_url")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look for."""
        return not (self.texts or self.item_ids or self.images or self.image_urls)


class SimilarRequest(RankParameters):
    """A search for items like one."""


class FacetsRequest(Parameters):
    """Which values to count."""

    names: Names = Field((), description="All names that a filter knows by default.")
    where: str = Field("", max_length=MAX_CHARS, description="Count only items that match this filter.")
    filters: Choices = FILTERS
    release: ReleaseName = releases.PRODUCTION


class ItemsRequest(Parameters):
    """Which items to return without a search."""

    k: int = Field(10, ge=1, le=MAX_K, description="Number of items.")
    where: str = Field("", max_length=MAX_CHARS, description="Only items that match this filter.")
    filters: Choices = FILTERS
    release: ReleaseName = releases.PRODUCTION


class ItemRequest(Parameters):
    """In which release to look for an item."""

    release: ReleaseName = releases.PRODUCTION


class PictureRequest(ItemRequest):
    """How large the picture of an item is to be."""

    side_px: int = SIDE_PX


class ViewRequest(Parameters):
    """One picture, to see what a search makes of it: `images`, `image_urls` or `item_ids`."""

    images: Annotated[Pictures, Field(max_length=1)] = ()
    image_urls: Annotated[Urls, Field(max_length=1)] = ()
    item_ids: Annotated[tuple[Text, ...], Field(max_length=1)] = ()
    whole: bool = WHOLE
    box: PictureBox | None = BOX
    release: ReleaseName = releases.PRODUCTION
    side_px: int = SIDE_PX

    @model_validator(mode="after")
    def _has_one_picture(self) -> Self:
        if len(self.images) + len(self.image_urls) + len(self.item_ids) != 1:
            raise ValueError("give one picture: images, image_urls or item_ids")
        return self


class NoParameters(Parameters):
    """A request without parameters."""


class BatchRequest(Parameters):
    """Several searches, each answered on its own."""

    searches: Annotated[tuple[SearchRequest, ...], Field(min_length=1, max_length=MAX_SEARCHES)]


class ShopperEvent(Parameters):
    """What a shopper did with a hit."""

    event: Choice = Field(description="`not_what_i_meant`: the hit is wrong.")
    query_id: str = Field(pattern="^[0-9a-f]{32}$", description="`query_id` of the answer with the hit.")
    item_id: Text = Field(description="The hit.")
    position: int | None = Field(
        None,
        ge=1,
        le=MAX_POSITION,
        description="Where the hit was shown, from 1 on, if not in the order of the answer.",
    )


class EventsRequest(Parameters):
    """Events in one request; a single one may also be sent as it is."""

    events: Annotated[tuple[ShopperEvent, ...], Field(min_length=1, max_length=MAX_EVENTS)]

    @model_validator(mode="before")
    @classmethod
    def _wrap_a_single_event(cls, value: Any) -> Any:
        return {"events": [value]} if isinstance(value, dict) and "event" in value else value


EXAMPLES: dict[str, Any] = {
    "by item": {"value": {"item_ids": ["p0003-v1"], "where": "category=sweater", "k": 5}},
    "by picture": {"value": {"images": ["/9j/4AAQSkZJRgABAQ…"], "filters": {"colour": ["red", "blue"]}, "k": 12}},
    "by words and picture": {"value": {"texts": ["with long sleeves"], "image_urls": ["https://shop.example/a.jpg"]}},
}
