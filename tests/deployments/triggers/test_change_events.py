"""Messages from outside become changes, or are refused with a reason; changes are split to fit into events."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.triggers.change_events import MAX_EVENT_BYTES, read_changes, split_change
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.change import Change, merge_changes
from tests.deployments.conftest import notification, record, wrapped


def test_a_plain_payload() -> None:
    body = b'{"added": ["a"], "removed": ["b"], "manifest_uri": "s3://shop/changes.csv"}'
    assert read_changes(body) == (Change(added=("a",), removed=("b",), manifest_uri="s3://shop/changes.csv"),)


def test_an_s3_notification_plain_or_wrapped() -> None:
    body = notification(
        record("ObjectCreated:Put", "photos/red+dress%2B1%C3%A9.JPG"),
        record("s3:ObjectRemoved:DeleteMarkerCreated", "photos/old.png"),
        record("ObjectCreated:CompleteMultipartUpload", "tables/changes.csv"),
        record("ObjectTagging:Put", "photos/tagged.png"),
        record("ObjectCreated:Put", "photos/_SUCCESS"),
        record("ObjectRemoved:Delete", "tables/changes.csv"),
    )
    expected = (
        Change(changed=("s3://shop/photos/red dress+1é.JPG",)),
        Change(removed=("s3://shop/photos/old.png",)),
        Change(manifest_uri="s3://shop/tables/changes.csv"),
    )
    assert read_changes(body) == expected
    assert read_changes(wrapped(body)) == expected
    assert read_changes('{"Service": "Amazon S3", "Event": "s3:TestEvent"}') == ()


def refusal(body: bytes | str) -> str:
    try:
        read_changes(body)
    except BadConfig as error:
        return str(error)
    return ""


def wrapped_as_text(body: bytes | str) -> str:
    return wrapped(body if isinstance(body, str) else body.decode(errors="replace"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"added=a", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["a"]', "the message is a list; expected an object"),
        (b"{}", "names no item"),
        (b'{"added": "a"}', "added is text; expected a list of names"),
        (b'{"removed": null}', "removed is null; expected a list"),
        (b'{"added": ["a", 1]}', r"added\[1\] is a number; expected text"),
        (b'{"manifest_uri": true}', "manifest_uri is true; expected text"),
        (b'{"added": [""]}', r"added\[0\] is ''; expected 1 to 1,024 characters"),
        (b'{"added": ["\\ud800"]}', r"added\[0\] is .*; expected 1 to"),
        (json.dumps({"added": ["a" * 2_000]}).encode(), "…'; expected 1 to"),
        (b'{"ids": ["a"]}', "'ids' is not known; expected one of added, changed, removed, manifest_uri"),
        (b'{"addded": ["a"]}', "did you mean added"),
        (b'{"Records": 3}', "Records is a number; expected a list"),
        (b'{"Records": [null]}', r"Records\[0\] is null; expected an object with eventName"),
        (b'{"Message": 3}', "the message.Message is a number; expected text"),
        (b'{"Records": [{"eventName": "ObjectCreated:Put"}]}', r"Records\[0\] lacks s3"),
        (wrapped(wrapped(wrapped(wrapped("{}")))).encode(), "more than 3 times"),
        (
            b'{"Type": "SubscriptionConfirmation", "Message": "x", "SubscribeURL": "https://sns/?t=1"}',
            r"open https://sns/\?t=1",
        ),
    ],
)
def test_anything_else_is_refused_with_the_reason(body: bytes, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        read_changes(body)


# Messages of every shape, most of them nearly right.
fields = st.sampled_from(("added", "changed", "removed", "manifest_uri", "Records", "Message", "Type", "added ", "x"))
keys = fields | st.sampled_from(("eventName", "s3", "bucket", "object", "name", "key", "ObjectCreated:Put"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
)
messages = st.binary(max_size=200) | values.map(json.dumps) | st.dictionaries(fields, values).map(json.dumps)
OURS = ("Input should be", "validation error", "pydantic", "config", "--set", "retrieval_core", "Traceback", "NoneType")
OURS += ("payload.", "dict", "'str'", "'int'", "errors.", "stage")


@given(messages | messages.map(wrapped_as_text))
@example('{"added": ["\\u200b"]}')
@example('{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": ""}, "object": {"key": ".jpg"}}}]}')
def test_a_refusal_speaks_of_the_message_and_not_of_the_program(body: bytes | str) -> None:
    message = refusal(body)
    assert not [word for word in (*OURS, "\n") if word in message], message


names = st.lists(st.sampled_from("abcd"), max_size=3).map(tuple)
changes = st.lists(
    st.builds(Change, added=names, changed=names, removed=names, manifest_uri=st.sampled_from(("", "m.csv", "n.csv"))),
    max_size=6,
)


@given(changes, st.integers(1, 40))
def test_pieces_are_small_and_together_the_whole(burst: list[Change], max_bytes: int) -> None:
    for change in merge_changes(burst):
        pieces = list(split_change(change, max_bytes))
        assert merge_changes(pieces) == (change,)
        for piece in pieces:
            n_names = len(piece.added) + len(piece.changed) + len(piece.removed)
            assert n_names <= 1 or len(json.dumps([*piece.added, *piece.changed, *piece.removed])) <= max_bytes + 2


def test_a_hundred_thousand_names_fit_into_events() -> None:
    pieces = list(split_change(Change(added=tuple(f"stück-{n:06d}" for n in range(100_000)))))
    assert sum(len(piece.added) for piece in pieces) == 100_000
    assert max(len(json.dumps(piece.model_dump())) for piece in pieces) < MAX_EVENT_BYTES + 1_000
