"""The canonical field: its networks, what they see, and the options that do not fit together."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from everypoint.config.options_field import FieldOptions
from everypoint.models.field import CanonicalField
from everypoint.models.rays import contract

SMALL = {"hidden": 16, "layers": 2}


def field(seed: int = 0, **changes) -> CanonicalField:
    return CanonicalField(FieldOptions(**{**SMALL, **changes}), torch.Generator().manual_seed(seed))


def anywhere(*shape: int, seed: int = 1) -> torch.Tensor:
    """Canonical points inside and far outside of the unit ball."""
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed)) * 2


def parameters(made: CanonicalField) -> int:
    return sum(parameter.numel() for parameter in made.parameters())


def test_published_field_has_the_published_parameters():
    assert parameters(field(hidden=512, layers=3)) == 806_404


@pytest.mark.parametrize("encoding, width", [("none", 3), ("periodic-63", 63), ("periodic-66", 66)])
def test_width_of_what_the_network_sees(encoding, width):
    made = field(hidden=256, layers=3, encoding=encoding)
    filters, linears, last = 4 * (256 * 2 * width + 256 * 2), 3 * (256 * 256 + 256), 256 * 4 + 4
    assert parameters(made) == filters + linears + last


@pytest.mark.parametrize("changes", [{}, {"encoding": "periodic-63"}, {"encoding": "periodic-66"}, {"network": "hash"}])
@pytest.mark.parametrize("shape", [(7,), (5, 6)])
def test_colour_and_opacity_lie_between_0_and_1(changes, shape):
    colour, alpha = field(**changes)(anywhere(*shape))
    assert (colour.shape, alpha.shape) == ((*shape, 3), shape)
    for values in (colour, alpha):
        assert ((values >= 0) & (values <= 1)).all()
        assert values.std() > 0


@pytest.mark.parametrize("encoding", ["none", "periodic-63", "periodic-66"])
@torch.no_grad()
def test_field_is_its_network_at_the_contracted_point(encoding):
    made, at = field(encoding=encoding).double(), anywhere(40).double()
    got = made(at)
    for n in range(40):
        u = contract(at[n])
        seen = u.tolist() if encoding != "periodic-66" else []
        for k in range({"none": 0, "periodic-63": 10, "periodic-66": 11}[encoding]):
            seen += [math.sin(2**k * value) for value in u.tolist()] + [math.cos(2**k * value) for value in u.tolist()]
        raw = made.net(torch.tensor([seen], dtype=torch.float64))[0].tolist()
        expected = [1 / (1 + math.exp(-value)) for value in raw[:3]]
        assert got.colour[n].tolist() == pytest.approx(expected, abs=1e-9)
        sigma = math.log1p(math.exp(raw[3] - 1))
        assert math.isclose(float(got.alpha[n]), 1 - math.exp(-sigma), abs_tol=1e-9)


def test_hash_grid_sees_the_whole_contracted_ball():
    made, seen = field(network="hash"), []
    made.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    made(torch.cat([1e6 * torch.eye(3), -1e6 * torch.eye(3), torch.zeros(1, 3)]))
    torch.testing.assert_close(seen[0].amax(0), torch.ones(3))
    torch.testing.assert_close(seen[0].amin(0), torch.zeros(3))
    assert seen[0][-1].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("changes", [{}, {"network": "hash"}])
def test_initial_values_come_from_the_generator_alone(changes):
    torch.manual_seed(1)
    first, other = field(**changes), field(seed=5, **changes)
    torch.manual_seed(2)
    for (name, a), b in zip(first.state_dict().items(), field(**changes).state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_options_that_do_not_fit_together():
    with pytest.raises(ValidationError, match="encoding must be none"):
        FieldOptions(network="hash", encoding="periodic-63")
    with pytest.raises(ValidationError, match="larger than near"):
        FieldOptions(near=2.0, far=2.0)
