"""Sizes from headers agree with those that decoders find."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from everypoint.video.image_header import image_size

SIZES = [(1, 1), (7, 300), (300, 7), (64, 48)]


def opencv(suffix, size, *flags, dtype=np.uint8):
    return cv2.imencode(suffix, np.full((*size, 3), 9, dtype), list(flags))[1].tobytes()


def pillow(kind, size, **options):
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), 9, np.uint8)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_every_format(size):
    encoded = [
        opencv(".png", size),
        opencv(".bmp", size),
        opencv(".jpg", size),
        opencv(".jpg", size, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        opencv(".webp", size, cv2.IMWRITE_WEBP_QUALITY, 101),  # VP8L
        opencv(".webp", size, cv2.IMWRITE_WEBP_QUALITY, 50),  # VP8
        opencv(".tiff", size),
        opencv(".tiff", size, dtype=np.uint16),
        pillow("JPEG", size, exif=b"Exif\0\0" + b"\xff\xc0" * 40, comment=b"\xff\xc0\x00\x11\x08\x7f\xff\x7f\xff"),
        pillow("TIFF", size, big_tiff=True),
        pillow("TIFF", size, compression="tiff_lzw"),
        pillow("WEBP", size, lossless=True, xmp=b"<x/>"),  # VP8X
    ]
    assert [image_size(data) for data in encoded] == [size] * len(encoded)


def test_headers_by_hand():
    entries = struct.pack(">HHIHHHHIHH", 256, 3, 1, 640, 0, 257, 3, 1, 480, 0)
    assert image_size(b"MM\0*" + struct.pack(">IH", 8, 2) + entries) == (480, 640)
    assert image_size(b"BM" + bytes(12) + struct.pack("<Iii", 40, 640, -480)) == (480, 640)
    assert image_size(b"BM" + bytes(12) + struct.pack("<IHH", 12, 640, 480)) == (480, 640)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".webp", ".tiff"])
def test_a_header_that_is_cut_off_is_none_or_right(suffix):
    data = opencv(suffix, (30, 20))
    assert {image_size(data[:length]) for length in range(len(data))} <= {None, (30, 20)}


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a" + bytes(20), b"RIFF\0\0\0\0WAVEfmt ", b"\xff\xd8" + b"\xff" * 9, b"II*\0"]
)
def test_other_data_are_none(data):
    assert image_size(data) is None
