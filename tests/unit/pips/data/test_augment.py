"""One draw of colours for a whole clip, by seed alone, whatever albumentations calls its arguments."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from everypoint.errors import MissingPackageError
from everypoint.pips.data import augment

pytest.importorskip("albumentations", reason="the extra pips is not installed")


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(0, 256, (40, 56, 3), np.uint8), (0, 0), 2)


def draw(frames: list[np.ndarray], seed: int) -> list[np.ndarray]:
    return augment.augment_colours(frames, np.random.default_rng(seed))


def test_one_draw_covers_all_frames(picture):
    for seed in range(25):
        first, second, third = draw([picture] * 3, seed)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)
        assert first.shape == picture.shape
        assert first.dtype == np.uint8


def test_the_draw_depends_on_the_seed_alone(picture):
    once = [draw([picture], seed)[0] for seed in range(30)]
    np.random.seed(7)  # noqa: NPY002 - generators of the process do not matter
    again = [draw([picture], seed)[0] for seed in reversed(range(30))][::-1]
    np.testing.assert_array_equal(once, again)
    unchanged = sum((new == picture).all() for new in once)
    assert 1 <= unchanged <= 15  # one in five is left alone
    assert len({new.tobytes() for new in once}) == 31 - unchanged


def test_transforms_are_drawn_independently_of_each_other(picture):
    """Shifted colours without changed brightness, and the reverse, are as frequent as both together."""
    _, chain = augment._chain()
    seen = []
    for seed in range(300):
        with augment._seeded(chain, seed):
            parts = chain(image=picture)["replay"]["transforms"]
        seen.append([part["applied"] for part in parts if part["__class_fullname__"] in ("RGBShift", "RandomGamma")])
    rgb, gamma = np.array(seen).T
    assert 0.3 < rgb.mean() < 0.5  # 0.8 * 0.5
    assert 0.3 < gamma.mean() < 0.5
    assert 0.12 < (rgb & ~gamma).mean() < 0.28  # 0.8 * 0.5 * 0.5
    assert 0.12 < (gamma & ~rgb).mean() < 0.28


def test_the_input_stays(picture):
    before = picture.copy()
    for seed in range(10):
        draw([picture, picture], seed)
    np.testing.assert_array_equal(picture, before)


def test_noise_is_that_of_the_published_chain():
    """Variance 10 to 50 in grey values squared; newer defaults would be ten times as strong."""
    import albumentations

    noise = augment._transforms(albumentations)[0]
    grey = np.full((64, 64, 3), 128, np.uint8)
    for seed in range(6):
        chain = albumentations.ReplayCompose(
            [type(noise)(**{**noise.get_base_init_args(), **noise.get_transform_init_args(), "p": 1})]
        )
        chain.set_random_seed(seed)
        assert 2.5 < chain(image=grey)["image"].std() < 7.8


class Recorder:
    """A package whose transforms note their arguments; ``names`` are those that its constructors have."""

    def __init__(self, noise: str, quality: tuple[str, ...]) -> None:
        self.made: dict[str, dict] = {}
        self.ReplayCompose = self.OneOf = lambda parts, p: (parts, p)
        plain = ("MotionBlur", "MedianBlur", "Blur", "CLAHE", "Sharpen", "Emboss", "RGBShift")
        for name in (*plain, "RandomBrightnessContrast", "RandomGamma", "HueSaturationValue"):
            setattr(self, name, self._make(name, ()))
        self.GaussNoise = self._make("GaussNoise", (noise,))
        self.ImageCompression = self._make("ImageCompression", quality)

    def _make(self, name: str, known: tuple[str, ...]) -> type:
        made = self.made
        arguments = ", ".join(f"{one}=None" for one in known)
        body: dict = {"made": made}
        exec(
            f"def __init__(self, {arguments + ', ' if arguments else ''}p=0.5, **rest):\n"
            f"    made[{name!r}] = {{**{{k: v for k, v in locals().items() if k not in ('self', 'rest')}}, **rest}}\n",
            body,
        )
        return type(name, (), {"__init__": body["__init__"]})


@pytest.mark.parametrize(
    ("noise", "quality", "expected"),
    [
        ("var_limit", ("quality_lower", "quality_upper"), {"quality_lower": 50, "quality_upper": 100}),
        ("var_limit", ("quality_range",), {"quality_range": (50, 100)}),
        ("std_range", ("quality_range",), {"quality_range": (50, 100)}),
    ],
)
def test_arguments_have_the_names_of_the_version(noise, quality, expected):
    library = Recorder(noise, quality)
    augment._transforms(library)
    assert {**library.made["ImageCompression"], "p": None} == {**expected, "p": None}
    value = library.made["GaussNoise"][noise]
    wanted = (10, 50) if noise == "var_limit" else (np.sqrt(10) / 255, np.sqrt(50) / 255)
    np.testing.assert_allclose(value, wanted)


def test_a_missing_package_is_an_error_with_its_cure(monkeypatch, picture):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    augment._chain.cache_clear()
    with pytest.raises(MissingPackageError, match=r"everypoint\[pips\].*MIT"):
        draw([picture], 0)
    augment._chain.cache_clear()


def test_versions_without_seeds_of_their_own_leave_the_process_as_it_was():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    drawn = []
    for _ in range(2):
        with augment._seeded(SimpleNamespace(), 5):
            drawn.append(np.random.rand())  # noqa: NPY002
    assert drawn[0] == drawn[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
