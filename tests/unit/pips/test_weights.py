"""Checkpoints in every layout that is met, and files that do not fit."""

from __future__ import annotations

import pytest
import torch

from everypoint.artifacts import atomic
from everypoint.assets.fetch import fetch
from everypoint.errors import AssetError
from everypoint.pips.weights import load_network, shapes_of
from tests.unit.pips.weights import formula_network, pips_weights


def saved(path, content):
    atomic.write_with(path, lambda file: torch.save(content, file))
    return path


def test_published_layout(tmp_path):
    network = load_network(pips_weights(tmp_path / "model-000200000.pth"))
    for key, value in formula_network().state_dict().items():
        assert torch.equal(network.state_dict()[key], value)


def test_prefix_of_data_parallel(tmp_path):
    state = {f"module.{key}": value for key, value in formula_network().state_dict().items()}
    network = load_network(saved(tmp_path / "a.pth", {"model_state_dict": state}))
    assert torch.equal(network.delta_block.dense.weight, formula_network().delta_block.dense.weight)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("norm.bias"), "lacks norm.bias"),
        (lambda state: state.update({"fnet.conv9.bias": torch.zeros(1)}), "has unknown fnet.conv9.bias"),
        (lambda state: state.update({"norm.bias": torch.zeros(3)}), "wrong shape in norm.bias"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, change, complaint):
    state = {key: torch.zeros(1).expand(shape) for key, shape in shapes_of(formula_network()).items()}
    change(state)
    with pytest.raises(AssetError, match=complaint):
        load_network(saved(tmp_path / "a.pth", state))


def test_the_asset_says_how_it_is_got(tmp_path):
    with pytest.raises(AssetError, match=r"get_reference_model.sh .*aharley/pips2.* put it at .*pips2.pth"):
        fetch("pips2", tmp_path)
    (tmp_path / "pips2").mkdir()
    (tmp_path / "pips2" / "pips2.pth").write_bytes(b"PK\x03\x04weights")
    assert fetch("pips2", tmp_path).name == "pips2.pth"
