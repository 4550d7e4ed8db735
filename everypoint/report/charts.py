"""Small charts as inline SVG: crisp at any size, a few kB each, coloured by the page's style sheet (dark and light).

A chart has no colours, scripts or styles of its own: series k carries the classes ``series s<k mod 8>``, which also
fix its dash pattern, so that series can be told apart without colour. Every text is escaped here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 40
MOST_POINTS = 240  # a longer series is averaged in buckets


@dataclass(frozen=True)
class Series:
    """One line or one colour of bars. Values may be None or NaN: a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    slot: int = 0  # which colour; equal for a preset in all charts of the page


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    y_range: tuple[float, float] | None = None,
    log_y: bool = False,
) -> Markup:
    """A line chart; empty markup without finite values. With ``log_y``, values that are not positive are gaps."""
    lines = [_clean(one, log_y) for one in series]
    lines = [one for one in lines if any(value is not None for value in one.y)]
    if not lines:
        return Markup("")
    values = [value for one in lines for value in one.y if value is not None]
    xs = [x for one in lines for x in one.x]
    low, high = y_range or (min(values) if log_y else min(0.0, *values), max(values))
    frame = _Frame((min(xs), max(xs)), (low, high), log_y)
    body = Markup("").join(_line(frame, one) for one in lines)
    marks = frame.x_axis(x_label) + frame.y_axis(y_label)
    return _svg(title, marks + body, lines)


def bar_chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Groups of bars: one group a label, one bar a series (``Series.x`` is not used); empty markup without values."""
    bars = [Series(one.name, [], [_finite(value) for value in one.y], one.slot) for one in series]
    bars = [one for one in bars if any(value is not None for value in one.y)]
    if not bars or not labels:
        return Markup("")
    top = max(value for one in bars for value in one.y if value is not None)
    frame = _Frame((-0.5, len(labels) - 0.5), y_range or (0.0, top), False)
    step = frame.width / len(labels)
    width = max(1.0, min(26.0, step * 0.78 / len(bars)))
    parts = []
    for k, one in enumerate(bars):
        for group, value in enumerate(one.y[: len(labels)]):
            if value is not None:
                x = frame.x(group) + (k - len(bars) / 2) * width
                parts.append(_bar(frame, one, labels[group], x, width - min(1.5, width * 0.15), value))
    every = math.ceil(len(labels) / 12)
    ticks = Markup("").join(_tick(frame.x(g), label) for g, label in enumerate(labels) if g % every == 0)
    marks = frame.y_axis(y_label) + ticks + _axis_title(x_label)
    return _svg(title, marks + Markup("").join(parts), bars, bars=True)


class _Frame:
    """The plotting area: data to SVG units, ticks and grid lines."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float], log_y: bool) -> None:
        self.log_y = log_y
        self.width, self.height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        self.x_low, self.x_high = _widened(*x_range)
        low, high = (math.log10(value) for value in y_range) if log_y else y_range
        self.y_low, self.y_high = _widened(low, high)
        if log_y:
            self.y_ticks = _log_ticks(self.y_low, self.y_high)
        else:
            self.y_ticks = _ticks(self.y_low, self.y_high)
            self.y_high = max(self.y_high, self.y_ticks[-1])

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * self.width

    def y(self, value: float) -> float:
        value = math.log10(value) if self.log_y else value
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return TOP + (1 - min(max(share, -0.02), 1.02)) * self.height

    def x_axis(self, label: str) -> Markup:
        whole = [value for value in _ticks(self.x_low, self.x_high, 6) if self.x_low <= value <= self.x_high]
        return Markup("").join(_tick(self.x(value), number(value)) for value in whole) + _axis_title(label)

    def y_axis(self, label: str) -> Markup:
        parts = []
        for tick in self.y_ticks:
            y = self.y(10**tick if self.log_y else tick)
            text = number(10**tick if self.log_y else tick)
            parts.append(
                Markup(
                    '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                    '<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
                ).format(LEFT, WIDTH - RIGHT, _n(y), _n(y), LEFT - 6, _n(y + 3.5), text)
            )
        middle = TOP + self.height / 2
        title = Markup(
            '<text class="axis" x="11" y="{y}" text-anchor="middle" transform="rotate(-90 11 {y})">{text}</text>'
        )
        return Markup("").join(parts) + title.format(y=_n(middle), text=label)


