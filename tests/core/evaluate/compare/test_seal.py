"""A comparison is named after all that its variants search."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Ref
from retrieval_core.evaluate.compare.config import ComparisonConfig, TableConfig, VariantConfig
from retrieval_core.evaluate.compare.measure import Searched
from retrieval_core.evaluate.compare.protocol import ProtocolConfig
from retrieval_core.evaluate.compare.seal import comparison_fingerprint

CATALOG = Ref(kind="Catalog", key="catalogs/c")
CONFIG = ComparisonConfig(
    title="t", variants=(VariantConfig(name="v"),), tables=(TableConfig(title="t", metrics=("map@5",)),)
)


def vectors(name: str) -> Ref:
    return Ref(kind="VectorSet", key=f"vectors/{name}")


def test_whatever_is_searched_names_the_comparison() -> None:
    plain = Searched(vectors=vectors("a"))
    names = [
        comparison_fingerprint(CONFIG, CATALOG, [plain], {}, {}),
        comparison_fingerprint(CONFIG, CATALOG, [Searched(vectors=vectors("b"))], {}, {}),
        comparison_fingerprint(CONFIG, CATALOG, [Searched(vectors=vectors("a"), whole=vectors("b"))], {}, {}),
        comparison_fingerprint(CONFIG, CATALOG, [Searched(vectors=vectors("a"), classes=vectors("b"))], {}, {}),
        comparison_fingerprint(CONFIG, CATALOG, [plain], {"v": [Searched(vectors=vectors("b"))]}, {}),
        comparison_fingerprint(
            CONFIG.model_copy(update={"protocol": ProtocolConfig(gallery="train")}), CATALOG, [plain], {}, {}
        ),
    ]
    assert len(set(names)) == len(names)
    assert names[0] == comparison_fingerprint(CONFIG, CATALOG, [plain], {}, {})
