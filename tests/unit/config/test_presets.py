"""Presets are data: they load, share stages, and can be changed key by key."""

from __future__ import annotations

import pytest

from everypoint.config.load import read_yaml
from everypoint.config.options import Preset
from everypoint.config.presets import FOLDER, load_preset, preset_names
from everypoint.errors import ConfigError


def test_the_three_first_presets_are_there():
    assert {"chain", "chain-multi", "cpu"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_described(name):
    preset = load_preset(name)
    assert preset == Preset.model_validate(read_yaml(FOLDER / f"{name}.yaml"))
    assert preset.description.endswith(".")


def test_overrides_lie_in_layers():
    overrides = {
        "all": {"flow": {"backend": "dis", "pairs": {"plan": "window"}}},
        "chain": {"flow": {"pairs": {"window": 3}}},
    }
    chain, other = load_preset("chain", overrides), load_preset("chain-multi", overrides)
    assert (chain.flow.backend, chain.flow.pairs.plan, chain.flow.pairs.window) == ("dis", "window", 3)
    assert (other.flow.backend, other.flow.pairs.plan, other.flow.pairs.window) == ("dis", "window", 12)
    assert chain.flow.iterations == load_preset("chain").flow.iterations


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown preset 'chain-mult', did you mean 'chain-multi'"):
        load_preset("chain-mult")


def test_loading_does_not_change_what_is_loaded_next():
    load_preset("cpu", {"cpu": {"matches": {"per_pair": 7}}})
    assert load_preset("cpu").matches.per_pair != 7
