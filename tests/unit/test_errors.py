"""Errors are one clear sentence: what, why, cure."""

from __future__ import annotations

import inspect
import pickle

import pytest

from everypoint import errors
from everypoint.errors import EverypointError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, EverypointError)]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (("a.mp4 cannot be read",), "a.mp4 cannot be read."),
        (("a.mp4 cannot be read.", "it is empty."), "a.mp4 cannot be read: it is empty."),
        (("a.mp4 cannot be read", "", "remove it"), "a.mp4 cannot be read; remove it."),
        (("a.mp4 cannot be read", "it is empty", "remove it."), "a.mp4 cannot be read: it is empty; remove it."),
    ],
)
def test_sentence(parts, sentence):
    assert str(EverypointError(*parts)) == sentence


def test_parts_stay_readable_for_reports():
    error = errors.InputError("what", why="why", cure="cure")
    assert (error.what, error.why, error.cure) == ("what", "why", "cure")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_caught_as_one(kind):
    with pytest.raises(EverypointError, match=r"^it failed\.$"):
        raise kind("it failed")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_crosses_a_process_boundary(kind):
    """Workers send their errors back by pickle; the sentence must come back as it was, not wrapped once more."""
    error = kind("what", "why", "cure")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error)
    assert (back.what, back.why, back.cure) == ("what", "why", "cure")


def test_no_kind_is_an_os_error_or_an_exit():
    """Nobody who catches OSError or SystemExit may swallow a sentence that is meant for the user."""
    assert not any(issubclass(kind, (OSError, SystemExit)) for kind in KINDS)
