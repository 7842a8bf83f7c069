"""Shapes, textures and fragments as signed distances to an edge, negative inside.

Rotation and anti-aliased edges then cost nothing, and the pixels of an object are those whose
center lies inside. Distances are exact along straight and round edges; outside a corner they are
too short and say no more than "outside"."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.floating[Any]]  # float32 throughout: Python floats do not widen it
Edge = Callable[
    [Plane, Plane], Plane
]  # (u, v) -> signed distance, in the unit of u and v; v points down

# Shapes, in radii: each lies in (about) the unit circle and stands upright


def _length(u: Plane, v: Plane) -> Plane:
    return np.sqrt(u * u + v * v)


def _disc(u: Plane, v: Plane) -> Plane:
    return _length(u, v) - 0.92


def _square(u: Plane, v: Plane) -> Plane:
    distance: Plane = np.maximum(abs(u), abs(v)) - 0.74
    return distance


def _half_planes(u: Plane, v: Plane, count: int) -> list[Plane]:
    """Project (u, v) on `count` directions evenly round the circle, the first along v."""
    turns = [2 * math.pi * k / count for k in range(count)]
    return [v * math.cos(turn) + u * math.sin(turn) for turn in turns]


def _triangle(u: Plane, v: Plane) -> Plane:
    first, second, third = _half_planes(u, v, 3)
    return np.maximum(np.maximum(first, second), third) - 0.52


def _star(u: Plane, v: Plane) -> Plane:
    """Be inside at least four of the pentagram's five half-planes: the second largest distance
    counts.

    The circle round the tips ends them: beside so sharp a corner the half-planes alone would
    blur it over two pixels."""
    largest, *others = _half_planes(u, -v, 5)
    second = np.full_like(largest, -np.inf)
    for plane in others:
        second = np.maximum(second, np.minimum(largest, plane))
        largest = np.maximum(largest, plane)
    distance: Plane = np.maximum(second - 0.325, _length(u, v) - 0.325 / math.cos(2 * math.pi / 5))
    return distance


def _ring(u: Plane, v: Plane) -> Plane:
    return abs(_length(u, v) - 0.69) - 0.29


def _cross(u: Plane, v: Plane) -> Plane:
    across, along = abs(u), abs(v)
    short, long = np.minimum(across, along), np.maximum(across, along)
    distance: Plane = np.maximum(short - 0.32, long - 0.96)
    return distance


def _heart(u: Plane, v: Plane) -> Plane:
    """Unite two discs with the wedge of their outer tangents, which meet in the tip below."""
    across, tip, x, y, radius = abs(u), 0.97, 0.42, -0.37, 0.48
    half_angle = math.atan2(x, tip - y) + math.asin(radius / math.hypot(x, tip - y))
    wedge = across * math.cos(half_angle) + (v - tip) * math.sin(half_angle)
    distance: Plane = np.minimum(_length(across - x, v - y) - radius, np.maximum(wedge, -0.15 - v))
    return distance


def _crescent(u: Plane, v: Plane) -> Plane:
    distance: Plane = np.maximum(_length(u, v) - 1, 0.74 - _length(u - 0.52, v))
    return distance


SHAPES: dict[str, Edge] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
}

# Textures, in periods: the distance to the part in the second color


def _plain(u: Plane, v: Plane) -> Plane:
    return np.full_like(u, np.inf)


def _striped(u: Plane, v: Plane) -> Plane:
    return abs(u - np.floor(u) - 0.5) - 0.25


def _dotted(u: Plane, v: Plane) -> Plane:
    return _length(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5) - 0.31


TEXTURES: dict[str, Edge] = {"plain": _plain, "striped": _striped, "dotted": _dotted}

CLASS_NAMES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)

EDGES = tuple(
    (shape, texture) for shape in SHAPES.values() for texture in TEXTURES.values()
)  # by label


# Fragments, in radii: distractors, smaller than any object and of no class


def _bar(u: Plane, v: Plane) -> Plane:
    distance: Plane = np.maximum(abs(u) - 1, abs(v) - 0.25)
    return distance


def _half_disc(u: Plane, v: Plane) -> Plane:
    distance: Plane = np.maximum(_length(u, v) - 0.9, v)
    return distance


def _chevron(u: Plane, v: Plane) -> Plane:
    distance: Plane = np.maximum(abs(v - abs(u) + 0.4) - 0.3, abs(u) - 0.8)
    return distance


def _arc(u: Plane, v: Plane) -> Plane:
    distance: Plane = np.maximum(abs(_length(u, v) - 0.75) - 0.22, np.minimum(u, v))
    return distance


FRAGMENTS: tuple[Edge, ...] = (_bar, _half_disc, _chevron, _arc)
