"""The reports of a store as pages beside the search app."""

from __future__ import annotations

from typing import Any

import httpx

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Report
from tests.deployments.conftest import FIRST, SECOND


def test_a_release_s_report_is_a_page_that_may_fetch_nothing(url: str, shop: Any) -> None:
    answer = get(f"{url}/reports/production")
    assert answer.url.path == "/reports/production/", "so that its links to the fix lists lead below it"
    assert (answer.status_code, answer.text) == (200, f"<p>the report of {SECOND}</p>")
    assert get(f"{url}/reports/{FIRST[:8]}").text == f"<p>the report of {FIRST}</p>"
    (policy,) = answer.headers.get_list("content-security-policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    alone = Report(fingerprint="c" * 32, gate="held", gate_reason="", parts=reported(shop, FIRST).parts).seal(
        shop.store
    )
    assert get(f"{url}/reports/{alone.fingerprint}").text == f"<p>the report of {FIRST}</p>"
    for name in ("nobody", "..%2f..%2fcatalogs", "f" * 32, "", "production/../../aliases/production"):
        answer = get(f"{url}/reports/{name}")
        assert answer.status_code == 404
        assert "<" not in answer.text


def test_a_damaged_report_is_told_and_not_shown(url: str, shop: Any) -> None:
    key = reported(shop, FIRST).part("report.html").key
    sealed = shop.store.get(key)
    shop.store.put(key, b"<p>another</p>")
    answer = get(f"{url}/reports/{FIRST}")
    shop.store.put(key, sealed)
    assert answer.status_code == 503
    assert "another" not in answer.text


def test_the_fix_lists_lie_below_the_report(url: str) -> None:
    listed = get(f"{url}/reports/{FIRST}/fixes.csv")
    assert (listed.status_code, listed.headers["content-type"].partition(";")[0]) == (404, "text/plain")
    assert "has no part 'fixes.csv'" in listed.text, "this report was made without one"
    assert get(f"{url}/reports/{FIRST}/report.html").text == f"<p>the report of {FIRST}</p>"
    assert get(f"{url}/reports/{FIRST}/metrics.json").status_code == 404


def get(address: str) -> httpx.Response:
    return httpx.get(address, follow_redirects=True)


def reported(shop: Any, release: str) -> Report:
    return Report.open(shop.store, releases.get_release(shop.store, release).report)
