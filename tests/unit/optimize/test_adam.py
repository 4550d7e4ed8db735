"""Our Adam is torch's, bit for bit, and brings no compiler along."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from everypoint.optimize.adam import Adam
from tests.shared import ROOT

BETAS = (0.9, 0.99)


def parameters() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = (33,), (4, 7), (2, 3, 5), ()
    return [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]


def move(optimizer, made: list[torch.Tensor], step: int) -> None:
    """A step on gradients of its own; the last parameter gets its first one late, the second one's stays away once."""
    optimizer.zero_grad()
    loss = sum(((p - step) ** 2).sum() * 10.0 ** (k - 2) for k, p in enumerate(made[:3]) if (k, step) != (1, 4))
    if step > 2:
        loss = loss + made[3].cos()
    loss.backward()
    optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
    optimizer.step()


def ours(made: list[torch.Tensor]) -> Adam:
    return Adam([(0.1, made[:1]), (0.01, iter(made[1:]))], BETAS)


def theirs(made: list[torch.Tensor]) -> torch.optim.Adam:
    groups = [{"params": made[:1], "lr": 0.1}, {"params": made[1:], "lr": 0.01}]
    return torch.optim.Adam(groups, betas=BETAS, fused=True)


def test_equals_torchs_bit_for_bit():
    first, second = parameters(), parameters()
    for optimizer, made in ((ours(first), first), (theirs(second), second)):
        for step in range(8):
            move(optimizer, made, step)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, parameters(), strict=True))


@pytest.mark.parametrize("begins", [ours, theirs])
@pytest.mark.parametrize("ends", [ours, theirs])
def test_each_goes_on_from_the_others_state(begins, ends):
    whole, parted = parameters(), parameters()
    single, first = ours(whole), begins(parted)
    for step in range(8):
        move(single, whole, step)
    for step in range(4):
        move(first, parted, step)
    second = ends(parted)
    state = first.state_dict()
    for group, own in zip(state["param_groups"], second.state_dict()["param_groups"], strict=True):
        group |= {key: value for key, value in own.items() if key not in group}  # what only torch's class keeps
    second.load_state_dict(state)
    for step in range(4, 8):
        move(second, parted, step)
    assert all(torch.equal(a, b) for a, b in zip(whole, parted, strict=True))


def test_a_loaded_state_is_a_copy():
    made = parameters()
    first, second = ours(made), ours(made)
    for step in range(4):
        move(first, made, step)
    second.load_state_dict(first.state_dict())
    moments = [state["state"][0]["exp_avg"] for state in (first.state_dict(), second.state_dict())]
    assert torch.equal(*moments)
    assert moments[0].data_ptr() != moments[1].data_ptr()


def test_a_rate_may_be_a_tensor():
    first, second = parameters(), parameters()
    plain, given = ours(first), ours(second)
    for step in range(3):
        move(plain, first, step)
        given.zero_grad()
        sum(((p - step) ** 2).sum() * 10.0 ** (k - 2) for k, p in enumerate(second[:3])).backward()
        for group, rate in zip(given.param_groups, (0.1 / (1 + step), 0.01), strict=True):
            group["lr"] = torch.tensor(rate, dtype=torch.float64)
        given.step()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# torch's compiler and torchvision (which imports it) take longer to import than torch, in every job anew.
JOBS = """
import sys
import torch
import everypoint.correspond.raft, everypoint.features.raft_encoder, everypoint.match.video
import everypoint.optimize.run, everypoint.track.model
from everypoint.correspond.raft_network import RaftNetwork
from everypoint.correspond.raft_parts import RaftParts
from everypoint.optimize.adam import Adam

network = RaftNetwork(RaftParts(small=True).state_dict(), small=True)
code = network.encode(torch.zeros(3, 128, 128))
network.pair_flows([code], [code], 1)
value = torch.ones(3, requires_grad=True)
optimizer = Adam([(0.1, [value])])
value.sum().backward()
optimizer.step()
print(*sorted({"torchvision", "torch._dynamo", "sympy"} & sys.modules.keys()))
"""


def test_jobs_of_the_default_presets_import_no_compiler():
    done = subprocess.run([sys.executable, "-c", JOBS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
