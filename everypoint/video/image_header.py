"""The size of an encoded image from its header alone, so that a decompression bomb is refused before it is decoded."""

from __future__ import annotations

import struct


def image_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) that a PNG, JPEG, BMP, WebP or TIFF claims; None for other or damaged headers."""
    readers = {
        b"\x89PNG\r\n\x1a\n": _png,
        b"\xff\xd8": _jpeg,
        b"BM": _bmp,
        b"RIFF": _webp,
        b"II*\0": _tiff,
        b"MM\0*": _tiff,
        b"II+\0": _big_tiff,
        b"MM\0+": _big_tiff,
    }
    try:
        size = next((read(data) for magic, read in readers.items() if data.startswith(magic)), None)
    except (struct.error, IndexError):  # the data end inside the header
        return None
    return size if size and min(size) > 0 else None


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # the header of OS/2
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), width  # a negative height is an image stored from the top


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Segment by segment to the largest start of frame before the picture's data begin."""
    at, size = 2, None
    while True:
        while data[at] == 0xFF:
            at += 1
        marker, length = data[at], struct.unpack_from(">H", data, at + 1)[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            found = struct.unpack_from(">HH", data, at + 4)
            size = found if size is None else (max(size[0], found[0]), max(size[1], found[1]))
        if marker in (0xD9, 0xDA) or length < 2:
            return size
        at += 1 + length


def _webp(data: bytes) -> tuple[int, int] | None:
    if data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":  # 24 bits each, less one
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":  # 14 bits each, less one
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return height, width


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, at)[0]
    return _tiff_tags(data, order, [at + 2 + 12 * index for index in range(count)], value_at=8)


def _big_tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(order + "Q", data, 8)[0]
    count = min(struct.unpack_from(order + "Q", data, at)[0], 1 << 16)
    return _tiff_tags(data, order, [at + 8 + 20 * index for index in range(count)], value_at=12)


def _tiff_tags(data: bytes, order: str, places: list[int], value_at: int) -> tuple[int, int] | None:
    """Tags 257 (height) and 256 (width) of the first picture; values of 16, 32 or 64 bits."""
    found: dict[int, int] = {}
    for at in places:
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in (256, 257) and kind in (3, 4, 16):
            found[tag] = struct.unpack_from(order + {3: "H", 4: "I", 16: "Q"}[kind], data, at + value_at)[0]
        if len(found) == 2:
            return found[257], found[256]
    return None
