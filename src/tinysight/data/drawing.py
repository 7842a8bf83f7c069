"""Drawn scenes: objects of 8 shapes x 3 textures over clutter, with exact masks and boxes.

Scene `index` of a split is a function of (seed, split, index), its size and its number of objects,
not of how many others are drawn. Its numbers are the raw output of counter-based Philox generators,
which numpy promises never to change, scaled by plain arithmetic: what a scene holds is the same on
every platform, its pixels are the same within one gray level. Colors are drawn alike for all
classes, so that color does not give the class away.

Shapes, textures and fragments are signed distances to an edge, negative inside: rotation and
anti-aliased edges then cost nothing, and an object's pixels are those whose center lies inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinysight.data.dataset import SPLITS

NATURAL_SIZE = 64  # lengths in `plan` are in pixels of a 64x64 scene and grow with the image size

Color = tuple[float, float, float]  # RGB in [0, 1]
Plane = npt.NDArray[np.floating[Any]]  # float32 (S, S): Python floats do not widen it
Edge = Callable[[Plane, Plane], Plane]  # (u, v) -> signed distance, in their unit; v points down


class CounterRng:
    """Random numbers for one purpose of one scene, from raw Philox output.

    numpy keeps the raw output of a bit generator forever, but not that of its distributions.
    """

    def __init__(self, seed: int, split: str, index: int, purpose: int) -> None:
        key = [seed, (SPLITS.index(split) << 56) | (index << 8) | purpose]
        self._generator = np.random.Philox(key=np.array(key, np.uint64))
        self._ready: list[float] = []

    def array(self, *shape: int) -> npt.NDArray[np.float64]:
        """Draw uniform numbers in [0, 1)."""
        raw = np.asarray(self._generator.random_raw(math.prod(shape)), np.uint64)
        numbers: npt.NDArray[np.float64] = (raw >> np.uint64(11)) * np.float64(2.0**-53)
        return numbers.reshape(shape)

    def bytes(self, count: int) -> npt.NDArray[np.uint8]:
        """Draw uniform bytes."""
        raw = np.asarray(self._generator.random_raw(-(-count // 8)), "<u8")
        return raw.view(np.uint8)[:count]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw one number from [low, high)."""
        if not self._ready:
            self._ready = self.array(128).tolist()[::-1]
        return low + (high - low) * self._ready.pop()

    def integer(self, low: int, high: int) -> int:
        """Draw one number from low to high, both included."""
        return min(high, int(self.uniform(low, high + 1)))


def _radius(u: Plane, v: Plane) -> Plane:
    return np.sqrt(u * u + v * v)


def _half_planes(u: Plane, v: Plane, count: int) -> Plane:
    """Project (u, v) on `count` directions evenly around the circle, the first along v; sorted."""
    turns = [2 * math.pi * k / count for k in range(count)]
    return np.sort([v * math.cos(turn) + u * math.sin(turn) for turn in turns], axis=0)


def _star(u: Plane, v: Plane) -> Plane:
    """Inside at least four of the pentagram's five half-planes, and inside the tips' circle."""
    fourth = _half_planes(u, -v, 5)[-2]
    distance: Plane = np.maximum(fourth - 0.325, _radius(u, v) - 0.325 / math.cos(2 * math.pi / 5))
    return distance


def _cross(u: Plane, v: Plane) -> Plane:
    across, along = abs(u), abs(v)
    return np.maximum(np.minimum(across, along) - 0.32, np.maximum(across, along) - 0.96)


def _heart(u: Plane, v: Plane) -> Plane:
    """Two discs and the wedge of their outer tangents, which meet in the tip below."""
    across, tip, x, y, radius = abs(u), 0.97, 0.42, -0.37, 0.48
    half_angle = math.atan2(x, tip - y) + math.asin(radius / math.hypot(x, tip - y))
    wedge = across * math.cos(half_angle) + (v - tip) * math.sin(half_angle)
    distance: Plane = np.minimum(_radius(across - x, v - y) - radius, np.maximum(wedge, -0.15 - v))
    return distance


