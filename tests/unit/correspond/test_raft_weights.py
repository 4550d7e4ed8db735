"""Weight files of either layout are read whole or refused in one sentence."""

from __future__ import annotations

import os

import pytest
import torch

from everypoint.correspond.raft_weights import expected_shapes, load_weights, module_names, to_torchvision
from everypoint.errors import AssetError
from tests.unit.correspond.weights import formula_weights, princeton_shapes, random_network, things

TENSORS = {False: 179, True: 106}  # in the authors' files, duplicates and batch counters included
DUPLICATES = {False: ("norm3", 2, 5), True: ("norm4", 0, 0)}  # module, blocks that have it in cnet, tensors of each


@pytest.mark.parametrize("small", [False, True])
def test_names_are_a_bijection_onto_torchvision(small):
    ours = [name for _, name in module_names(small=small) if name is not None]
    theirs = [name for name, _ in module_names(small=small)]
    assert len(set(ours)) == len(ours)
    assert len(set(theirs)) == len(theirs)
    assert {key.rpartition(".")[0] for key in expected_shapes(small=small)} <= set(ours)


@pytest.mark.parametrize("small", [False, True])
def test_number_of_tensors_is_that_of_the_authors_files(small):
    _, blocks, each = DUPLICATES[small]
    assert len(princeton_shapes(small)) + blocks * each == TENSORS[small]


@pytest.mark.parametrize("small", [False, True])
def test_every_key_is_mapped_and_none_left(small):
    state = formula_weights(small)
    translated, found_small = to_torchvision(state)
    assert found_small == small
    counters = {key for key in translated if key.endswith("num_batches_tracked")}
    assert translated.keys() == expected_shapes(small=small).keys()
    assert len(translated) - len(counters) == len(state)


def test_hand_picked_names():
    names = dict(module_names(small=False))
    assert names["fnet.conv1"] == "feature_encoder.convnormrelu.0"
    assert names["cnet.layer2.0.norm1"] == "context_encoder.layer2.0.convnormrelu1.1"
    assert names["cnet.layer2.0.norm3"] is None
    assert names["cnet.layer3.0.downsample.1"] == "context_encoder.layer3.0.downsample.1"
    assert names["update_block.encoder.convf2"] == "update_block.motion_encoder.convflow2.0"
    assert names["update_block.gru.convq2"] == "update_block.recurrent_block.convgru2.convq"
    assert names["update_block.mask.2"] == "mask_predictor.conv"
    assert dict(module_names(small=True))["update_block.gru.convr"] == "update_block.recurrent_block.convgru1.convr"


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_layouts_give_equal_weights(tmp_path, prefix, wrap):
    state = formula_weights(small=True)
    named = {prefix + key: tensor for key, tensor in state.items()}
    torch.save({wrap: named, "step": 3} if wrap else named, tmp_path / "w.pth")
    loaded, small = load_weights(tmp_path / "w.pth")
    assert small
    expected = to_torchvision(state)[0]
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_torchvisions_own_files_load_as_they_are(tmp_path):
    _, state = random_network(small=False)
    torch.save(state, tmp_path / "w.pth")
    loaded, small = load_weights(tmp_path / "w.pth")
    assert not small
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_duplicate_norms_are_dropped():
    state = formula_weights(small=False)
    doubled = state | {key.replace("downsample.1", "norm3"): t + 1 for key, t in state.items() if "downsample.1" in key}
    assert len(doubled) > len(state)
    assert all(torch.equal(a, b) for a, b in zip(*(to_torchvision(s)[0].values() for s in (state, doubled))))


def damaged(change: str) -> dict[str, torch.Tensor]:
    state = formula_weights(small=True)
    key = "update_block.flow_head.conv1.weight"
    if change == "lacks":
        del state[key]
    elif change == "unknown":
        state["extra.weight"] = torch.zeros(1)
    else:
        state[key] = state[key][:1]
    return state


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("lacks", "lacks update_block.flow_head.conv1.weight"),
        ("unknown", "unknown extra.weight"),
        ("shape", "wrong shape in update_block.flow_head.conv1.weight"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(tmp_path, change, sentence):
    torch.save(damaged(change), tmp_path / "w.pth")
    with pytest.raises(AssetError, match=sentence) as caught:
        load_weights(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


class Hostile:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("content", ["hostile", "html", "empty", "list", "numbers"])
def test_foreign_and_hostile_files_are_refused_unrun(tmp_path, content):
    path, marker = tmp_path / "w.pth", tmp_path / "marker"
    if content in ("html", "empty"):
        path.write_bytes(b"<html>404</html>" if content == "html" else b"")
    else:
        holds = {"hostile": {"fnet.conv1.weight": Hostile(str(marker))}, "list": [torch.zeros(1)], "numbers": {"a": 1}}
        torch.save(holds[content], path)
    with pytest.raises(AssetError, match="not a weight file") as caught:
        load_weights(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    assert "weights_only=False" not in str(caught.value)


def test_the_published_file_fits():
    state, small = load_weights(things())
    assert not small
    assert sum(tensor.numel() for key, tensor in state.items() if "running" not in key and "num_" not in key) == 5257536
