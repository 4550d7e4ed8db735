# ruff: noqa: ANN001, ANN201, ANN202, RUF059 -- the language annotates constants alone, and has no placeholder names
"""Triton kernels of CaDeX++'s chain: all stops of a tile of points in one launch, and the way back in another.

Imported by :mod:`everypoint.models.chain_triton` alone, when a kernel runs: Triton is optional. The plain twin of every
function is in :mod:`everypoint.models.chain` and :mod:`everypoint.models.monotone`, where the formulas are derived.

A point's three coordinates stay in registers from the first stop to the last; tables and networks are read through the
caches. Layers of 56, 28 and 10 are padded to powers of two, and what is beyond is masked. Comparisons, not ``minimum``
and ``maximum``, limit values: they let NaN through on every device.

Layouts: points [3, N]; frames [legs, N]; table [blocks, rows, WIDTH]; small [blocks, size], where size holds the middle
weights [HALF, WIDTH] and biases [HALF], the last ones [10, HALF] and [10]; route [stops, 4] with axis, inverse, block
and leg; sizes [planes], nodes a side.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _split(x, y, z, axis):
    """The coordinate that a stop changes, and the two that it keeps, in their order."""
    value = tl.where(axis == 0, x, tl.where(axis == 1, y, z))
    return value, tl.where(axis == 0, y, x), tl.where(axis == 2, y, z)


@triton.jit
def _set(x, y, z, axis, value):
    """The coordinates with that of ``axis`` replaced."""
    return tl.where(axis == 0, value, x), tl.where(axis == 1, value, y), tl.where(axis == 2, value, z)


@triton.jit
def _tanh(v):
    """tanh, to the last digit of tanh + 1; no power overflows."""
    power = tl.exp(-2 * tl.abs(v))
    size = (1 - power) / (1 + power)
    return tl.where(v < 0, -size, size)


@triton.jit
def _cell(tanh, size):
    """Node before a position in [-1, 1] and the place behind it, 0..1; NaN gets a node, and stays NaN in the place."""
    at = (tanh + 1) * ((size - 1) * 0.5).to(tanh.dtype)
    low = tl.where(at == at, tl.floor(at), 0.0).to(tl.int32)
    low = tl.minimum(tl.maximum(low, 0), size - 2)
    return low, at - low.to(tanh.dtype)


@triton.jit
def _looked_up(table, tanh_a, tanh_b, time, columns, mask, sizes, PLANES: tl.constexpr, WIDTH: tl.constexpr):
    """First layer [TILE, PADDED] before its rectifier, and its derivatives by the two positions.

    A kernel that does not use the derivatives does not compute them: the compiler drops what nobody reads.
    """
    hidden = tl.load(table + time[:, None] * WIDTH + columns[None, :], mask=mask, other=0.0)
    along_a, along_b = tl.zeros_like(hidden), tl.zeros_like(hidden)
    start = 0
    for plane in tl.static_range(PLANES):
        size = tl.load(sizes + plane)
        low_a, fa = _cell(tanh_a, size)
        low_b, fb = _cell(tanh_b, size)
        fa, fb = fa[:, None], fb[:, None]
        corner = table + (start + low_a * size + low_b)[:, None] * WIDTH + columns[None, :]
        v00 = tl.load(corner, mask=mask, other=0.0)
        v01 = tl.load(corner + WIDTH, mask=mask, other=0.0)
        v10 = tl.load(corner + size * WIDTH, mask=mask, other=0.0)
        v11 = tl.load(corner + (size + 1) * WIDTH, mask=mask, other=0.0)
        top, low = v00 + fb * (v01 - v00), v10 + fb * (v11 - v10)
        half = ((size - 1) * 0.5).to(hidden.dtype)
        hidden += top + fa * (low - top)
        along_a += half * (low - top)
        along_b += half * ((v01 - v00) + fa * ((v11 - v10) - (v01 - v00)))
        start += size * size
    return hidden, along_a, along_b


@triton.jit
def _scatter(into, of_hidden, tanh_a, tanh_b, time, columns, mask, sizes, PLANES: tl.constexpr, WIDTH: tl.constexpr):
    """Add the gradient of the first layer to the rows that :func:`_looked_up` read."""
    tl.atomic_add(into + time[:, None] * WIDTH + columns[None, :], of_hidden, mask=mask, sem="relaxed")
    start = 0
    for plane in tl.static_range(PLANES):
        size = tl.load(sizes + plane)
        low_a, fa = _cell(tanh_a, size)
        low_b, fb = _cell(tanh_b, size)
        fa, fb = fa[:, None], fb[:, None]
        corner = into + (start + low_a * size + low_b)[:, None] * WIDTH + columns[None, :]
        low = of_hidden * fa
        top = of_hidden - low
        tl.atomic_add(corner, top - top * fb, mask=mask, sem="relaxed")
        tl.atomic_add(corner + WIDTH, top * fb, mask=mask, sem="relaxed")
        tl.atomic_add(corner + size * WIDTH, low - low * fb, mask=mask, sem="relaxed")
        tl.atomic_add(corner + (size + 1) * WIDTH, low * fb, mask=mask, sem="relaxed")
        start += size * size


@triton.jit
def _leaky(x, SLOPE: tl.constexpr):
    return tl.where(x > 0, x, x * SLOPE)


@triton.jit
def _leaky_back(grad, after, SLOPE: tl.constexpr):
    """A rectified value has the sign of what it was."""
    return tl.where(after > 0, grad, grad * SLOPE)


@triton.jit
def _network(
    hidden,
    small,
    columns,
    halves,
    raws,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Second layer [TILE, PADDED_HALF] and sigmoids [TILE, 16] of what the first one gave."""
    inner, outer = halves < HALF, raws < 10
    middle = tl.load(
        small + halves[None, :] * WIDTH + columns[:, None],
        mask=inner[None, :] & (columns < WIDTH)[:, None],
        other=0.0,
    )  # [PADDED, PADDED_HALF]
    at = small + HALF * WIDTH
    second = tl.dot(hidden, middle, input_precision=PRECISION, out_dtype=hidden.dtype)
    second = _leaky(second + tl.load(at + halves, mask=inner, other=0.0)[None, :], SLOPE)
    at += HALF
    last = tl.load(
        at + raws[None, :] * HALF + halves[:, None], mask=outer[None, :] & inner[:, None], other=0.0
    )  # [PADDED_HALF, 16]
    raw = tl.dot(second, last, input_precision=PRECISION, out_dtype=hidden.dtype)
    raw += tl.load(at + 10 * HALF + raws, mask=outer, other=0.0)[None, :]
    return second, tl.sigmoid(raw)