# In radii: each lies in about the unit circle and stands upright
SHAPES: dict[str, Edge] = {
    "disc": lambda u, v: _radius(u, v) - 0.92,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) - 0.74,
    "triangle": lambda u, v: _half_planes(u, v, 3)[-1] - 0.52,
    "star": _star,
    "ring": lambda u, v: abs(_radius(u, v) - 0.69) - 0.29,
    "cross": _cross,
    "heart": _heart,
    "crescent": lambda u, v: np.maximum(_radius(u, v) - 1, 0.74 - _radius(u - 0.52, v)),
}
# In periods: the distance to the part in the second color
TEXTURES: dict[str, Edge] = {
    "plain": lambda u, v: np.full_like(u, np.inf),
    "striped": lambda u, v: abs(u - np.floor(u) - 0.5) - 0.25,
    "dotted": lambda u, v: _radius(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5) - 0.31,
}
# In radii: distractors, smaller than any object and of no class
FRAGMENTS: tuple[Edge, ...] = (
    lambda u, v: np.maximum(abs(u) - 1, abs(v) - 0.25),  # bar
    lambda u, v: np.maximum(_radius(u, v) - 0.9, v),  # half disc
    lambda u, v: np.maximum(abs(v - abs(u) + 0.4) - 0.3, abs(u) - 0.8),  # chevron
    lambda u, v: np.maximum(abs(_radius(u, v) - 0.75) - 0.22, np.minimum(u, v)),  # arc
)
CLASS_NAMES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)
EDGES = tuple((shape, texture) for shape in SHAPES.values() for texture in TEXTURES.values())


@dataclass(frozen=True)
class Object:
    """One object: its class and how it lies. Lengths in pixels of the image, angles in turns."""

    label: int
    x: float
    y: float
    radius: float
    angle: float
    period: float  # of the texture
    texture_angle: float
    phase: tuple[float, float]  # of the texture, in periods
    colors: tuple[Color, Color]


@dataclass(frozen=True)
class Scene:
    """What is drawn: objects, the largest first, over a background between two colors."""

    seed: int
    split: str
    index: int
    image_size: int
    background: tuple[Color, Color]
    objects: tuple[Object, ...]

    @property
    def label(self) -> int:
        """The class of the first object, the one of the largest radius."""
        return self.objects[0].label


def plan(
    seed: int,
    split: str,
    index: int,
    image_size: int = NATURAL_SIZE,
    objects: tuple[int, int] = (1, 1),
) -> Scene:
    """Choose what scene `index` of a split holds, with (fewest, most) objects; classes in turn."""
    rng = CounterRng(seed, split, index, 0)
    scale = image_size / NATURAL_SIZE
    count = rng.integer(*objects)
    largest = max(25 / math.sqrt(count), 10)
    radii = sorted((scale * rng.uniform(9, largest) for _ in range(count)), reverse=True)
    labels = [index % len(CLASS_NAMES)]
    labels += [rng.integer(0, len(CLASS_NAMES) - 1) for _ in range(count - 1)]
    background = (_color(rng, 0.05, 0.55), _color(rng, 0.05, 0.55))
    placed: list[Object] = []
    for label, wanted in zip(labels, radii, strict=True):
        x, y, radius = _place(rng, wanted, 7 * scale, image_size, placed)
        first = _distinct_color(rng, background)
        angle, period = rng.uniform(-0.12, 0.12), max(radius * rng.uniform(0.5, 0.7), 5 * scale)
        texture = (rng.uniform(), (rng.uniform(), rng.uniform()))  # its angle and phase
        colors = (first, _distinct_color(rng, (first, *background)))
        placed.append(Object(label, x, y, radius, angle, period, *texture, colors))
    return Scene(seed, split, index, image_size, background, tuple(placed))


