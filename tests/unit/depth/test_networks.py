"""Depth networks: the published layout of weights, the published input, what is made of the output; random weights."""

from __future__ import annotations

import re
import sys
import tomllib

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from everypoint.config.options import DepthOptions
from everypoint.depth import depth_anything, zoedepth
from everypoint.depth.base import depth_backend
from everypoint.depth.network import input_size, transformers_for, weight_file
from everypoint.depth.run import compute_depth, load_depth
from everypoint.errors import AssetError, MissingPackageError
from tests.shared import ROOT
from tests.unit.depth.videos import frames_and_meta

pytest.importorskip("transformers", reason="the extra depth is not installed")


def published(state: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """The state of the package's network under the keys of the published files."""
    names = {
        "depth-anything": [
            (r"attention\.([qkv])_proj", lambda m: f"attention.attention.{_LONG[m[1]]}"),
            ("o_proj", "output.dense"),
        ],
        "zoedepth": [
            (r"backbone\.beit\.layers", "backbone.encoder.layer"),
            (r"backbone\.beit\.", "backbone."),
            (r"attention\.([qkv])_proj", lambda m: f"attention.attention.{_LONG[m[1]]}"),
            ("o_proj", "output.dense"),
            (r"mlp\.fc1", "intermediate.dense"),
            (r"mlp\.fc2", "output.dense"),
            (r"\.relative_position_bias\.", ".attention.attention.relative_position_bias."),
        ],
    }[kind]
    renamed = {}
    for key, tensor in state.items():
        for pattern, name in names:
            key = re.sub(pattern, name, key) if key.startswith("backbone.") else key
        renamed[key] = tensor.contiguous()
    return renamed


_LONG = {"q": "query", "k": "key", "v": "value"}

# Keys of one layer in the files that their authors publish for the package.
DINOV2_LAYER = """
    attention.attention.key.bias attention.attention.key.weight attention.attention.query.bias
    attention.attention.query.weight attention.attention.value.bias attention.attention.value.weight
    attention.output.dense.bias attention.output.dense.weight layer_scale1.lambda1 layer_scale2.lambda1 mlp.fc1.bias
    mlp.fc1.weight mlp.fc2.bias mlp.fc2.weight norm1.bias norm1.weight norm2.bias norm2.weight"""
BEIT_LAYER = """
    attention.attention.key.weight attention.attention.query.bias attention.attention.query.weight
    attention.attention.relative_position_bias.relative_position_bias_table attention.attention.value.bias
    attention.attention.value.weight attention.output.dense.bias attention.output.dense.weight intermediate.dense.bias
    intermediate.dense.weight lambda_1 lambda_2 layernorm_after.bias layernorm_after.weight layernorm_before.bias
    layernorm_before.weight output.dense.bias output.dense.weight"""


@pytest.fixture
def small(monkeypatch):
    """Both networks with a few channels, and inputs of a few patches."""
    body = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 4}
    monkeypatch.setattr(depth_anything, "BACKBONE", body | {"out_indices": [1, 2, 3, 4]})
    monkeypatch.setattr(depth_anything, "HEAD", {"neck_hidden_sizes": [8, 8, 12, 12], "fusion_hidden_size": 8})
    monkeypatch.setattr(depth_anything, "SHORT_SIDE", 56)
    stages = [f"stage{k}" for k in (1, 2, 3, 4)]
    more = {"intermediate_size": 32, "image_size": 64, "out_features": stages}
    monkeypatch.setattr(zoedepth, "BACKBONE", body | more)
    head = {"neck_hidden_sizes": [8, 8, 12, 12], "fusion_hidden_size": 16, "bottleneck_features": 16}
    monkeypatch.setattr(zoedepth, "HEAD", zoedepth.HEAD | head | {"bin_embedding_dim": 16})
    monkeypatch.setattr(zoedepth, "KINDS", {"normed": ((64, 96), 80.0), "softplus": ((64, 64), 10.0)})


