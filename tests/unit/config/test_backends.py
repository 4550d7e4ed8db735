"""The list of back-ends names exactly what the options allow, and licences as the registry states them."""

from __future__ import annotations

import importlib.util
from typing import Literal, get_args, get_origin

import pytest

from everypoint.assets.registry import registry
from everypoint.config.backends import BACKENDS
from everypoint.config.options import DepthOptions, FeatureOptions, FlowOptions, Preset, SparseOptions

ALLOWED = {
    "flow.backend": FlowOptions.model_fields["backend"].annotation,
    "features.backend": FeatureOptions.model_fields["backend"].annotation,
    "depth.backend": DepthOptions.model_fields["backend"].annotation,
    "sparse.sources": get_args(SparseOptions.model_fields["sources"].annotation)[0],
    "tracker": Preset.model_fields["tracker"].annotation,
}


@pytest.mark.parametrize("key", ALLOWED)
def test_every_allowed_name_is_described_once(key):
    assert get_origin(ALLOWED[key]) is Literal
    assert [one.name for one in BACKENDS if one.key == key] == list(get_args(ALLOWED[key]))


def test_every_row_is_filled():
    assert {one.key for one in BACKENDS} == set(ALLOWED)
    assert all(one.what and one.needs and one.cost for one in BACKENDS)
    assert not any(one.cost.isupper() for one in BACKENDS)


@pytest.mark.parametrize(
    "asset", ["raft-things", "dinov2-vits14", "xfeat", "depth-anything-v2-small", "zoedepth-kitti"]
)
def test_licences_are_those_of_the_registry(asset):
    rows = [one for one in BACKENDS if asset in one.needs]
    assert rows
    assert all(registry()[asset].licence in one.needs for one in rows)


def test_the_licence_of_cotracker_is_told():
    rows = [one for one in BACKENDS if one.name == "cotracker"]
    assert all(registry()["cotracker3-offline"].licence in one.needs for one in rows)


ROOMS = {"flow.backend": "correspond", "features.backend": "features", "depth.backend": "depth"}


@pytest.mark.parametrize("one", [one for one in BACKENDS if one.key in ROOMS and one.name != "none"], ids=str)
def test_every_back_end_is_a_file_of_its_room(one):
    assert importlib.util.find_spec(f"everypoint.{ROOMS[one.key]}.{one.name.replace('-', '_')}")
