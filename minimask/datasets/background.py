"""Backgrounds, textures, shadows and light."""

from functools import lru_cache

import numpy as np
from PIL import Image

from minimask.datasets.shapes import COATS, COLLARS, PLUMAGE
from minimask.device import generator

GROUND = ((110, 140, 74), (146, 152, 92), (186, 166, 126), (150, 122, 92), (128, 132, 130), (92, 118, 104))
SKY = ((168, 200, 224), (206, 218, 222), (232, 208, 178), (130, 158, 190), (190, 196, 176), (112, 136, 128))


def any_color(rng):
    colors = (COATS, PLUMAGE, (COLLARS,), (GROUND,))[rng.integers(4)]
    triple = colors[rng.integers(len(colors))]
    return triple[rng.integers(3)]


@lru_cache
def _tile(kind):
    """A square of seamless noise, about -2 to 2, as a Pillow float picture. It is made once and then cut from."""
    side = 512
    rng = generator(7, {"clouds": 0, "fur": 1}[kind])
    fy, fx = np.meshgrid(np.fft.fftfreq(side) * side, np.fft.rfftfreq(side) * side, indexing="ij")
    if kind == "clouds":  # the amplitude falls with the frequency
        strength = 1 / np.maximum(4, np.hypot(fx, fy)) ** 1.3
    else:  # short strokes, longer in the vertical direction
        strength = np.exp(-((fx / 110) ** 2) - (fy / 40) ** 2)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * strength, (side, side))
    noise = np.round(noise / noise.std() * 64) / 64  # the same numbers, however a machine rounds
    return Image.fromarray(noise.astype(np.float32))


def texture(rng, kind, height, width, extent):
    """Noise (height, width) float32 from a random place of the tile. The longer side shows `extent` tile pixels."""
    tile = _tile(kind)
    extent = min(extent, tile.width)
    w, h = extent * width / max(height, width), extent * height / max(height, width)
    x, y = rng.uniform(0, tile.width - w), rng.uniform(0, tile.height - h)
    return np.array(tile.resize((width, height), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h)))


def background(rng, size):
    """Two colors mixed by one of several patterns, with soft noise on top. Returns (3, S, S) float32."""
    kind = rng.integers(6)
    first, second = (np.array(c, np.float32) for c in _two_colors(rng, kind))
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j].astype(np.float32)
    clouds = texture(rng, "clouds", size, size, rng.uniform(60, 500))
    angle = rng.uniform(0, np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))

    if kind <= 1:  # a landscape: sky above a wavy horizon
        horizon = rng.uniform(0.1, 0.5) + 0.04 * clouds[size // 2]
        mix = np.clip((y - horizon) * np.float32(size / 2), 0, 1)
        mix = mix * (0.85 + 0.15 * y)
    elif kind == 2:  # stripes
        mix = 0.5 + 0.5 * np.clip(4 * np.sin(along * np.float32(2 * np.pi * rng.uniform(3, 14))), -1, 1)
    elif kind == 3:  # tiles
        across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
        count = np.float32(np.pi * rng.uniform(2, 8))
        mix = 0.5 + 0.5 * np.clip(6 * np.sin(along * count) * np.sin(across * count), -1, 1)
    elif kind == 4:  # blots
        mix = np.clip(3 * clouds, -1, 1) * 0.5 + 0.5
    else:  # one color that gradually becomes another
        mix = np.clip(along, 0, 1)
    mix = mix * np.float32(rng.uniform(0.5, 1)) if kind > 1 else mix

    canvas = first[:, None, None] + (second - first)[:, None, None] * mix
    grain = texture(rng, "fur" if rng.random() < 0.5 else "clouds", size, size, rng.uniform(100, 400))
    canvas += (clouds * np.float32(rng.uniform(2, 14)) + grain * np.float32(rng.uniform(2, 12)))[None]
    return canvas


def _two_colors(rng, kind):
    if kind <= 1 or rng.random() < 0.4:
        pair = SKY[rng.integers(len(SKY))], GROUND[rng.integers(len(GROUND))]
    else:
        pair = any_color(rng), any_color(rng)
    return [np.clip(color + rng.uniform(-15, 15, 3), 10, 250) for color in pair]


@lru_cache
def _spot():
    """A round spot that fades toward its edge, as a Pillow float picture."""
    y, x = np.mgrid[-1:1:33j, -1:1:33j]
    return Image.fromarray(np.clip(1.1 * (1 - np.hypot(x, y)), 0, 0.8).astype(np.float32))


def paint_scene(scene, rng):
    """Blend the layers of a scene from back to front, then add the light and the camera's noise. In place."""
    shadow = rng.uniform(0, 0.6)
    for sprite in scene.layers:
        (rows, columns), own = sprite.windows(scene.size)
        if sprite.label and shadow > 0.1:
            _paint_shadow(scene, sprite, shadow)
        target = scene.canvas[:, rows, columns]
        target *= 1 - sprite.alpha[own]
        target += sprite.color[:, own[0], own[1]]
    scene.canvas *= _light(rng, scene.size)
    scene.canvas *= rng.uniform(0.92, 1.1, (3, 1, 1)).astype(np.float32)
    noise = np.frombuffer(rng.bytes(scene.canvas.size), np.int8).reshape(scene.canvas.shape)
    scene.canvas += noise * np.float32(rng.uniform(0, 0.09))


def _paint_shadow(scene, sprite, strength):
    """Darken a soft spot on the ground under an animal."""
    height, width = sprite.solid.shape
    w, h = max(2, width), max(2, height // 4)
    left, top = sprite.left + (width - w) // 2, sprite.top + height - (2 * h) // 3
    x1, x2, y1, y2 = max(0, left), min(scene.size, left + w), max(0, top), min(scene.size, top + h)
    if x1 < x2 and y1 < y2:
        spot = np.asarray(_spot().resize((w, h), Image.Resampling.BILINEAR))
        scene.canvas[:, y1:y2, x1:x2] *= 1 - np.float32(strength) * spot[y1 - top : y2 - top, x1 - left : x2 - left]


def _light(rng, size):
    """Brightness (S, S): a gradual change in one direction, and sometimes the edge of a large shadow."""
    angle, change = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    along = np.linspace(-1, 1, size, dtype=np.float32)
    position = along * np.float32(np.cos(angle)) + along[:, None] * np.float32(np.sin(angle))
    light = np.float32(rng.uniform(0.9, 1.12)) + np.float32(change) * position
    if rng.random() < 0.35:
        edge, darkness = rng.uniform(-0.6, 0.6), rng.uniform(0.2, 0.45)
        angle = rng.uniform(0, 2 * np.pi)
        position = along * np.float32(np.cos(angle)) + along[:, None] * np.float32(np.sin(angle))
        light *= 1 - np.float32(darkness) * np.clip((position - np.float32(edge)) * 8, 0, 1)
    return light