@triton.jit
def _column(matrix, raws, k):
    """Column k [TILE] of [TILE, 16]; what is NaN elsewhere stays there."""
    return tl.sum(tl.where(raws[None, :] == k, matrix, 0.0), 1)


@triton.jit
def _spacing(share, raws, k, like, GUARD: tl.constexpr):
    return GUARD + (1 - GUARD) * _column(share, raws, k).to(like.dtype)


@triton.jit
def _tail(share, raws, k, like, inverse, GUARD: tl.constexpr):
    slope = 2 * GUARD + (2 - 4 * GUARD) * _column(share, raws, k).to(like.dtype)
    return tl.where(inverse != 0, 1 / slope, slope)


@triton.jit
def _unit(v):
    return tl.where(v < 0, 0.0, tl.where(v > 1, 1.0, v))


@triton.jit
def _pieces(value, share, raws, inverse, GUARD: tl.constexpr):
    """Spacings, tails and where ``value`` lies among them: :class:`everypoint.models.monotone.Pieces`.

    The inverse has the spacings of argument and value swapped: their columns begin at 0 and 4, or at 4 and 0.
    """
    at_a, at_b = 4 * inverse, 4 - 4 * inverse
    a0, a1 = _spacing(share, raws, at_a, value, GUARD), _spacing(share, raws, at_a + 1, value, GUARD)
    a2, a3 = _spacing(share, raws, at_a + 2, value, GUARD), _spacing(share, raws, at_a + 3, value, GUARD)
    b0, b1 = _spacing(share, raws, at_b, value, GUARD), _spacing(share, raws, at_b + 1, value, GUARD)
    b2, b3 = _spacing(share, raws, at_b + 2, value, GUARD), _spacing(share, raws, at_b + 3, value, GUARD)
    left, right = _tail(share, raws, 8, value, inverse, GUARD), _tail(share, raws, 9, value, inverse, GUARD)
    from_left, from_right = value + (a1 + a0), value - (a2 + a3)
    below, above = tl.where(from_left > 0, 0.0, from_left), tl.where(from_right < 0, 0.0, from_right)
    t0, t1, t2 = _unit(from_left / a0), _unit((value + a1) / (a1 + a2)), _unit((value - a2) / a3)
    return a0, a1, a2, a3, b0, b1, b2, b3, left, right, below, above, t0, t1, t2


