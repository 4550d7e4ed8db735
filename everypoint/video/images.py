"""Still images: decoding them to 8-bit RGB, and the one resize that all frames get."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from everypoint.errors import InputError
from everypoint.video.ffmpeg import check_pixels, over_black
from everypoint.video.image_header import image_size
from everypoint.video.paths import shown


def read_image(path: Path) -> np.ndarray:
    """An image file as stored (see :func:`decode_raw`)."""
    try:
        return decode_raw(path.read_bytes(), shown(path.name))
    except OSError as error:
        raise InputError(f"{shown(path.name)} cannot be opened", error.strerror or str(error)) from error


def decode_raw(data: bytes, name: str) -> np.ndarray:
    """uint8 or uint16 [H, W, 1, 3 or 4] in RGB(A) order; JPEGs are turned upright by their EXIF tag.

    Raises :class:`InputError` for anything that is not a whole image of at most 65 million pixels.
    """
    size = image_size(data)
    if size is None:
        raise InputError(f"{name} is not a readable image", cure="repair or remove it")
    check_pixels(name, *size)
    jpeg = data[:2] == b"\xff\xd8"
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR if jpeg else cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"{name} cannot be decoded", str(error.err), "repair or remove it") from error
    if image is None:
        raise InputError(f"{name} cannot be decoded", "it is damaged or not an image", "repair or remove it")
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{name} cannot be used", f"its pixels are {image.dtype}", "save it with 8 or 16 bits")
    if image.ndim == 2:
        return image[..., None]
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[2])
    if order is None:
        raise InputError(f"{name} cannot be used", f"it has {image.shape[2]} channels", "save it as grey, RGB or RGBA")
    return image[..., order]


def to_rgb8(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: 16 bits scaled by 255 / 65535, grey repeated, alpha composited over black."""
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(over_black(image))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """uint8 [H, W, 3] RGB of an encoded image."""
    return to_rgb8(decode_raw(data, name))


def resize_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] at ``size`` (H, W): area average along an axis that shrinks, bilinear along one that grows.

    Both are pure scalings of raster coordinates (pixel (0, 0)'s corner stays in the corner).
    """
    height, width = frame.shape[:2]
    shrunk = (min(size[0], height), min(size[1], width))
    if shrunk != (height, width):
        frame = cv2.resize(frame, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != tuple(size):
        frame = cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return frame
