"""Remove from JPEG and PNG files the odd bytes that stop a strict decoder although every pixel is there.

Nothing is removed that decides a pixel: bytes between the segments of a JPEG, padding after its scans, metadata that
is not used, and wrong values that every decoder ignores.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAX_ATTEMPTS = 4  # to decode one file: as it is, tidied, without padding, without stray bytes
MAX_STRAY_BYTES = 4  # of any value after the last scan; a damaged scan rarely ends so close to its end

_MARKER = re.compile(rb"\xff+([\xc0-\xc7\xc9-\xcf\xd9-\xdf\xe0-\xef\xfe])")  # ITU-T T.81, table B.1, without SOI
_PADDING = re.compile(rb"(.)(?!\1)(.)\2+(?=\xff[\xc0-\xfe])", re.DOTALL)  # a run of one value before a marker
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
_APP0, _APP1, _APP14, _SOS, _EOI = 0xE0, 0xE1, 0xEE, 0xDA, 0xD9
_SEQUENTIAL, _FRAMES = {0xC0, 0xC1, 0xC9}, {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_UNUSED = {*range(0xE0, 0xF0), 0xFE} - {_APP0, _APP1, _APP14}  # application data and comments

_PNG_KEPT = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}  # ancillary chunks that decide pixels or their orientation
_PNG_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
_EXIF_AS_TEXT = b"Raw profile type exif"
_MAX_TEXT_BYTES = 100_000


class _Segment(NamedTuple):
    """A marker, its parameters with their length, and the entropy-coded data of a scan."""

    marker: int
    parameters: bytes
    scan: bytes = b""


def tidy(data: bytes, complaint: str) -> bytes | None:
    """Return a JPEG or PNG without the harmless bytes that its decoder's `complaint` may be about.

    None when nothing harmless is left to remove. The result decodes to the same pixels as the intact file, or to an
    error where picture data is missing.
    """
    if data.startswith(b"\x89PNG"):
        tidied: bytes | None = _tidy_png(data)
    elif data.startswith(b"\xff\xd8"):
        tidied = _tidy_jpeg(data)
        if tidied == data:
            tidied = _without_padding(data, complaint)
    else:
        return None
    return None if tidied == data else tidied


def _tidy_jpeg(data: bytes) -> bytes | None:
    """Return the segments of a JPEG that decide its pixels, up to its end; None where a segment is cut off."""
    segments = list(_segments(data))
    frames = [segment for segment in segments if segment.marker in _FRAMES]
    scans = [segment for segment in segments if segment.marker == _SOS]
    if not frames or not scans or any(len(segment.parameters) < 10 for segment in frames):
        return None
    is_sequential = frames[0].marker in _SEQUENTIAL
    if segments[-1].marker != _EOI:
        # Without its end, a file holds the whole picture only if its one scan covers every component.
        if not is_sequential or segments[-1] != scans[-1] or scans[0].parameters[2:3] != frames[0].parameters[7:8]:
            return None
        segments.append(_Segment(_EOI, b""))
    kept = [_corrected(segment, is_sequential) for segment in segments if segment.marker not in _UNUSED]
    return b"\xff\xd8" + b"".join(bytes((0xFF, marker)) + parameters + scan for marker, parameters, scan in kept)


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield the segments of a JPEG up to its end, skipping bytes between them; ITU-T T.81, annex B."""
    position = 2
    while match := _MARKER.search(data, position):
        marker = match[1][0]
        if marker == _EOI:
            yield _Segment(marker, b"")
            return
        end = match.end() + max(2, int.from_bytes(data[match.end() : match.end() + 2], "big"))
        if end > len(data):
            return
        position = end
        if marker == _SOS:
            following = _MARKER.search(data, end)
            position = following.start() if following else len(data)
        yield _Segment(marker, data[match.end() : end], data[end:position])


def _corrected(segment: _Segment, is_sequential: bool) -> _Segment:
    """Replace values that decoders ignore with a warning by the values that they assume."""
    values = bytearray(segment.parameters)
    if segment.marker == _SOS and is_sequential:
        values[-3:] = (0, 63, 0)  # spectral selection and approximation
    elif segment.marker == _APP0 and values[2:7] == b"JFIF\x00":
        values[7:8] = b"\x01"  # version
    elif segment.marker == _APP14 and values[2:7] == b"Adobe" and values[13:14] > b"\x02":
        values[13:14] = b"\x01"  # colour transform
    return segment._replace(parameters=bytes(values))


def _without_padding(data: bytes, complaint: str) -> bytes | None:
    """Return a tidied JPEG without the bytes after its scans of which the decoder complains; None if it names none.

    Where such bytes were no padding but overwrote a scan, the decoder misses them and reports a premature end.
    """
    found = _EXTRANEOUS.search(complaint)
    if found is None:
        return None
    start = data.find(b"\xff\xda")
    stripped = data[:start] + _PADDING.sub(rb"\1", data[start:])
    n_stray = int(found[1])
    if stripped == data and n_stray <= MAX_STRAY_BYTES and found[2] == "d9":
        return data[: -n_stray - 2] + data[-2:]
    return stripped


def _tidy_png(data: bytes) -> bytes:
    """Return a PNG without profiles, texts and other unused chunks, and with its end."""
    kept, position = [data[:8]], 8
    while position + 12 <= len(data):
        n_bytes, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        chunk = data[position : position + 12 + n_bytes]
        position += len(chunk)
        if kind == b"IEND":
            break
        if len(chunk) < 12 + n_bytes:  # cut off
            return data
        if _is_png_chunk_used(kind, chunk):
            kept.append(chunk)
    return b"".join((*kept, _PNG_END))


def _is_png_chunk_used(kind: bytes, chunk: bytes) -> bool:
    if kind in (b"tEXt", b"zTXt"):
        return chunk[8:].startswith(_EXIF_AS_TEXT) and len(chunk) < _MAX_TEXT_BYTES
    if kind == b"eXIf":
        return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
    return not kind[0] & 0x20 or kind in _PNG_KEPT
