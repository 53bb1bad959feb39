"""`vitrine search`, and the same from Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval_core.images import thumbnail
from tests.deployments.cli.conftest import QUICK, Done
from tests.deployments.cli.observer import observe


def test_search_finds_the_query_itself(published: Path, vitrine: Callable[..., Done]) -> None:
    done = vitrine("search", "--store=store", "--image=photos/red/0.jpg", "-k", "3", "--json", cwd=published)
    answer = json.loads(done.out)
    assert answer["release"] == json.loads((published / "run.json").read_text())["release"]
    assert len(answer["hits"]) == 3
    assert set(answer["hits"][0]) == {
        "item_id", "score", "confidence", "image_uri", "product_id", "category", "labels", "fields",
    }  # fmt: skip
    assert (answer["hits"][0]["item_id"], answer["hits"][0]["category"]) == ("red/0.jpg", "red")


def test_search_joins_what_it_is_given_and_keeps_to_the_filter(published: Path, vitrine: Callable[..., Done]) -> None:
    done = vitrine(
        "search", "--store=store", "--json", "-k=20", "--collapse", "--whole", "--where=category=blue",
        "--image=photos/red/0.jpg", "--image=photos/blue/1.jpg", "--item=blue/2.jpg", "--unlike-image=photos/red/1.jpg",
        cwd=published,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = {hit["item_id"] for hit in json.loads(done.out)["hits"]}
    assert found == {f"blue/{number}.jpg" for number in (0, 1, 3, 4, 5)}
    wrong = vitrine("search", "--store=store", "--item=blue/2.jpg", "--where=colour=blue", cwd=published)
    assert (wrong.code, wrong.out, wrong.err.count("\n")) == (2, "", 1)
    assert "'colour'" in wrong.err
    assert "category" in wrong.err


def test_the_python_of_the_readme_runs(published: Path, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    (tmp_path / "vitrine-store").symlink_to(published / "store")
    (tmp_path / "query.jpg").symlink_to(published / "photos" / "blue" / "3.jpg")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "1.000 blue/3.jpg"


def test_a_search_by_picture_loads_no_torch(published: Path) -> None:
    code = (
        "import sys; from deployments.cli.main import main; main(sys.argv[1:]); "
        "assert not {'torch', 'torchvision', 'scipy'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, "search", "--store=store", "--image=photos/red/0.jpg"]
    done = subprocess.run(command, cwd=published, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "program",
    [
        ["-m", "deployments.cli.main", "search", "--store=store", "--image=photos/red/0.jpg", "-k=1"],
        ["-c", "from retrieval_core import open_release; open_release('store').search('photos/red/0.jpg', k=1)"],
    ],
    ids=["command", "python"],
)
def test_a_search_reaches_no_other_host_and_writes_nothing(published: Path, program: list[str]) -> None:
    done, hosts, files = observe([sys.executable, *program], published)
    assert done.returncode == 0, done.stderr
    assert (hosts, files) == (set(), set())


def test_the_page_answers_to_the_name_by_which_browsers_reach_its_reports(
    tmp_path: Path, vitrine: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        "deployments.serve.server.serve", lambda settings, options, workers: served.append(options.names)
    )
    monkeypatch.setenv("VITRINE_REPORT_URL", "https://search.shop.example/reports")
    assert vitrine("app", "--store=store", "--name=other.example", cwd=tmp_path).code == 0
    monkeypatch.delenv("VITRINE_REPORT_URL")
    assert vitrine("app", "--store=store", cwd=tmp_path).code == 0
    assert served == [("other.example", "search.shop.example"), ()]


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
