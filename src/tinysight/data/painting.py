"""Paint a planned scene: ground, fragments, things, light and noise. Half a millisecond at 64x64 on
one core.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tinysight.data.outlines import EDGES, FRAGMENTS, Plane
from tinysight.data.scenes import (
    NATURAL_SIZE,
    Color,
    Scene,
    Stream,
    Window,
    distance_to_edge,
    draw_color,
    window_of,
)


def draw(scene: Scene) -> npt.NDArray[np.uint8]:
    """Draw a scene: ground, fragments, things, light, noise. uint8 (S, S, 3), about half a
    millisecond at 64x64.
    """
    canvas = _ground(scene)  # (3, S, S): a color a plane keeps numpy's inner loops long
    _scatter_fragments(canvas, scene)
    for thing in reversed(scene.things):  # the largest last, so that its own box is wholly visible
        window = window_of(thing.x, thing.y, thing.radius, scene.image_size)
        _, texture = EDGES[thing.label]
        u, v = window.turned(thing.grain_turn, thing.grain)
        phase_u, phase_v = thing.grain_phase
        second = _coverage(texture(u + phase_u, v + phase_v) * thing.grain)
        paint = _blend(_planes(thing.colors[0]), _planes(thing.colors[1]), second)
        _paint(canvas, window, _coverage(distance_to_edge(thing, window)), paint)
    _light(canvas, scene)
    np.rint(canvas, out=canvas)
    np.clip(canvas, 0, 255, out=canvas)
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 0))


def _coverage(distance: Plane) -> Plane:
    """Turn a signed distance in pixels into the share of the pixel that is covered."""
    share: Plane = np.clip(0.5 - distance, 0, 1)
    return share


def _planes(color: Color) -> Plane:
    return np.array(color, dtype=np.float32)[:, None, None]


def _blend(first: Plane, second: Plane, share: Plane) -> Plane:
    return first + (second - first) * share


def _paint(canvas: Plane, window: Window, coverage: Plane, color: Plane) -> None:
    part = canvas[:, window.rows, window.columns]
    part += (color - part) * coverage


def _ground(scene: Scene) -> Plane:
    """Mix two colors by a slope, one of four kinds of clutter and fine grain. (3, S, S) in [0, 1]."""
    stream = Stream(scene.seed, scene.split, scene.index, 1)
    size = scene.image_size
    steps = ((np.arange(size) + 0.5) / size).astype(np.float32)
    turn = 2 * math.pi * stream.uniform()
    slope = math.cos(turn) * (steps[None, :] - 0.5) + math.sin(turn) * (steps[:, None] - 0.5)
    clutter = (_clouds, _lines, _blobs, _waves)[stream.integer(0, 3)](stream, steps)
    grain = _lattice(stream, 20, size)
    share = (
        0.5
        + stream.uniform(0.2, 0.9) * slope
        + stream.uniform(0.4, 1.0) * (clutter - 0.5)
        + 0.25 * (grain - 0.5)
    )
    return _blend(
        _planes(scene.ground[0]), _planes(scene.ground[1]), np.clip(share, 0, 1).astype(np.float32)
    )


def _lattice(stream: Stream, knots: int, size: int) -> Plane:
    """Stretch random knots smoothly over the canvas: value noise in [0, 1], as two small matrix
    products.
    """
    place = (np.arange(size) + 0.5) / size * (knots - 1)
    left = np.minimum(place.astype(np.int64), knots - 2)
    step = place - left
    step = step * step * (3 - 2 * step)
    weights = np.zeros((size, knots), dtype=np.float32)
    weights[np.arange(size), left], weights[np.arange(size), left + 1] = 1 - step, step
    smooth: Plane = weights @ stream.array(knots, knots).astype(np.float32) @ weights.T
    return smooth


def _clouds(stream: Stream, steps: Plane) -> Plane:
    return _lattice(stream, stream.integer(3, 9), len(steps))


def _lines(stream: Stream, steps: Plane) -> Plane:
    """Cross the canvas with straight lines, lighter or darker than the rest."""
    plane = np.full((len(steps), len(steps)), 0.5, dtype=np.float32)
    for _ in range(stream.integer(4, 9)):
        turn = 2 * math.pi * stream.uniform()
        x, y, width = stream.uniform(), stream.uniform(), stream.uniform(0.008, 0.03)
        across = (steps[None, :] - x) * math.cos(turn) + (steps[:, None] - y) * math.sin(turn)
        strength = stream.uniform(-0.5, 0.5)
        plane += strength * _coverage((abs(across) - width) * len(steps))
    return plane


def _blobs(stream: Stream, steps: Plane) -> Plane:
    """Put soft spots: without an edge, so that none passes for a disc."""
    plane = np.full((len(steps), len(steps)), 0.5, dtype=np.float32)
    for _ in range(stream.integer(4, 10)):
        x, y, radius = stream.uniform(), stream.uniform(), stream.uniform(0.08, 0.3)
        nearness = 1 - ((steps[None, :] - x) ** 2 + (steps[:, None] - y) ** 2) / (radius * radius)
        plane += stream.uniform(-0.7, 0.7) * np.maximum(nearness, 0).astype(np.float32) ** 2
    return plane


def _waves(stream: Stream, steps: Plane) -> Plane:
    turn, bend, count = (
        2 * math.pi * stream.uniform(),
        stream.uniform(0, 0.25),
        stream.uniform(2, 7),
    )
    along = steps[None, :] * math.cos(turn) + steps[:, None] * math.sin(turn)
    across = steps[:, None] * math.cos(turn) - steps[None, :] * math.sin(turn)
    wave: Plane = (
        0.5 + 0.5 * np.sin(2 * math.pi * (count * (across + bend * along * along)))
    ).astype(np.float32)
    return wave


def _scatter_fragments(canvas: Plane, scene: Scene) -> None:
    """Strew small pieces of no class, in colors drawn like the things'."""
    stream = Stream(scene.seed, scene.split, scene.index, 2)
    scale = scene.image_size / NATURAL_SIZE
    for _ in range(stream.integer(1, 5)):
        edge = FRAGMENTS[stream.integer(0, len(FRAGMENTS) - 1)]
        x, y = (stream.uniform(0, scene.image_size) for _ in range(2))
        radius, turn = scale * stream.uniform(2.5, 6), stream.uniform()
        window = window_of(x, y, 1.3 * radius, scene.image_size)
        distance = edge(*window.turned(turn, radius)) * radius
        _paint(canvas, window, _coverage(distance), _planes(draw_color(stream, 0.1, 0.95)))


def _light(canvas: Plane, scene: Scene) -> None:
    """Shade from one side, set brightness and contrast, add noise; from [0, 1] to gray levels, in
    place.
    """
    stream = Stream(scene.seed, scene.split, scene.index, 3)
    size = scene.image_size
    contrast, brightness = stream.uniform(0.7, 1.1), stream.uniform(-0.12, 0.12)
    turn, slope = 2 * math.pi * stream.uniform(), stream.uniform(0, 0.7)
    steps = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    shade = steps[None, :] * (slope * math.cos(turn)) + steps[:, None] * (slope * math.sin(turn))
    canvas *= (1 + shade) * (255 * contrast)
    canvas += 255 * (0.5 + brightness - 0.5 * contrast)
    noise = stream.bytes(2 * canvas.size).reshape(2, *canvas.shape)
    spread = stream.uniform(1, 7) / 104.5  # 104.5: the deviation of a sum of two bytes
    canvas += (noise[0].astype(np.float32) + noise[1] - 255) * spread
