"""Colour augmentation of a clip: one random draw of albumentations' transforms, replayed on every frame.

The chain is PIPs++'s. Its parameters are those of albumentations 1.3, named out where newer versions have other names
or defaults; :func:`_transforms` is the one place that knows.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from everypoint.errors import MissingPackageError

NOISE_VARIANCE = (10.0, 50.0)  # grey values squared: the default of albumentations 1.3


def augment_colours(frames: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Frames uint8 [H, W, 3] RGB of one size with one draw of the chain applied to all; it does nothing 1 time in 5.

    Raises :class:`MissingPackageError` where albumentations is not installed.
    """
    library, chain = _chain()
    seed = int(rng.integers(2**31))
    with _seeded(chain, seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a replay hands every transform all names that it recorded
        first = chain(image=frames[0])
        replay = functools.partial(library.ReplayCompose.replay, first["replay"])
        if len(frames) == 1:
            rest = []
        elif hasattr(chain, "set_random_state"):  # since 2.0 many pictures at once, which builds the transforms once
            rest = list(replay(images=np.stack(frames[1:]))["images"])
        else:
            rest = [replay(image=frame)["image"] for frame in frames[1:]]
    return [first["image"], *rest]


def albumentations() -> ModuleType:
    """The package, without its look-up of newer versions on the network at import."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    # Its transforms to tensors would import torch, which costs each writer seconds and memory; the package does without
    unused = "albumentations.pytorch"
    blocked = sys.modules.setdefault(unused, None) is None
    try:
        import albumentations as library
    except ImportError as error:
        raise MissingPackageError(
            "the augmentation of clips needs albumentations",
            str(error),
            "pip install 'everypoint[pips]' (albumentations 2.0.8, MIT licence), or set augment to false",
        ) from error
    finally:
        if blocked:
            del sys.modules[unused]
    return library


@functools.cache
def _chain() -> tuple[ModuleType, Any]:
    library = albumentations()
    return library, library.ReplayCompose(_transforms(library), p=0.8)


def _transforms(A: ModuleType) -> list[Any]:
    """The transforms, with what versions of albumentations call differently."""
    if _takes(A.GaussNoise, "std_range"):  # since 2.0, as a share of 255
        noise = {"std_range": tuple(value**0.5 / 255 for value in NOISE_VARIANCE)}
    else:
        noise = {"var_limit": NOISE_VARIANCE}
    if _takes(A.ImageCompression, "quality_range"):  # since 1.4
        quality = {"quality_range": (50, 100)}
    else:
        quality = {"quality_lower": 50, "quality_upper": 100}
    blurs = [A.MotionBlur(blur_limit=7, p=0.2), A.MedianBlur(blur_limit=3, p=0.1), A.Blur(blur_limit=3, p=0.1)]
    return [
        A.GaussNoise(p=0.2, **noise),
        A.OneOf(blurs, p=0.2),
        A.OneOf([A.CLAHE(clip_limit=2), A.Sharpen(), A.Emboss()], p=0.2),
        A.RGBShift(p=0.5),
        A.RandomBrightnessContrast(p=0.5),
        A.RandomGamma(p=0.5),
        A.HueSaturationValue(p=0.3),
        A.ImageCompression(p=0.3, **quality),
    ]


def _takes(transform: Any, name: str) -> bool:
    return name in inspect.signature(transform.__init__).parameters


@contextlib.contextmanager
def _seeded(chain: Any, seed: int) -> Iterator[None]:
    """Draws inside depend on ``seed`` alone; versions before 2.0 draw from the process's own generators.

    All transforms share one pair of generators. ``set_random_seed`` would give each a generator of its own from the
    same seed, and then all of those with p = 0.5 are applied together or not at all.
    """
    if hasattr(chain, "set_random_state"):
        chain.set_random_state(np.random.default_rng(seed), random.Random(seed))
        yield
        return
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what the package uses
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(legacy)  # noqa: NPY002