@triton.jit
def _monotone(value, share, raws, inverse, GUARD: tl.constexpr):
    """:func:`everypoint.models.monotone.evaluate`."""
    a0, a1, a2, a3, b0, b1, b2, b3, left, right, below, above, t0, t1, t2 = _pieces(value, share, raws, inverse, GUARD)
    return (t0 - 1) * b0 + (t1 - 1) * b1 + t1 * b2 + t2 * b3 + left * below + right * above


@triton.jit
def _monotone_back(value, grad, share, raws, inverse, GUARD: tl.constexpr):
    """:func:`everypoint.models.monotone.gradients`: of the value [TILE] and of the raw parameters [TILE, 16]."""
    a0, a1, a2, a3, b0, b1, b2, b3, left, right, below, above, t0, t1, t2 = _pieces(value, share, raws, inverse, GUARD)
    slope = tl.where(t1 > 0, (b1 + b2) / (a1 + a2), b0 / a0)
    slope = tl.where(t2 > 0, b3 / a3, slope)
    slope = tl.where(below < 0, left, tl.where(above > 0, right, slope))
    of_left = grad * below * tl.where(inverse != 0, -left * left, 1.0)
    of_right = grad * above * tl.where(inverse != 0, -right * right, 1.0)
    at_a, at_b, column = 4 * inverse, 4 - 4 * inverse, raws[None, :]
    kind = share.dtype
    of_share = tl.zeros_like(share)
    of_b = grad * (t0 - 1)
    of_share = tl.where(column == at_b, of_b.to(kind)[:, None], of_share)
    of_share = tl.where(column == at_a, (-of_b * slope).to(kind)[:, None], of_share)
    of_b = grad * (t1 - 1)
    of_share = tl.where(column == at_b + 1, of_b.to(kind)[:, None], of_share)
    of_share = tl.where(column == at_a + 1, (-of_b * slope).to(kind)[:, None], of_share)
    of_b = grad * t1
    of_share = tl.where(column == at_b + 2, of_b.to(kind)[:, None], of_share)
    of_share = tl.where(column == at_a + 2, (-of_b * slope).to(kind)[:, None], of_share)
    of_b = grad * t2
    of_share = tl.where(column == at_b + 3, of_b.to(kind)[:, None], of_share)
    of_share = tl.where(column == at_a + 3, (-of_b * slope).to(kind)[:, None], of_share)
    of_share = tl.where(column == 8, of_left.to(kind)[:, None], of_share)
    of_share = tl.where(column == 9, of_right.to(kind)[:, None], of_share)
    of_share *= share * (1 - share)
    return grad * slope, tl.where(column < 8, of_share * (1 - GUARD), of_share * (2 - 4 * GUARD))


