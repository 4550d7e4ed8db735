"""A vision transformer written out in float64 numpy, after the papers, and weights to run it with.

Independent of timm and of the package: heads and tokens are looped over or reshaped in the plainest way, the table of
positions is resized by summing the cubic kernel's taps one after the other.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from scipy.special import erf
from torch import Tensor

NORM_EPS = 1e-6


def weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Weights of a sensible size under given keys: slices of one store of random numbers, so that files stay small."""
    longest = max(map(math.prod, shapes.values()))
    store = torch.randn(longest + 2**16, generator=torch.Generator().manual_seed(seed))
    norms = 1 + 0.2 * store
    gains = {"qkv.weight": 0.08, "weight": 0.03, "gamma": 0.4, "bias": 0.1, "cls_token": 0.5, "pos_embed": 0.3}
    scaled = {gain: gain * store for gain in {*gains.values(), 0.5}}
    state = {}
    for key, shape in shapes.items():
        if "norm" in key and key.endswith("weight"):
            source = norms
        else:
            source = scaled[next((gain for end, gain in gains.items() if key.endswith(end)), 0.5)]
        size = math.prod(shape)
        start = zlib.crc32(key.encode()) % (len(source) - size + 1)
        state[key] = source[start : start + size].view(shape)
    return state


def tokens(state: dict[str, Tensor], image: np.ndarray, *, patch: int, side: int, registers: int) -> np.ndarray:
    """Tokens [h, w, C] of the patches of an image [3, H, W], after the last block and the final norm; authors' keys."""
    p = {key: tensor.double().numpy() for key, tensor in state.items()}
    grid = image.shape[1] // patch, image.shape[2] // patch
    kernel = p["patch_embed.proj.weight"]
    cells = np.stack(
        [
            np.einsum("kcij,cij->k", kernel, image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch])
            for y in range(grid[0])
            for x in range(grid[1])
        ]
    )
    table = positions(p["pos_embed"][0, 1:].reshape(side, side, -1), grid, antialias=bool(registers))
    x = np.concatenate([p["cls_token"][0], cells + p["patch_embed.proj.bias"]])
    x = x + np.concatenate([p["pos_embed"][0, :1], table.reshape(len(cells), -1)])
    if registers:  # after the class token, without a position
        x = np.concatenate([x[:1], p["register_tokens"][0], x[1:]])
    blocks = 1 + max(int(key.split(".")[1]) for key in p if key.startswith("blocks."))
    for block in range(blocks):
        q = {key.removeprefix(f"blocks.{block}."): value for key, value in p.items() if f"blocks.{block}." in key}
        x = x + _scaled(_attention(_norm(x, q, "norm1"), q), q, "ls1")
        x = x + _scaled(_mlp(_norm(x, q, "norm2"), q), q, "ls2")
    return _norm(x, p, "norm")[1 + registers :].reshape(*grid, -1)


def _norm(x: np.ndarray, p: dict, name: str) -> np.ndarray:
    centred = x - x.mean(1, keepdims=True)
    scale = np.sqrt((centred**2).mean(1, keepdims=True) + NORM_EPS)
    return centred / scale * p[f"{name}.weight"] + p[f"{name}.bias"]


def _scaled(x: np.ndarray, p: dict, name: str) -> np.ndarray:
    return x * p[f"{name}.gamma"] if f"{name}.gamma" in p else x


def _linear(x: np.ndarray, p: dict, name: str) -> np.ndarray:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _attention(x: np.ndarray, p: dict) -> np.ndarray:
    width = x.shape[1]
    query, key, value = np.split(_linear(x, p, "attn.qkv"), 3, axis=1)
    heads = []
    for start in range(0, width, 64):
        q, k, v = (part[:, start : start + 64] for part in (query, key, value))
        score = np.exp(q @ k.T / 8)  # 8 = sqrt(64)
        heads.append(score / score.sum(1, keepdims=True) @ v)
    return _linear(np.concatenate(heads, axis=1), p, "attn.proj")


def _mlp(x: np.ndarray, p: dict) -> np.ndarray:
    hidden = _linear(x, p, "mlp.fc1")
    return _linear(hidden * (1 + erf(hidden / math.sqrt(2))) / 2, p, "mlp.fc2")


# ------------------------------------------------------------------------------------------- table of positions


def positions(table: np.ndarray, grid: tuple[int, int], *, antialias: bool) -> np.ndarray:
    """The table [side, side, C] for (h, w) patches, as the authors' two ways of resizing say; unchanged where equal."""
    side = table.shape[0]
    if grid == (side, side):
        return table
    if antialias:
        down, across = (_widened(side, size) for size in grid)
    else:
        down, across = (_keys(side, size, side / (size + 0.1)) for size in grid)
    return np.einsum("yi,xj,ijc->yxc", down, across, table)


def _cubic(t: float, a: float) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def _keys(old: int, new: int, step: float) -> np.ndarray:
    """Matrix [new, old] of cubic convolution (a = -0.75) at a distance of ``step``; edges are repeated."""
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * step - 0.5
        first = math.floor(centre) - 1
        for tap in range(first, first + 4):
            matrix[row, min(max(tap, 0), old - 1)] += _cubic(centre - tap, -0.75)
    return matrix


def _widened(old: int, new: int) -> np.ndarray:
    """As :func:`_keys` with a = -0.5, a kernel widened to the step where that is above 1, and what lies outside cut."""
    step = old / new
    wide = max(step, 1.0)
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * step
        for tap in range(old):
            matrix[row, tap] = _cubic((tap + 0.5 - centre) / wide, -0.5)
        matrix[row] /= matrix[row].sum()
    return matrix