def _place(
    rng: CounterRng, wanted: float, least: float, size: int, others: list[Object]
) -> tuple[float, float, float]:
    """Place a circle: the first of 32 places with room, else the roomiest, shrunk to fit."""
    roomiest = (-math.inf, 0.0, 0.0)
    for _ in range(32):
        x, y = (rng.uniform(0.85 * wanted, size - 0.85 * wanted) for _ in range(2))
        rooms = (math.sqrt((x - o.x) ** 2 + (y - o.y) ** 2) - o.radius for o in others)
        roomiest = max(roomiest, (min(rooms, default=math.inf), x, y))
        if roomiest[0] >= wanted:
            break
    room, x, y = roomiest
    return x, y, max(min(wanted, room), least)


def _color(rng: CounterRng, least_saturation: float, most_saturation: float) -> Color:
    """Draw a color of any hue."""
    hue, saturation = rng.uniform(0, 6), rng.uniform(least_saturation, most_saturation)
    value = rng.uniform(0.15, 1.0)
    purity = [min(max(abs((hue + shift) % 6 - 3) - 1, 0.0), 1.0) for shift in (0, 4, 2)]
    red, green, blue = (value * (1 - saturation * (1 - share)) for share in purity)
    return red, green, blue


def _distinct_color(rng: CounterRng, others: tuple[Color, ...]) -> Color:
    """Draw six colors and take the one farthest from all others."""

    def distance(one: Color, other: Color) -> float:
        red, green, blue = (a - b for a, b in zip(one, other, strict=True))
        return 2 * red * red + 4 * green * green + 3 * blue * blue  # the eye's rough weights

    candidates = [_color(rng, 0.1, 0.95) for _ in range(6)]
    return max(candidates, key=lambda one: min(distance(one, other) for other in others))


def _frame(size: int, x: float, y: float, angle: float, unit: float) -> tuple[Plane, Plane]:
    """Return pixel centers (S, S) in a frame around (x, y), turned, in lengths of `unit` pixels."""
    centers = np.arange(size) + 0.5
    dx, dy = (centers - x).astype(np.float32)[None], (centers - y).astype(np.float32)[:, None]
    cos, sin = math.cos(2 * math.pi * angle) / unit, math.sin(2 * math.pi * angle) / unit
    return dx * cos + dy * sin, dy * cos - dx * sin


def _distance(item: Object, size: int) -> Plane:
    """Return the signed distance in pixels (S, S) to an object's edge, negative inside."""
    shape, _ = EDGES[item.label]
    return shape(*_frame(size, item.x, item.y, item.angle, item.radius)) * item.radius


def mask(item: Object, size: int) -> npt.NDArray[np.bool_]:
    """Mark the pixels whose center lies inside an object, (S, S)."""
    inside: npt.NDArray[np.bool_] = _distance(item, size) < 0
    return inside


def boxes(scene: Scene) -> npt.NDArray[np.float32]:
    """Return the tight half-open box of each object's own pixels in the image, (objects, 4).

    What another object hides still counts; what lies beyond the image does not.
    """
    found = []
    for item in scene.objects:
        inside = mask(item, scene.image_size)
        columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
        assert len(columns), f"an object without pixels: {item}"
        found.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.array(found, np.float32)


