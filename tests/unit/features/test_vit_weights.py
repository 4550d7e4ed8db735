"""Weight files of DINO and DINOv2: published structure, both layouts, the table of positions, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from everypoint.assets.registry import registry
from everypoint.config.options import FeatureOptions
from everypoint.errors import AssetError
from everypoint.features import vit_weights
from everypoint.features.vit_weights import ARCHITECTURES, expected_shapes, load_vit, position_table, weight_file
from tests.unit.features import plain_vit


def published_parameters(width, patch, side, registers, second) -> int:
    """By the papers' description: 21 M for ViT-S, 86 M for ViT-B."""
    block = 12 * width**2 + 13 * width + 2 * width * second  # qkv, proj, MLP of ratio 4 with biases; norms; LayerScale
    embedding = (3 * patch**2 + 1) * width
    return 12 * block + embedding + (side**2 + 1 + 1 + registers + second) * width + 2 * width


@pytest.mark.parametrize(
    ("model", "count", "about"),
    [
        ("dino-vits16", 21_665_664, (384, 16, 14, 0, 0)),
        ("dino-vits8", 21_670_272, (384, 8, 28, 0, 0)),
        ("dinov2-vits14", 22_056_576, (384, 14, 37, 0, 1)),
        ("dinov2-vits14-reg", 22_058_112, (384, 14, 37, 4, 1)),
        ("dinov2-vitb14", 86_580_480, (768, 14, 37, 0, 1)),
        ("dinov2-vitb14-reg", 86_583_552, (768, 14, 37, 4, 1)),
    ],
)
def test_parameters_are_as_many_as_published(model, count, about):
    shapes = expected_shapes(model, authors=True)
    if model.startswith("dinov2"):
        shapes["mask_token"] = (1, about[0])  # in the file, of the training task alone
    assert sum(map(math.prod, shapes.values())) == published_parameters(*about) == count


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_timm_builds_the_same_keys_and_shapes(model):
    import timm

    with torch.device("meta"):
        net = timm.create_model(ARCHITECTURES[model].timm, pretrained=False, num_classes=0)
    shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    assert shapes == expected_shapes(model, authors=False)
    assert net.num_prefix_tokens == ARCHITECTURES[model].prefix


def test_every_model_of_the_options_has_an_architecture_and_an_asset():
    assert set(FeatureOptions.model_fields["model"].annotation.__args__) == set(ARCHITECTURES)
    for model in ARCHITECTURES:
        assert "vit" in registry()[model].fits
        assert registry()[model].licence == "Apache-2.0"
        assert FeatureOptions(backend="vit", model=model).weights_or_default == model


def test_names_are_those_of_the_authors_files():
    linear = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    of_a_block = {*linear, "norm1", "norm2", "ls1", "ls2"}
    names = {key.rsplit(".", 1)[0] for key in expected_shapes("dinov2-vits14-reg", authors=True)}
    expected = {f"blocks.{block}.{name}" for block in range(12) for name in of_a_block}
    assert names == expected | {"cls_token", "pos_embed", "register_tokens", "patch_embed.proj", "norm"}
    first = {key.rsplit(".", 1)[0] for key in expected_shapes("dino-vits16", authors=True)}
    assert names - first == {"register_tokens"} | {name for name in expected if ".ls" in name}


# ------------------------------------------------------------------------------------------------------ layouts


@pytest.fixture(scope="module")
def registers():
    """The authors' weights of DINOv2 with registers."""
    return plain_vit.weights(expected_shapes("dinov2-vits14-reg", authors=True))


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_layout_with_registers_becomes_what_timm_makes_of_it(tmp_path, registers):
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    torch.save(registers | {"mask_token": torch.zeros(1, 384)}, tmp_path / "w.pth")
    name = ARCHITECTURES["dinov2-vits14-reg"].timm
    with torch.device("meta"):
        net = timm.create_model(name, pretrained=False, num_classes=0)
    theirs = checkpoint_filter_fn(registers | {"mask_token": torch.zeros(1, 384)}, net)
    ours = load_vit(tmp_path / "w.pth", "dinov2-vits14-reg")
    assert same(ours, theirs)
    save_file({key: tensor.clone() for key, tensor in theirs.items()}, tmp_path / "model.safetensors")
    assert same(load_vit(tmp_path / "model.safetensors", "dinov2-vits14-reg"), ours)  # as on timm's hub


def test_a_teacher_among_a_training_checkpoint(tmp_path):
    state = plain_vit.weights(expected_shapes("dino-vits16", authors=True))
    teacher = {f"module.backbone.{key}": tensor for key, tensor in state.items()}
    teacher["module.head.last_layer.weight_v"] = torch.zeros(8, 2)
    torch.save({"student": {}, "teacher": teacher, "epoch": 3}, tmp_path / "checkpoint.pth")
    assert same(load_vit(tmp_path / "checkpoint.pth", "dino-vits16"), state)