def random_weights(network: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of which the output depends on the input: larger than those that training would begin with."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, tensor in network.state_dict().items():
        fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 25
        state[key] = torch.randn(tensor.shape, generator=generator) * 1.4 / fan**0.5
    return state


def saved(path, name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write random weights of a back-end's network under the published keys; returns them under the package's."""
    module = {"depth-anything": depth_anything, "zoedepth": zoedepth}[name]
    state = random_weights(module.network(), seed)
    if name == "depth-anything":
        state["head.conv3.bias"].fill_(20)  # else the last ReLU would leave little
    save_file(published(state, name), path)
    return state


def backend_of(path, name: str):
    return depth_backend(DepthOptions(backend=name, weights=str(path)))


# -------------------------------------------------------------------------------------------------- structure


def test_structure_of_depth_anything_v2_small():
    """24.8 million weights, the number of its authors; a head of four levels on the layers 3, 6, 9 and 12."""
    with torch.device("meta"):
        network = depth_anything.network()
    assert sum(weight.numel() for weight in network.parameters()) == 24_785_089
    assert list(network.backbone.out_indices) == [3, 6, 9, 12]
    keys = set(published(network.state_dict(), "depth-anything"))
    for layer in range(12):
        start = f"backbone.encoder.layer.{layer}."
        assert {key.removeprefix(start) for key in keys if key.startswith(start)} == set(DINOV2_LAYER.split())
    assert {key for key in keys if key.startswith("backbone.") and ".layer." not in key} == {
        "backbone.embeddings.cls_token",
        "backbone.embeddings.mask_token",
        "backbone.embeddings.patch_embeddings.projection.bias",
        "backbone.embeddings.patch_embeddings.projection.weight",
        "backbone.embeddings.position_embeddings",
        "backbone.layernorm.bias",
        "backbone.layernorm.weight",
    }
    assert {key.split(".")[0] for key in keys} == {"backbone", "neck", "head"}


@pytest.mark.parametrize(("kind", "count"), [("normed", 343_793_439), ("softplus", 343_789_698)])
def test_structure_of_zoedepth(kind, count):
    with torch.device("meta"):
        network = zoedepth.network(kind)
    assert sum(weight.numel() for weight in network.parameters()) == count
    assert zoedepth.kind_of(network.state_dict()) == kind
    assert network.metric_head.min_depth == 1e-3
    assert network.metric_head.max_depth == {"normed": 80, "softplus": 10}[kind]
    keys = set(published(network.state_dict(), "zoedepth"))
    for layer in range(24):
        start = f"backbone.encoder.layer.{layer}."
        assert {key.removeprefix(start) for key in keys if key.startswith(start)} == set(BEIT_LAYER.split())
    assert {key.split(".")[0] for key in keys} == {"backbone", "neck", "relative_head", "metric_head"}


@pytest.mark.parametrize("name", ["depth-anything", "zoedepth"])
def test_published_weights_arrive_where_the_package_itself_puts_them(small, tmp_path, name):
    """The package's own reading of published files is the reference."""
    state = saved(tmp_path / "w.safetensors", name)
    module = {"depth-anything": depth_anything, "zoedepth": zoedepth}[name]
    made = module.network()
    theirs = type(made).from_pretrained(None, config=made.config, state_dict=published(state, name)).eval()
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    loaded = module.load_network(tmp_path / "w.safetensors")
    ours = loaded[0] if name == "zoedepth" else loaded
    size = {"depth-anything": (56, 84), "zoedepth": (64, 96)}[name]
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = (network(image).predicted_depth for network in (ours, theirs))
    assert expected.std() > 0.01 * expected.mean()
    # Our 1x1 convolutions add up in another order; exponentials of ZoeDepth's bins make more of it.
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


# ---------------------------------------------------------------------------------------------- input, output


@pytest.mark.parametrize(
    ("size", "target", "multiple", "rule", "expected"),
    [
        ((480, 854), (518, 518), 14, "at least", (518, 924)),  # 921.6 is nearest to 66 patches
        ((256, 256), (518, 518), 14, "at least", (518, 518)),
        ((854, 480), (518, 518), 14, "at least", (924, 518)),
        ((1080, 1920), (518, 518), 14, "at least", (518, 924)),
        ((572, 976), (384, 768), 32, "nearest", (448, 768)),  # 450.1 is nearest to 14 steps
        ((572, 976), (384, 512), 32, "nearest", (384, 640)),  # 655.2
        ((300, 300), (384, 512), 32, "nearest", (384, 384)),
        ((10, 900), (384, 768), 32, "nearest", (32, 768)),
        ((100, 150), (50, 50), 14, "at least", (56, 70)),  # 50 is nearest to 56 but 75 to 70, which is enough
        ((100, 110), (60, 60), 14, "at least", (70, 70)),  # both are nearest to 56 and 70: 56 is too small
    ],
)
def test_size_of_the_input(size, target, multiple, rule, expected):
    assert input_size(size, target, multiple, rule) == expected


def test_input_of_depth_anything_is_the_published_one():
    """Bicubic as OpenCV's, on values of 0 to 1, then the mean and deviation of ImageNet."""
    frame = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    image = cv2.resize(frame / 255.0, (868, 518), interpolation=cv2.INTER_CUBIC)
    expected = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = depth_anything.to_input(frame, torch.device("cpu"))
    np.testing.assert_allclose(found[0].permute(1, 2, 0), expected, atol=2e-4)


def test_disparity_becomes_depth_with_one_scale_for_the_video():
    near = depth_anything.nearness(np.concatenate([np.full((1, 5, 20), 2.0), np.full((3, 5, 20), 4.0)]))
    assert near == 4
    found = depth_anything.to_depth(np.array([0.0, 4.0, 2.0, 40.0]), near)
    np.testing.assert_allclose(found, [50, 1, 1 / (0.49 + 0.02), 1 / (9.8 + 0.02)], rtol=1e-3)
    assert depth_anything.to_depth(np.zeros(3), 0.0).tolist() == [50, 50, 50]


def test_percentile_of_many_disparities_is_that_of_all():
    values = np.random.default_rng(0).random((1, 1500, 1700)).astype(np.float16)
    assert depth_anything.nearness(values) == pytest.approx(np.percentile(values.astype(np.float32), 98), abs=1e-3)


def test_the_frame_is_cut_out_of_the_enlarged_map():
    """A ramp over the enlarged frame, whose values are raster coordinates: cells of the result hold their own."""
    frame, (above, left) = (40, 60), (8, 10)
    h, w = 28, 40  # cells of 2 pixels over 56 x 80
    xs, ys = torch.meshgrid(torch.arange(w) * 2 + 1.0, torch.arange(h) * 2 + 1.0, indexing="xy")
    for ramp, start in ((xs, left), (ys, above)):
        found = zoedepth.cut_out(ramp, frame, (above, left))
        assert found.shape == (20, 30)
        along = found[0] if start == left else found[:, 0]
        torch.testing.assert_close(along, start + 1 + 2.0 * torch.arange(len(along)))


def test_padding_of_zoedepth():
    assert [zoedepth.padding(side) for side in (480, 854, 4, 2)] == [46, 61, 3, 1]


# ---------------------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize(
    ("name", "size", "shape", "unit"),
    [
        ("depth-anything", (40, 66), (56, 98), "relative"),
        ("zoedepth", (40, 66), (38, 62), "metre"),  # 64 x 96 of a frame enlarged from 40 x 66 to 66 x 100
    ],
)
def test_depth_of_frames(small, tmp_path, name, size, shape, unit):
    saved(tmp_path / "w.safetensors", name)
    frames, meta = frames_and_meta(2, size)
    steps = []
    backend = backend_of(tmp_path / "w.safetensors", name)
    depth = backend.depth(frames, meta, None, lambda: steps.append(1))
    assert depth.dtype == np.float16
    assert depth.shape[0] == len(steps) == 2
    assert np.abs(np.subtract(depth.shape[1:], shape)).max() <= 1
    assert np.isfinite(depth).all()
    assert (depth > 0).all()
    assert depth[0].astype(np.float32).std() > 0
    assert not np.array_equal(depth[0], depth[1])
    described = backend.describe()
    assert described["unit"] == unit
    assert len(described["weights"]) == 64


def test_zoedepth_sees_a_mirror_image_mirrored(small, tmp_path):
    """Both views are averaged, so this holds for any weights; float16 and the order of sums leave 0.2 %."""
    saved(tmp_path / "w.safetensors", "zoedepth")
    frames, meta = frames_and_meta(1, (40, 66))
    backend = backend_of(tmp_path / "w.safetensors", "zoedepth")
    depth, mirrored = (backend.depth(images, meta).astype(np.float32) for images in (frames, frames[:, :, ::-1]))
    assert depth.std() > 0.005 * depth.mean()
    np.testing.assert_allclose(mirrored[..., ::-1], depth, rtol=2e-3)


def test_zoedepth_stays_within_its_metres(small, tmp_path):
    saved(tmp_path / "w.safetensors", "zoedepth")
    backend = backend_of(tmp_path / "w.safetensors", "zoedepth")
    depth = backend.depth(*frames_and_meta(1, (40, 66)))
    assert depth.max() <= 80
    assert depth.min() >= 0.0009
    assert backend.describe()["max_depth"] == 80


def test_the_stage_with_a_network(small, tmp_path):
    saved(tmp_path / "w.safetensors", "depth-anything")
    frames, meta = frames_and_meta(3, (40, 66))
    options = DepthOptions(backend="depth-anything", weights=str(tmp_path / "w.safetensors"))
    for name in ("a", "b"):
        compute_depth(frames, meta, options, tmp_path / name / "depth.npy")
    depth, mask = load_depth(tmp_path / "a" / "depth.npy")
    assert depth.shape == mask.shape == (3, 56, 98)
    assert 0.5 < mask.mean() < 1
    for file in ("depth.npy", "depth.mask.npy", "depth.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    near = [depth_anything.to_depth(np.array([0.0]), 1.0)[0], depth.max()]
    assert near[1] <= near[0]


# ----------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("form", ["torch", "folder", "folder of torch", "half", "package's keys"])
def test_weights_come_in_several_forms(small, tmp_path, form):
    state = saved(tmp_path / "model.safetensors", "depth-anything")
    path = tmp_path
    if form in ("torch", "folder of torch"):
        torch.save(published(state, "depth-anything"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
        path = tmp_path / "pytorch_model.bin" if form == "torch" else tmp_path
    elif form == "half":
        state = {key: tensor.half() for key, tensor in state.items()}
        save_file(state, tmp_path / "model.safetensors")
    elif form == "package's keys":
        save_file(state, tmp_path / "model.safetensors")
    network = depth_anything.load_network(weight_file(str(path)))
    assert torch.equal(network.head.conv1.weight, state["head.conv1.weight"].float())
    key = "backbone.encoder.layer.1.attention.k_proj.weight"
    assert torch.equal(network.state_dict()[key], state[key].float())


def test_the_authors_file_of_depth_anything(small, tmp_path):
    """Keys as in depth_anything_v2_vits.pth, written out one layer at a time."""
    state, theirs = saved(tmp_path / "w.safetensors", "depth-anything"), {}
    for name, key in (("cls_token", "cls_token"), ("mask_token", "mask_token"), ("pos_embed", "position_embeddings")):
        theirs[f"pretrained.{name}"] = state[f"backbone.embeddings.{key}"]
    for w in ("weight", "bias"):
        theirs[f"pretrained.patch_embed.proj.{w}"] = state[f"backbone.embeddings.patch_embeddings.projection.{w}"]
        theirs[f"pretrained.norm.{w}"] = state[f"backbone.layernorm.{w}"]
        for n in range(4):
            ours, block = f"backbone.encoder.layer.{n}", f"pretrained.blocks.{n}"
            qkv = [state[f"{ours}.attention.{part}_proj.{w}"] for part in "qkv"]
            theirs[f"{block}.attn.qkv.{w}"] = torch.cat(qkv)
            theirs[f"{block}.attn.proj.{w}"] = state[f"{ours}.attention.o_proj.{w}"]
            for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                theirs[f"{block}.{same}.{w}"] = state[f"{ours}.{same}.{w}"]
            for k in (1, 2):
                theirs[f"{block}.ls{k}.gamma"] = state[f"{ours}.layer_scale{k}.lambda1"]
            reassemble, fusion = f"neck.reassemble_stage.layers.{n}", f"neck.fusion_stage.layers.{n}"
            theirs[f"depth_head.projects.{n}.{w}"] = state[f"{reassemble}.projection.{w}"]
            if n != 2:  # the third level keeps its size
                theirs[f"depth_head.resize_layers.{n}.{w}"] = state[f"{reassemble}.resize.{w}"]
            theirs[f"depth_head.scratch.layer{n + 1}_rn.weight"] = state[f"neck.convs.{n}.weight"]
            refine = f"depth_head.scratch.refinenet{4 - n}"  # counted from the finest level, here from the coarsest
            theirs[f"{refine}.out_conv.{w}"] = state[f"{fusion}.projection.{w}"]
            for k in (1, 2):
                for c in (1, 2):
                    conv = state[f"{fusion}.residual_layer{k}.convolution{c}.{w}"]
                    theirs[f"{refine}.resConfUnit{k}.conv{c}.{w}"] = conv
        for name, conv in (("output_conv1", "conv1"), ("output_conv2.0", "conv2"), ("output_conv2.2", "conv3")):
            theirs[f"depth_head.scratch.{name}.{w}"] = state[f"head.{conv}.{w}"]
    torch.save(theirs, tmp_path / "depth_anything_v2_vits.pth")
    image = torch.randn(1, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = (
            depth_anything.load_network(tmp_path / name)(image).predicted_depth
            for name in ("depth_anything_v2_vits.pth", "w.safetensors")
        )
    assert torch.equal(found, expected)
    assert (expected > 0).float().mean() > 0.5


def test_a_folder_without_weights_is_one_sentence(tmp_path):
    with pytest.raises(AssetError, match="neither model.safetensors nor pytorch_model.bin"):
        weight_file(str(tmp_path))


@pytest.mark.parametrize("name", ["depth-anything", "zoedepth"])
def test_other_weights_are_refused(small, tmp_path, name):
    path = tmp_path / "w.safetensors"
    other = {"depth-anything": "zoedepth", "zoedepth": "depth-anything"}[name]
    saved(path, other)
    with pytest.raises(AssetError, match=r"does not fit (Depth Anything V2 small|ZoeDepth K or N)"):
        backend_of(path, name).depth(*frames_and_meta(1))
    state = saved(path, name)
    key = next(key for key in state if "fusion_stage" in key)
    del state[key]
    save_file(state, path)
    with pytest.raises(AssetError, match=f"lacks {re.escape(key)}"):
        backend_of(path, name).depth(*frames_and_meta(1))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(AssetError, match="not a weight file that can be read"):
        backend_of(path, name).depth(*frames_and_meta(1))


def test_constants_in_a_file_of_zoedepth_are_passed_over(small, tmp_path):
    state = published(saved(tmp_path / "w.safetensors", "zoedepth"), "zoedepth")
    state["backbone.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"] = torch.ones(3)
    state["metric_head.conditional_log_binomial.log_binomial_transform.k_idx"] = torch.ones(1, 64, 1, 1)
    save_file(state, tmp_path / "w.safetensors")
    assert zoedepth.load_network(tmp_path / "w.safetensors")[1] == "normed"


def test_indoor_weights_are_recognised(small, tmp_path):
    save_file(random_weights(zoedepth.network("softplus")), tmp_path / "w.safetensors")
    backend = backend_of(tmp_path / "w.safetensors", "zoedepth")
    assert (backend.depth(*frames_and_meta(1, (40, 66))) > 0).all()
    assert backend.describe()["kind"] == "softplus"


# --------------------------------------------------------------------------------------------------- package


@pytest.mark.parametrize("name", ["depth-anything", "zoedepth"])
def test_without_the_package_the_sentence_says_how_to_get_it(monkeypatch, name):
    """Nothing is fetched before: the weights would be of no use."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("everypoint.depth.network.locate", lambda name: pytest.fail(f"{name} is fetched"))
    backend = depth_backend(DepthOptions(backend=name))
    with pytest.raises(MissingPackageError, match=rf"depth.backend {name} .*'\.\[depth\]'.*Apache-2.0"):
        backend.depth(*frames_and_meta(1))


def test_the_extra_that_the_sentence_names_has_the_installed_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["depth"] == [f"transformers=={transformers_for('zoedepth').__version__}"]
    assert set(extras["depth"]) <= set(extras["dev"])
