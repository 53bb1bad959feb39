"""From a shop's export to hits with title, price and link: one command to make them searchable, one to search."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.images import thumbnail
from tests.deployments.cli.conftest import QUICK, Done

N = 6
MERCHANT = "id,title,image_link,additional_image_link,product_type,link,price,availability\n"
SHOPIFY = "Handle,Title,Type,Image Src,Image Position,Variant Price\n"


def merchant(number: int) -> str:
    return (
        f"l{number},Lamp {number},{number}a.jpg,{number}b.jpg,Lamps,https://x.example/products/l{number},"
        f"{number + 1}.50 EUR,in_stock\n"
    )


def shopify(number: int) -> str:
    return f"l{number},Lamp {number},Lamps,{number}a.jpg,1,{number + 1}.50\nl{number},,,{number}b.jpg,2,\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("merchant:export.csv", MERCHANT + "".join(map(merchant, range(N)))),
        (
            "shopify:export.csv?field.link=https://x.example/products/{Handle}&field.price={Variant Price} EUR",
            SHOPIFY + "".join(map(shopify, range(N))),
        ),
    ],
    ids=["merchant", "shopify"],
)
def test_an_export_goes_to_hits_with_title_price_and_link(
    source: str, text: str, tmp_path: Path, vitrine: Callable[..., Done], prefect_server: None
) -> None:
    (tmp_path / "export.csv").write_text(text)
    for number in range(2 * N):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        (tmp_path / f"{number // 2}{'ab'[number % 2]}.jpg").write_bytes(thumbnail(pixels, 32))
    run = vitrine("run", f"--source={source}", "--store=store", "--json", *QUICK, cwd=tmp_path)
    assert run.code == 0, run.err
    query = ["search", "--store=store", "--image=3a.jpg", "--where=price < 5 and price >= '2 EUR'"]
    answer = json.loads(vitrine(*query, "--json", cwd=tmp_path).out)
    found = [hit["product_id"] for hit in answer["hits"]]
    assert (found[0], sorted(found)) == ("l3", ["l1", "l2", "l3"])
    fields = answer["hits"][0]["fields"]
    assert (fields["title"], fields["link"]) == ("Lamp 3", "https://x.example/products/l3")
    assert fields["price"] == {"amount": 4.5, "currency": "EUR", "text": "4.50 EUR"}
    every = json.loads(vitrine(*query, "--all-items", "--json", cwd=tmp_path).out)
    assert len(every["hits"]) == 6
    first, *_ = vitrine(*query, cwd=tmp_path).out.splitlines()
    assert first.split(maxsplit=2)[2] == "Lamps  Lamp 3  4.50 EUR  https://x.example/products/l3"
