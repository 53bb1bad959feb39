"""An explanation as one HTML page that holds its pictures and loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from retrieval_core.artifacts.manifests import Release
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.errors import VitrineError
from retrieval_core.evaluate.report.render import environment
from retrieval_core.evaluate.thumbnails import Thumbnail, jpeg_base64
from retrieval_core.explain.explanation import Explanation, mask_row
from retrieval_core.explain.text import NEAREST, STATES, describe_event, describe_self_search, item_facts
from retrieval_core.images import apply_mask, crop_to_mask, decode
from retrieval_core.search.hits import Hit
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri


class Pictures(NamedTuple):
    """The item's picture, whole and as its mask or crop leaves it, and the picture of each of its neighbours."""

    item: tuple[Thumbnail, ...]
    neighbours: tuple[Thumbnail, ...]


def read_pictures(store: Store, release: Release, explanation: Explanation) -> Pictures:
    """Read and shrink the pictures of an explanation; one that cannot be read is a gap with its name."""
    return Pictures(tuple(_item(store, release, explanation)), tuple(_neighbour(hit) for hit in explanation.neighbours))


def render_page(explanation: Explanation, pictures: Pictures) -> str:
    """Return the explanation as one HTML document; everything that comes from the catalogue is escaped."""
    return (
        environment()
        .get_template("explain_item.html")
        .render(
            item=explanation,
            pictures=pictures,
            nearest=NEAREST,
            state=STATES[explanation.state],
            tone="good" if explanation.state == "indexed" else "held",
            facts=item_facts(explanation),
            self_search=describe_self_search(explanation.itself) if explanation.itself else "",
            events=[(event, describe_event(event)) for event in explanation.history.events],
        )
    )


def _item(store: Store, release: Release, explanation: Explanation) -> Iterator[Thumbnail]:
    row, item_id = explanation.row, explanation.item_id
    if row is None:
        return
    try:
        image = decode(PictureReader(store).read(row.model_dump()))
    except VitrineError:
        yield Thumbnail(item_id=item_id, caption="the picture cannot be read", jpeg="")
        return
    yield Thumbnail(item_id=item_id, caption="the picture", jpeg=jpeg_base64(image))
    mask = mask_row(store, release, row.content_id) if explanation.mask and row.content_id else None
    if mask is None or explanation.picture:
        return
    margin = release.nightly_config().crop.margin
    is_cropped = release.variant.view == "crop"
    view = crop_to_mask(image, mask.array(), margin) if is_cropped else apply_mask(image, mask.array())
    caption = f"not used: {mask.reason}" if mask.reason else f"{mask.area:.0%} of it, under its mask"
    yield Thumbnail(item_id=item_id, caption=caption, jpeg=jpeg_base64(view))


def _neighbour(hit: Hit) -> Thumbnail:
    try:
        jpeg = jpeg_base64(decode(read_uri(hit.image_uri)))
    except VitrineError:
        jpeg = ""
    caption = " · ".join([hit.item_id, *filter(None, [hit.category, ", ".join(hit.labels)])])
    return Thumbnail(item_id=hit.item_id, caption=caption, jpeg=jpeg, score=hit.score)
