"""What a search looks for: pictures, texts and items, and what it moves away from."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Literal, get_args

from retrieval_core.arrays import Float32
from retrieval_core.errors import BadConfig
from retrieval_core.images import RGB

Image = str | os.PathLike[str] | bytes | RGB
Mode = Literal["nearest", "classified"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, eq=False)
class Query:
    """What to search for: the mean of all pictures, texts and items, less half the mean of the `unlike` ones.

    A picture is a path, an `s3://` URI, a file's bytes, or an upright (h, w, 3) uint8 array. `whole` embeds pictures as
    they are even where the release masks or crops them. Pictures that are embedded already (`QueryEncoder.embed`) are
    given as `vectors` and `unlike_vectors`. Raises `BadConfig` for a single value in place of a tuple.
    """

    images: tuple[Image, ...] = ()
    texts: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()
    unlike_images: tuple[Image, ...] = ()
    unlike_texts: tuple[str, ...] = ()
    vectors: tuple[Float32, ...] = ()
    unlike_vectors: tuple[Float32, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "whole" and not isinstance(value, tuple):
                raise BadConfig(f"a query's {field.name} must be a tuple, got a {type(value).__name__}; write (value,)")
        if not (self.images or self.texts or self.item_ids or self.vectors):
            raise BadConfig("a query needs a picture, a text or an item to be like")
