"""Print what every backbone costs, as a table: width, pixels, parameters, and operations for one picture.

    python -m benchmarks.embedding.backbone_costs [NAME ...]

The networks are counted through and not run: the figures are exact and need no weights.
"""

from __future__ import annotations

import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from retrieval_core.embed.cards import Card
from retrieval_core.embed.networks import ImageEmbedder
from retrieval_core.embed.registry import CARDS, adapter_of, get_card


def main() -> None:
    names = sys.argv[1:] or [name for name in CARDS if name != "pca_pixels"]
    print("| `embed.backbone` | dim | px | million parameters | GFLOP a picture | text | licence |")
    print("|---|---|---|---|---|---|---|")
    rows = [(_cost(card), card) for card in map(get_card, names)]
    for (n_parameters, n_flops), card in sorted(rows, key=lambda row: row[0][1]):
        licence = card.licence if card.commercial else f"{card.licence}: forbids or limits commercial use"
        text = "yes" if card.has_text else ""
        print(
            f"| `{card.name}` | {card.dim} | {card.size_px} | {n_parameters / 1e6:.1f} | {n_flops / 1e9:.1f} "
            f"| {text} | {licence} |"
        )


def _cost(card: Card) -> tuple[int, int]:
    """Return the parameters of the image side, and the operations (two for a multiplication and addition)."""
    embedder = ImageEmbedder(card, adapter_of(card).build(card, card.size_px)).to("meta")
    pixels = torch.zeros(1, card.size_px, card.size_px, 3, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        embedder(pixels)
    side = getattr(embedder.network, "visual", embedder.network)
    return sum(parameter.numel() for parameter in side.parameters()), counter.get_total_flops()


if __name__ == "__main__":
    main()
