"""The version of a picture as the text that a catalogue keeps."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from retrieval_core.ingest.versions import PictureVersion
from retrieval_core.store.base import UriStat

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\n\r+"), min_size=1, max_size=12)


OR_NONE = TEXT | st.just("")


@given(st.builds(PictureVersion, OR_NONE, OR_NONE | st.just("none"), OR_NONE, st.integers(0, 2**40)))
@example(PictureVersion("fresh until 7", "", "row 9", 8))
def test_a_version_is_read_as_it_was_written(version: PictureVersion) -> None:
    text = version.as_text()
    if text is None:
        assert not version.file
        assert not version.row
    else:
        assert PictureVersion.parse(text, has_mask=bool(version.mask)) == version


def test_what_earlier_versions_wrote_is_read() -> None:
    assert PictureVersion.parse('etag "7"', has_mask=False) == PictureVersion('etag "7"')
    assert PictureVersion.parse("170000+none", has_mask=True) == PictureVersion("170000", "none")
    assert PictureVersion.parse("170000+12-180000", has_mask=True) == PictureVersion("170000", "12-180000")


def test_without_the_version_of_the_mask_nothing_is_known_of_the_picture() -> None:
    file = UriStat(5, 'etag "7"')
    assert PictureVersion.of(file, None, False, "").as_text() == 'etag "7"'
    assert PictureVersion.of(file, None, True, "").as_text() == 'etag "7"+none'
    assert PictureVersion.of(file, UriStat(9, "3"), True, "").as_text() == 'etag "7"+9-3'
    assert PictureVersion.of(file, UriStat(9, ""), True, "").as_text() is None
