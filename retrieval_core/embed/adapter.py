"""What the rest of Vitrine asks of a library of backbones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from retrieval_core.arrays import UInt8
from retrieval_core.artifacts.fingerprints import weights_name
from retrieval_core.config.stages import EmbedConfig
from retrieval_core.embed.cards import Card
from retrieval_core.errors import BadConfig
from retrieval_core.images import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

WeightsKind = Literal["pretrained", "random", "file", "artifact", "fit"]


class Adapter(ABC):
    """Builds, loads and runs the backbones of one library.

    A subclass names its `library`, lists its `cards` and builds their networks; everything else has a default.
    `name_forms` describes further names it accepts, for messages. `weights_kinds` are the weights its cards can have.
    Its module is imported by every command: import the library itself inside the methods.
    """

    library: ClassVar[str]
    cards: ClassVar[tuple[Card, ...]] = ()
    name_forms: ClassVar[tuple[str, ...]] = ()
    weights_kinds: ClassVar[tuple[WeightsKind, ...]] = ("pretrained", "random", "file")

    @abstractmethod
    def build(self, card: Card, size_px: int) -> nn.Module:
        """Return the card's network for squares of `size_px`, its weights drawn from torch's random generator."""

    def accepts(self, name: str) -> bool:
        """Return whether `name`, which is no card's, describes a backbone that `open_card` can read."""
        return False

    def open_card(self, name: str) -> Card:
        """Return the card of a backbone whose name is accepted but not listed in `cards`."""
        raise NotImplementedError(f"the adapter of {self.library} accepts no other names than those of its cards")

    def preprocess(self, card: Card, config: EmbedConfig) -> Preprocess:
        """Return how pictures become the network's squares. Raises `BadConfig` for a size that it cannot take."""
        if config.size_px not in (0, card.size_px) and not card.resizable:
            raise BadConfig(
                f"{card.name} only takes squares of {card.size_px} px, got embed.size_px={config.size_px}; set it to 0"
            )
        if config.size_px % card.size_step_px:
            raise BadConfig(
                f"{card.name} takes squares of a multiple of {card.size_step_px} px, "
                f"got embed.size_px={config.size_px}; set it to 0 for {card.size_px} px"
            )
        return Preprocess(
            size_px=config.size_px or card.size_px,
            crop_fraction=card.crop_fraction,
            interpolation=card.interpolation,
            crop=card.crop if config.framing == "card" else config.framing,
        )

    def fit(self, card: Card, pixels: UInt8) -> nn.Module:
        """Return the network fitted to (n, size, size, 3) uint8 pictures, for adapters whose weights are `fit:SEED`."""
        raise NotImplementedError(f"the adapter of {self.library} fits no networks")

    def convert_state_dict(self, card: Card, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a published file under the keys of the network that `build` returns.

        Keys that begin with one of `card.unused_keys` may stay: they are dropped later.
        """
        return dict(state)

    def weights_file(self, card: Card) -> Path:
        """Return a local copy of the card's published weights, downloading it first if needed.

        Raises `WeightsUnavailable`.
        """
        from retrieval_core.embed.hub import published_weights

        return published_weights(card, (card.hub_file,))

    def encode_image(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """Return (n, dim) float32 vectors of any length for (n, 3, size, size) float32 normalised pixels."""
        return network(pixels)

    def tokenizer_files(self, card: Card) -> tuple[Path, ...]:
        """Return local copies of the `TOKENIZER_FILES` that texts are read by; none where no such files are needed.

        Raises `WeightsUnavailable`.
        """
        return ()

    def open_text_encoder(
        self, card: Card, state: Mapping[str, Tensor], tokenizer: Sequence[Path], device: str
    ) -> Callable[[Sequence[str]], Tensor]:
        """Return a function from texts to (n, dim) float32 vectors on `device`, given the tensors of the network.

        `tokenizer` are the `tokenizer_files` that were kept with it, if any. Only called for cards with `has_text`.
        """
        raise NotImplementedError(f"the adapter of {self.library} reads no text")

    def logit_scale(self, network: nn.Module) -> float:
        """Return the factor of the cosines of pictures and texts in the loss that the network was trained by.

        Only called for cards with `has_text`.
        """
        raise NotImplementedError(f"the adapter of {self.library} reads no text")

    def fingerprint_inputs(self, name: str, weights: str) -> tuple[str, str]:
        """Return the backbone and its weights as they enter the fingerprint: files by the sha256 of their content."""
        return name, weights_name(weights)
