"""An item's story as one page that holds its pictures: nothing on it comes from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from retrieval_core.artifacts.manifests import Hit, Release
from retrieval_core.errors import VitrineError
from retrieval_core.evaluate.report.render import environment
from retrieval_core.evaluate.thumbnails import Thumbnail, jpeg_base64
from retrieval_core.explain.story import Story, mask_row
from retrieval_core.explain.words import STATES, event_words, facts_of, itself_words
from retrieval_core.images import apply_mask, crop_to_mask, decode
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri


class Pictures(NamedTuple):
    """The item's picture and what is left of it under its mask or crop, and each of its neighbours."""

    own: tuple[Thumbnail, ...]
    neighbours: tuple[Thumbnail, ...]


def pictures_of(store: Store, release: Release, story: Story) -> Pictures:
    """Read and shrink the pictures of a story; one that cannot be read is a gap with its name."""
    return Pictures(tuple(_own(store, release, story)), tuple(_neighbour(hit) for hit in story.neighbours))


def render_story(story: Story, pictures: Pictures) -> str:
    """The story as one HTML document; whatever came from the catalogue is escaped."""
    return (
        environment()
        .get_template("explain_item.html")
        .render(
            story=story,
            pictures=pictures,
            state=STATES[story.state],
            tone="good" if story.state == "indexed" else "held",
            facts=facts_of(story),
            itself=itself_words(story.itself) if story.itself else "",
            events=[(event, event_words(event)) for event in story.history.events],
        )
    )


def _own(store: Store, release: Release, story: Story) -> Iterator[Thumbnail]:
    if story.row is None:
        return
    try:
        image = decode(read_uri(story.row.image_uri))
    except VitrineError:
        yield Thumbnail(item_id=story.item_id, caption="the picture cannot be read", jpeg="")
        return
    yield Thumbnail(item_id=story.item_id, caption="as it lies there now", jpeg=jpeg_base64(image))
    mask = mask_row(store, release, story.row.content_id) if story.mask and story.row.content_id else None
    if mask is None or story.mask is None or story.picture:
        return
    cropped = release.variant.view == "crop"
    margin = release.nightly_config().crop.margin
    left = crop_to_mask(image, mask.array(), margin) if cropped else apply_mask(image, mask.array())
    caption = f"not used: {mask.reason}" if mask.reason else f"{mask.area:.0%} of it, under its mask"
    yield Thumbnail(item_id=story.item_id, caption=caption, jpeg=jpeg_base64(left))


def _neighbour(hit: Hit) -> Thumbnail:
    try:
        jpeg = jpeg_base64(decode(read_uri(hit.image_uri)))
    except VitrineError:
        jpeg = ""
    caption = " · ".join([hit.item_id, *filter(None, [hit.category, ", ".join(hit.labels)])])
    return Thumbnail(item_id=hit.item_id, caption=caption, jpeg=jpeg, score=hit.score)