def test_half_precision_files_are_read_as_float32(tmp_path):
    state = plain_vit.weights(expected_shapes("dino-vits16", authors=True))
    save_file({key: tensor.half().clone() for key, tensor in state.items()}, tmp_path / "half.safetensors")
    assert all(
        tensor.dtype == torch.float32 for tensor in load_vit(tmp_path / "half.safetensors", "dino-vits16").values()
    )


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("model", "file", "why"),
    [
        ("dino-vits8", "dino-vits16", r"pos_embed \(1x197x384 for 1x785x384\) .*set features.model to dino-vits16"),
        ("dino-vits16", "dino-vits8", r"pos_embed \(1x785x384 for 1x197x384\) .*set features.model to dino-vits8"),
        ("dino-vits16", "dinov2-vits14", r"unknown blocks.0.ls1.gamma .*\(1x1370x384 for .*set .* to dinov2-vits14,"),
        ("dinov2-vits14", "dinov2-vits14-reg", r"unknown register_tokens.*set features.model to dinov2-vits14-reg"),
        ("dinov2-vits14-reg", "dinov2-vits14", r"lacks reg_token .*set features.model to dinov2-vits14,"),
    ],
)
def test_a_file_of_another_model_is_one_sentence_that_names_it(tmp_path, model, file, why):
    torch.save(plain_vit.weights(expected_shapes(file, authors=True)), tmp_path / "w.pth")
    with pytest.raises(AssetError, match=rf"w.pth does not fit {model}: .*{why}"):
        load_vit(tmp_path / "w.pth", model)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{broken", b"<html>", b"\x80\x02N."])
def test_a_file_that_holds_no_weights_is_one_sentence(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(AssetError, match="w.safetensors is not a weight file"):
        load_vit(tmp_path / "w.safetensors", "dino-vits16")


def test_a_file_with_one_tensor_missing_is_refused(tmp_path):
    state = plain_vit.weights(expected_shapes("dino-vits16", authors=True))
    del state["blocks.7.attn.proj.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(AssetError, match=r"does not fit dino-vits16: it lacks blocks.7.attn.proj.bias; use weights"):
        load_vit(tmp_path / "w.pth", "dino-vits16")


# --------------------------------------------------------------------------------------------- table of positions


@pytest.mark.parametrize("model", ["dino-vits16", "dinov2-vits14", "dinov2-vits14-reg"])
@pytest.mark.parametrize("grid", [(30, 52), (9, 11), (50, 20)])
def test_positions_are_resized_as_the_authors_do(model, grid):
    net = ARCHITECTURES[model]
    table = torch.randn(1, net.side**2 + (0 if net.registers else 1), 8, generator=torch.Generator().manual_seed(0))
    cells = table[0, -(net.side**2) :].reshape(net.side, net.side, 8).double().numpy()
    expected = plain_vit.positions(cells, grid, antialias=bool(net.registers)).reshape(-1, 8)
    found = position_table(table, model, grid)[0]
    assert torch.equal(found[: -len(expected)], table[0, : -(net.side**2)])
    # torch computes places in float32: 1e-5 of a cell at the far edge, times slopes of the kernel
    assert np.abs(found[-len(expected) :].double().numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_positions_of_the_grid_trained_on_are_left_alone(model):
    net = ARCHITECTURES[model]
    table = torch.randn(1, net.side**2 + 1, 8)
    assert position_table(table, model, (net.side, net.side)) is table


# ---------------------------------------------------------------------------------------------------- timm's hub


def test_the_hub_is_asked_for_the_model_at_the_revision(tmp_path, monkeypatch, caplog):
    import huggingface_hub

    asked = []
    file = tmp_path / "snapshots" / "0a1b2c" / "model.safetensors"

    def download(repository, name, *, revision, local_files_only):
        asked.append((repository, name, revision, local_files_only))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("EVERYPOINT_OFFLINE", raising=False)
    with caplog.at_level("INFO"):
        assert weight_file("timm", "dinov2-vits14") == file
    assert "timm@0a1b2c" in caplog.text  # how to pin what was used
    monkeypatch.setenv("EVERYPOINT_OFFLINE", "1")
    weight_file("timm@0a1b2c", "dino-vits8")
    model = "model.safetensors"
    assert asked == [
        ("timm/vit_small_patch14_dinov2.lvd142m", model, None, False),
        ("timm/vit_small_patch8_224.dino", model, "0a1b2c", True),
    ]


def test_a_hub_that_may_not_be_reached_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub = r"^vit_small_patch16_224.dino of timm's hub at revision 0a1b2c cannot be had: "
    with pytest.raises(AssetError, match=hub + "it is not in the cache and connections are forbidden; fetch it once"):
        weight_file("timm@0a1b2c", "dino-vits16")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ("LocalEntryNotFoundError", "the hub cannot be reached; fetch it once"),
        ("HFValidationError", "Revision is odd; check the revision"),
    ],
)
def test_what_the_hub_raises_is_one_sentence(monkeypatch, error, why):
    import huggingface_hub

    def download(*_, **__):
        raise getattr(huggingface_hub.errors, error)("Revision is odd. More advice.\nAnd more.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("EVERYPOINT_OFFLINE", raising=False)
    with pytest.raises(AssetError, match=rf"^vit_base_patch14_dinov2.lvd142m of timm's hub cannot be had: {why}"):
        weight_file("timm", "dinov2-vitb14")


def test_other_names_are_assets_and_paths(tmp_path, monkeypatch):
    (tmp_path / "timm").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert weight_file("./timm", "dino-vits16").read_bytes() == b"x"
    with pytest.raises(AssetError, match="no asset 'dino-vits61'.*dino-vits16"):
        weight_file("dino-vits61", "dino-vits16")
    assert not hasattr(vit_weights, "timm")  # imported where a network is built
