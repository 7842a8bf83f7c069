"""Plan the scenes of `shapes`: what they hold, and the exact masks and boxes of it.

Scene `index` of a split is a function of (seed, split, index) and the scene's form (size, number
of objects) alone, not of how many others are drawn. Its numbers are the raw output of
counter-based Philox generators, which numpy promises never to change, scaled by plain
arithmetic: what a scene holds is the same on every platform, its pixels are so within one gray
level. Colors are drawn alike for all classes, so that color tells no class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import SPLITS
from tinysight.data.outlines import CLASS_NAMES, EDGES, Plane

NATURAL_SIZE = 64  # lengths below are in pixels of a 64x64 scene and grow with image_size

Color = tuple[float, float, float]  # RGB in [0, 1]


class Stream:
    """The numbers of one purpose of one scene: raw Philox output, scaled here.

    numpy keeps the raw output of a bit generator for ever, but not what its distributions make
    of it."""

    def __init__(self, seed: int, split: str, index: int, purpose: int) -> None:
        key = np.array(
            [seed, (SPLITS.index(split) << 56) | (index << 8) | purpose], dtype=np.uint64
        )
        self._generator = np.random.Philox(key=key)
        self._ready: list[float] = []

    def array(self, *shape: int) -> npt.NDArray[np.float64]:
        """Draw uniform numbers in [0, 1)."""
        raw = np.asarray(self._generator.random_raw(math.prod(shape)), dtype=np.uint64)
        numbers: npt.NDArray[np.float64] = (raw >> np.uint64(11)) * np.float64(2.0**-53)
        return numbers.reshape(shape)

    def bytes(self, count: int) -> npt.NDArray[np.uint8]:
        raw = np.asarray(self._generator.random_raw(-(-count // 8)), dtype="<u8")
        return raw.view(np.uint8)[:count]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        if not self._ready:
            self._ready = self.array(128).tolist()[::-1]
        return low + (high - low) * self._ready.pop()

    def integer(self, low: int, high: int) -> int:
        """Draw from [low, high], both included."""
        return min(high, int(self.uniform(low, high + 1)))


@dataclass(frozen=True)
class Thing:
    """One object: its class and how it lies. Lengths in pixels of the image, angles in turns."""

    label: int
    x: float
    y: float
    radius: float
    turn: float
    grain: float  # period of the texture
    grain_turn: float
    grain_phase: tuple[float, float]  # in periods
    colors: tuple[Color, Color]


@dataclass(frozen=True)
class Scene:
    """What is drawn: things, the one of the largest radius first, over a ground between two colors."""

    seed: int
    split: str
    index: int
    image_size: int
    ground: tuple[Color, Color]
    things: tuple[Thing, ...]

    @property
    def label(self) -> int:
        """The class of the first thing, the one of the largest radius."""
        return self.things[0].label


def plan(
    seed: int,
    split: str,
    index: int,
    *,
    image_size: int = NATURAL_SIZE,
    objects: tuple[int, int] = (1, 1),
) -> Scene:
    """Choose what scene `index` of a split holds; its label is `index % 24`, so that classes are
    balanced.
    """
    stream = Stream(seed, split, index, 0)
    scale = image_size / NATURAL_SIZE
    count = stream.integer(*objects)
    largest = max(25 / math.sqrt(count), 10)
    radii = sorted((scale * stream.uniform(9, largest) for _ in range(count)), reverse=True)
    labels = [index % len(CLASS_NAMES)] + [
        stream.integer(0, len(CLASS_NAMES) - 1) for _ in range(count - 1)
    ]
    ground = (draw_color(stream, 0.05, 0.55), draw_color(stream, 0.05, 0.55))
    things: list[Thing] = []
    for label, wanted in zip(labels, radii, strict=True):
        x, y, radius = _place(stream, wanted, 7 * scale, image_size, things)
        first = _distinct_color(stream, ground)
        things.append(
            Thing(
                label=label,
                x=x,
                y=y,
                radius=radius,
                turn=stream.uniform(-0.12, 0.12),
                grain=max(radius * stream.uniform(0.5, 0.7), 5 * scale),
                grain_turn=stream.uniform(),
                grain_phase=(stream.uniform(), stream.uniform()),
                colors=(first, _distinct_color(stream, (first, *ground))),
            )
        )
    return Scene(
        seed=seed,
        split=split,
        index=index,
        image_size=image_size,
        ground=ground,
        things=tuple(things),
    )


def _place(
    stream: Stream, wanted: float, least: float, size: int, others: list[Thing]
) -> tuple[float, float, float]:
    """Find room for a circle: the first of 32 places that has it, else the roomiest of them, shrunk
    to fit.
    """
    roomiest = (-math.inf, 0.0, 0.0)
    for _ in range(32):
        x, y = (stream.uniform(0.85 * wanted, size - 0.85 * wanted) for _ in range(2))
        room = min(
            (math.sqrt((x - o.x) ** 2 + (y - o.y) ** 2) - o.radius for o in others),
            default=math.inf,
        )
        roomiest = max(roomiest, (room, x, y))
        if room >= wanted:
            break
    room, x, y = roomiest
    return x, y, max(min(wanted, room), least)


def draw_color(stream: Stream, least_saturation: float, most_saturation: float) -> Color:
    """Draw a color of any hue, RGB in [0, 1]."""
    hue, saturation = stream.uniform(0, 6), stream.uniform(least_saturation, most_saturation)
    value = stream.uniform(0.15, 1.0)

    def channel(offset: int) -> float:
        purity = min(max(abs((hue + offset) % 6 - 3) - 1, 0.0), 1.0)
        return value * (1 - saturation * (1 - purity))

    return channel(0), channel(4), channel(2)


def _distinct_color(stream: Stream, others: tuple[Color, ...]) -> Color:
    """Draw six colors and take the one farthest from all others."""

    def distance(one: Color, other: Color) -> float:
        red, green, blue = (a - b for a, b in zip(one, other, strict=True))
        return 2 * red * red + 4 * green * green + 3 * blue * blue  # the eye's rough weights

    candidates = [draw_color(stream, 0.1, 0.95) for _ in range(6)]
    return max(candidates, key=lambda one: min(distance(one, other) for other in others))


@dataclass(frozen=True)
class Window:
    """The part of a canvas that a thing can touch, with pixel centers relative to the thing's
    center.
    """

    rows: slice
    columns: slice
    dx: Plane  # (1, width)
    dy: Plane  # (height, 1)

    def turned(self, turn: float, unit: float) -> tuple[Plane, Plane]:
        """Express pixel centers in a frame turned by `turn`, in lengths of `unit` pixels."""
        cos, sin = math.cos(2 * math.pi * turn) / unit, math.sin(2 * math.pi * turn) / unit
        u = self.dx * cos + self.dy * sin
        v = self.dy * cos - self.dx * sin
        return u, v


def window_of(x: float, y: float, radius: float, size: int) -> Window:
    def pixels(center: float) -> tuple[slice, Plane]:
        start, stop = (
            max(0, math.floor(center - 1.1 * radius) - 1),
            min(size, math.ceil(center + 1.1 * radius) + 1),
        )
        return slice(start, stop), (np.arange(start, stop) + (0.5 - center)).astype(np.float32)

    (rows, dy), (columns, dx) = pixels(y), pixels(x)
    return Window(rows=rows, columns=columns, dx=dx[None, :], dy=dy[:, None])


def distance_to_edge(thing: Thing, window: Window) -> Plane:
    """Give the signed distance in pixels from each pixel center to the thing's edge, negative
    inside.
    """
    shape, _ = EDGES[thing.label]
    return shape(*window.turned(thing.turn, thing.radius)) * thing.radius


def mask(thing: Thing, image_size: int) -> npt.NDArray[np.bool_]:
    """Mark the pixels whose center lies inside the thing, (S, S)."""
    window = window_of(thing.x, thing.y, thing.radius, image_size)
    inside = np.zeros((image_size, image_size), dtype=np.bool_)
    inside[window.rows, window.columns] = distance_to_edge(thing, window) < 0
    return inside


def boxes(scene: Scene) -> npt.NDArray[np.float32]:
    """Give the tight half-open box (x0, y0, x1, y1) of each thing's own pixels on the canvas,
    (len(things), 4).

    What another thing hides still counts; what lies beyond the canvas does not.
    """
    found = []
    for thing in scene.things:
        window = window_of(thing.x, thing.y, thing.radius, scene.image_size)
        inside = distance_to_edge(thing, window) < 0
        columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
        assert len(columns), f"a thing without pixels: {thing}"
        left, top = window.columns.start, window.rows.start
        found.append((left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1))
    return np.array(found, dtype=np.float32)