def _line(frame: _Frame, one: Series) -> Markup:
    """The line in runs between gaps; a run of one point is a dot."""
    paths, dots, run = [], [], []
    for x, y in [*zip(one.x, one.y, strict=True), (0.0, None)]:
        if y is not None:
            run.append(f"{_n(frame.x(x))} {_n(frame.y(y))}")
        elif run:
            if len(run) == 1:
                dots.append(run[0].split())
            else:
                paths.append("M" + "L".join(run))
            run = []
    title = Markup("<title>{}</title>").format(one.name)
    body = Markup('<path class="line" d="{}">{}</path>').format("".join(paths), title) if paths else Markup("")
    for x, y in dots:
        body += Markup('<circle class="dot" cx="{}" cy="{}" r="2.5">{}</circle>').format(x, y, title)
    return Markup('<g class="series s{}">{}</g>').format(one.slot % 8, body)


def _bar(frame: _Frame, one: Series, label: str, x: float, width: float, value: float) -> Markup:
    top = frame.y(value)
    shape = (
        '<rect class="bar series s{}" x="{}" y="{}" width="{}" height="{}" rx="1.5"><title>{}, {}: {}</title></rect>'
    )
    height = max(frame.y(frame.y_low) - top, 0.5)
    return Markup(shape).format(one.slot % 8, _n(x), _n(top), _n(width), _n(height), one.name, label, number(value))


def _tick(x: float, text: str) -> Markup:
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        _n(x), HEIGHT - BOTTOM + 15, text
    )


def _axis_title(text: str) -> Markup:
    x = LEFT + (WIDTH - LEFT - RIGHT) / 2
    return Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(_n(x), HEIGHT - 6, text)


def _svg(title: str, body: Markup, series: Sequence[Series], *, bars: bool = False) -> Markup:
    """The figure: heading, drawing with a text alternative, legend when there is more than one series."""
    names = ", ".join(one.name for one in series)
    legend = Markup("")
    if len(series) > 1:
        item = Markup('<li class="series s{}"><svg viewBox="0 0 22 8" aria-hidden="true">{}</svg>{}</li>')
        swatch = Markup('<path class="line" d="M1 4H21"/>')
        if bars:
            swatch = Markup('<rect class="bar" x="7" width="12" height="8" rx="1.5"/>')
        legend = Markup('<ul class="legend">{}</ul>').format(
            Markup("").join(item.format(one.slot % 8, swatch, one.name) for one in series)
        )
    drawing = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{title}; series: {names}", body
    )
    return Markup('<figure class="chart"><figcaption>{}</figcaption>{}{}</figure>').format(title, drawing, legend)


def _clean(one: Series, log_y: bool) -> Series:
    """Values that can be drawn, long series averaged in equal buckets."""
    y = [_finite(value) for value in one.y]
    if log_y:
        y = [value if value is not None and value > 0 else None for value in y]
    x = [float(value) for value in one.x]
    if len(y) > MOST_POINTS:
        edges = [round(k * len(y) / MOST_POINTS) for k in range(MOST_POINTS + 1)]
        spans = list(itertools.pairwise(edges))
        x, y = [_mean(x[a:b]) for a, b in spans], [_mean(y[a:b]) for a, b in spans]
    return Series(one.name, x, y, one.slot)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _finite(value: float | None) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) from below ``low`` to above ``high``."""
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Exponents of the labels of a logarithmic axis: powers of ten, with 2 and 5 between when there are few."""
    factors = (1,) if high - low > 2.5 else (1, 2, 5) if high - low > 0.5 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [power + math.log10(factor) for power in powers for factor in factors]
    return [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9] or [low, high]


def number(value: float) -> str:
    """A number as short as an axis wants it: 12.5, 0.002, 20k."""
    if abs(value) >= 10_000:
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= size:
                return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _n(value: float) -> str:
    """A coordinate with one decimal, without a trailing zero."""
    return f"{value:.1f}".removesuffix(".0")