def draw(scene: Scene) -> npt.NDArray[np.uint8]:
    """Draw a scene as uint8 (S, S, 3): background, fragments, objects, light, noise."""
    size = scene.image_size
    rng = CounterRng(scene.seed, scene.split, scene.index, 1)
    share = np.clip(_background(rng, size), 0, 1)
    canvas = _blend(_planes(scene.background[0]), _planes(scene.background[1]), share)  # (3, S, S)
    for _ in range(rng.integer(1, 5)):
        edge = FRAGMENTS[rng.integer(0, len(FRAGMENTS) - 1)]
        x, y, angle = rng.uniform(0, size), rng.uniform(0, size), rng.uniform()
        radius = rng.uniform(2.5, 6) * size / NATURAL_SIZE
        coverage = _coverage(edge(*_frame(size, x, y, angle, radius)) * radius)
        canvas = _blend(canvas, _planes(_color(rng, 0.1, 0.95)), coverage)
    for item in reversed(scene.objects):  # the largest last: its own box is fully visible
        _, texture = EDGES[item.label]
        u, v = _frame(size, item.x, item.y, item.texture_angle, item.period)
        second = _coverage(texture(u + item.phase[0], v + item.phase[1]) * item.period)
        paint = _blend(_planes(item.colors[0]), _planes(item.colors[1]), second)
        canvas = _blend(canvas, paint, _coverage(_distance(item, size)))
    pixels = np.clip(np.rint(_light(rng, canvas)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _coverage(distance: Plane) -> Plane:
    """Turn a signed distance in pixels into the share of the pixel that is covered."""
    share: Plane = np.clip(0.5 - distance, 0, 1)
    return share


def _planes(color: Color) -> Plane:
    return np.array(color, np.float32)[:, None, None]


def _blend(first: Plane, second: Plane, share: Plane) -> Plane:
    return first + (second - first) * share


def _background(rng: CounterRng, size: int) -> Plane:
    """Mix a slope, one of three kinds of clutter, and fine grain: the second color's share."""
    slope, _ = _frame(size, size / 2, size / 2, rng.uniform(), size)
    clutter = (_clouds, _lines, _waves)[rng.integer(0, 2)](rng, size)
    share = 0.5 + rng.uniform(0.2, 0.9) * slope + rng.uniform(0.4, 1.0) * clutter
    plane: Plane = share + 0.25 * _lattice(rng, 20, size)
    return plane


def _lattice(rng: CounterRng, knots: int, size: int) -> Plane:
    """Stretch random knots smoothly over the image: value noise in [-0.5, 0.5]."""
    place = (np.arange(size) + 0.5) / size * (knots - 1)
    left = np.minimum(place.astype(np.int64), knots - 2)
    step = place - left
    weights = np.zeros((size, knots), np.float32)
    weights[np.arange(size), left + 1] = step * step * (3 - 2 * step)
    weights[np.arange(size), left] = 1 - weights[np.arange(size), left + 1]
    smooth: Plane = weights @ (rng.array(knots, knots).astype(np.float32) - 0.5) @ weights.T
    return smooth


def _clouds(rng: CounterRng, size: int) -> Plane:
    return _lattice(rng, rng.integer(3, 9), size)


def _lines(rng: CounterRng, size: int) -> Plane:
    """Cross the image with straight lines, lighter or darker than the rest."""
    plane = np.zeros((size, size), np.float32)
    for _ in range(rng.integer(4, 9)):
        across, _ = _frame(size, rng.uniform(0, size), rng.uniform(0, size), rng.uniform(), 1)
        width, strength = size * rng.uniform(0.008, 0.03), rng.uniform(-0.5, 0.5)
        plane += strength * _coverage(abs(across) - width)
    return plane


def _waves(rng: CounterRng, size: int) -> Plane:
    along, across = _frame(size, 0, 0, rng.uniform(), size)
    bend, count = rng.uniform(0, 0.25), rng.uniform(2, 7)
    return 0.5 * np.sin(2 * math.pi * count * (across + bend * along * along))


def _light(rng: CounterRng, canvas: Plane) -> Plane:
    """Shade from one side, set brightness and contrast, add noise; from [0, 1] to gray levels."""
    size = canvas.shape[1]
    contrast, brightness = rng.uniform(0.7, 1.1), rng.uniform(-0.12, 0.12)
    shade, _ = _frame(size, size / 2, size / 2, rng.uniform(), size)
    lit = canvas * (1 + rng.uniform(0, 0.7) * shade) * (255 * contrast)
    spread = rng.uniform(1, 7) / 104.5  # 104.5: the standard deviation of a sum of two bytes
    noise = rng.bytes(2 * canvas.size).reshape(2, *canvas.shape)
    lit += 255 * (0.5 + brightness - 0.5 * contrast)
    plane: Plane = lit + (noise[0].astype(np.float32) + noise[1] - 255) * spread
    return plane