@triton.jit
def _network_back(
    raw,
    second,
    hidden,
    small,
    into,
    columns,
    halves,
    raws,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient [TILE, PADDED] of the first layer before its rectifier; those of the weights are added to ``into``.

    Nobody else writes to ``into``: an atomic addition is the short way to say add.
    """
    inner, outer, wide = halves < HALF, raws < 10, columns < WIDTH
    kind = hidden.dtype
    at = HALF * WIDTH + HALF
    both = outer[:, None] & inner[None, :]
    place = at + raws[:, None] * HALF + halves[None, :]
    of_last = tl.dot(tl.trans(raw), second, input_precision=PRECISION, out_dtype=kind)
    tl.atomic_add(into + place, of_last, mask=both, sem="relaxed")
    tl.atomic_add(into + at + 10 * HALF + raws, tl.sum(raw, 0), mask=outer, sem="relaxed")
    last = tl.load(small + place, mask=both, other=0.0)  # [16, PADDED_HALF]
    of_second = _leaky_back(tl.dot(raw, last, input_precision=PRECISION, out_dtype=kind), second, SLOPE)
    both = inner[:, None] & wide[None, :]
    place = halves[:, None] * WIDTH + columns[None, :]
    of_middle = tl.dot(tl.trans(of_second), hidden, input_precision=PRECISION, out_dtype=kind)
    tl.atomic_add(into + place, of_middle, mask=both, sem="relaxed")
    tl.atomic_add(into + HALF * WIDTH + halves, tl.sum(of_second, 0), mask=inner, sem="relaxed")
    middle = tl.load(small + place, mask=both, other=0.0)  # [PADDED_HALF, PADDED]
    return _leaky_back(tl.dot(of_second, middle, input_precision=PRECISION, out_dtype=kind), hidden, SLOPE)


@triton.jit
def forward(
    points,
    frames,
    table,
    small,
    route,
    sizes,
    out,
    before,
    count,
    rows,
    nodes,
    STOPS: tl.constexpr,
    PLANES: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    PADDED: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    TILE: tl.constexpr,
    GUARD: tl.constexpr,
    SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Points after all stops; with KEEP also ``before`` [stops, N], the coordinate that each stop replaced."""
    index = tl.program_id(0) * TILE + tl.arange(0, TILE)
    there = index < count
    columns, halves, raws = tl.arange(0, PADDED), tl.arange(0, PADDED_HALF), tl.arange(0, 16)
    mask = there[:, None] & (columns < WIDTH)[None, :]
    x = tl.load(points + index, mask=there, other=0.0)
    y = tl.load(points + count + index, mask=there, other=0.0)
    z = tl.load(points + 2 * count + index, mask=there, other=0.0)
    for stop in range(STOPS):
        axis, inverse = tl.load(route + 4 * stop), tl.load(route + 4 * stop + 1)
        block, leg = tl.load(route + 4 * stop + 2).to(tl.int64), tl.load(route + 4 * stop + 3).to(tl.int64)
        value, a, b = _split(x, y, z, axis)
        if KEEP:
            tl.store(before + tl.cast(stop, tl.int64) * count + index, value, mask=there)
        own = table + block * rows * WIDTH
        weights = small + block * (HALF * (WIDTH + 11) + 10)
        time = nodes + tl.load(frames + leg * count + index, mask=there, other=0).to(tl.int32)
        kind = table.dtype.element_ty
        hidden, _, _ = _looked_up(own, _tanh(a.to(kind)), _tanh(b.to(kind)), time, columns, mask, sizes, PLANES, WIDTH)
        _, share = _network(_leaky(hidden, SLOPE), weights, columns, halves, raws, WIDTH, HALF, SLOPE, PRECISION)
        x, y, z = _set(x, y, z, axis, _monotone(value, share, raws, inverse, GUARD))
    tl.store(out + index, x, mask=there)
    tl.store(out + count + index, y, mask=there)
    tl.store(out + 2 * count + index, z, mask=there)


@triton.jit
def backward(
    out,
    grad,
    frames,
    table,
    small,
    route,
    sizes,
    before,
    of_points,
    of_table,
    of_small,
    count,
    rows,
    nodes,
    blocks,
    STOPS: tl.constexpr,
    PLANES: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    PADDED: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    TILE: tl.constexpr,
    GUARD: tl.constexpr,
    SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The way back, from the points after the last stop; everything but ``before`` is computed again.

    A program takes every so many tiles. Gradients of the tables are added atomically by all, those of the networks to
    the program's own part of ``of_small`` [programs, blocks, size].
    """
    columns, halves, raws = tl.arange(0, PADDED), tl.arange(0, PADDED_HALF), tl.arange(0, 16)
    kind = table.dtype.element_ty
    size = HALF * (WIDTH + 11) + 10
    part = of_small + tl.program_id(0).to(tl.int64) * blocks * size
    tile = tl.program_id(0)
    while tile < tl.cdiv(count, TILE):
        index = tile * TILE + tl.arange(0, TILE)
        there = index < count
        mask = there[:, None] & (columns < WIDTH)[None, :]
        x = tl.load(out + index, mask=there, other=0.0)
        y = tl.load(out + count + index, mask=there, other=0.0)
        z = tl.load(out + 2 * count + index, mask=there, other=0.0)
        gx = tl.load(grad + index, mask=there, other=0.0)
        gy = tl.load(grad + count + index, mask=there, other=0.0)
        gz = tl.load(grad + 2 * count + index, mask=there, other=0.0)
        for done in range(STOPS):
            stop = STOPS - 1 - done
            axis, inverse = tl.load(route + 4 * stop), tl.load(route + 4 * stop + 1)
            block, leg = tl.load(route + 4 * stop + 2).to(tl.int64), tl.load(route + 4 * stop + 3).to(tl.int64)
            value = tl.load(before + tl.cast(stop, tl.int64) * count + index, mask=there, other=0.0)
            x, y, z = _set(x, y, z, axis, value)
            _, a, b = _split(x, y, z, axis)
            own = block * rows * WIDTH
            weights = small + block * size
            time = nodes + tl.load(frames + leg * count + index, mask=there, other=0).to(tl.int32)
            tanh_a, tanh_b = _tanh(a.to(kind)), _tanh(b.to(kind))
            hidden, along_a, along_b = _looked_up(
                table + own, tanh_a, tanh_b, time, columns, mask, sizes, PLANES, WIDTH
            )
            hidden = _leaky(hidden, SLOPE)
            second, share = _network(hidden, weights, columns, halves, raws, WIDTH, HALF, SLOPE, PRECISION)
            of_value, of_a, of_b = _split(gx, gy, gz, axis)
            of_value, raw = _monotone_back(value, of_value, share, raws, inverse, GUARD)
            of_hidden = _network_back(
                raw, second, hidden, weights, part + block * size, columns, halves, raws, WIDTH, HALF, SLOPE, PRECISION
            )
            _scatter(of_table + own, of_hidden, tanh_a, tanh_b, time, columns, mask, sizes, PLANES, WIDTH)
            of_a += (tl.sum(along_a * of_hidden, 1) * (1 - tanh_a * tanh_a)).to(of_a.dtype)
            of_b += (tl.sum(along_b * of_hidden, 1) * (1 - tanh_b * tanh_b)).to(of_b.dtype)
            gx = tl.where(axis == 0, of_value, of_a)
            gy = tl.where(axis == 1, of_value, tl.where(axis == 0, of_a, of_b))
            gz = tl.where(axis == 2, of_value, of_b)
        tl.store(of_points + index, gx, mask=there)
        tl.store(of_points + count + index, gy, mask=there)
        tl.store(of_points + 2 * count + index, gz, mask=there)
        tile += tl.num_programs(0)
