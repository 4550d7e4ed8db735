"""Flat shapes with an exact inside test, in their own plane's coordinates (u, v)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Shape(Protocol):
    """A region of a plane."""

    def inside(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Whether points belong to the shape (its border does), bool of the inputs' shape."""

    def hull(self) -> np.ndarray | None:
        """Points [K, 2] whose convex hull holds the shape; None for an unbounded one."""


@dataclass(frozen=True)
class Plane:
    """The whole plane."""

    def inside(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """True everywhere."""
        return np.ones(np.broadcast(u, v).shape, bool)

    def hull(self) -> None:
        """Unbounded."""


@dataclass(frozen=True)
class Disc:
    """A disc around the origin."""

    radius: float

    def inside(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """u^2 + v^2 <= radius^2."""
        return u * u + v * v <= self.radius**2

    def hull(self) -> np.ndarray:
        """The square around it."""
        return self.radius * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)


@dataclass(frozen=True)
class Rectangle:
    """A rectangle around the origin, 2 x half_width by 2 x half_height."""

    half_width: float
    half_height: float

    def inside(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """|u| <= half_width and |v| <= half_height."""
        return (np.abs(u) <= self.half_width) & (np.abs(v) <= self.half_height)

    def hull(self) -> np.ndarray:
        """The corners."""
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array([self.half_width, self.half_height])


@dataclass(frozen=True)
class Polygon:
    """A simple polygon, convex or not, by its corners in order."""

    corners: tuple[tuple[float, float], ...]

    def inside(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Even-odd rule: a ray towards +u crosses the border an odd number of times."""
        inside = np.zeros(np.broadcast(u, v).shape, bool)
        for (u0, v0), (u1, v1) in zip(self.corners, self.corners[1:] + self.corners[:1], strict=True):
            if v0 != v1:
                crossing = u0 + (v - v0) * ((u1 - u0) / (v1 - v0))
                inside ^= ((v0 > v) != (v1 > v)) & (u < crossing)
        return inside

    def hull(self) -> np.ndarray:
        """The corners."""
        return np.array(self.corners, np.float64)


def star(points: int, outer: float, inner: float) -> Polygon:
    """A star with ``points`` tips: a shape that is not convex."""
    angle = np.pi * np.arange(2 * points) / points
    radius = np.where(np.arange(2 * points) % 2 == 0, outer, inner)
    return Polygon(tuple(zip((radius * np.sin(angle)).tolist(), (-radius * np.cos(angle)).tolist(), strict=True)))
