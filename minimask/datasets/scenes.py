"""A drawn scene: layers from back to front, placed so that at least half of each animal stays visible.

A scene consists of a textured background, clutter in the animals' colors, the animals in the order in which they
stand, and things that hide parts of them; light and the camera's noise come last.
"""

from dataclasses import dataclass

import numpy as np

from minimask.datasets.animals import CLASSES
from minimask.datasets.background import any_color, background, paint_scene
from minimask.datasets.shapes import Drawing, circle
from minimask.datasets.sprites import animal_sprite, rasterize

CASES = (None, "crowded", "disconnected", "small")
SMALLEST, LARGEST = 1 / 8, 2 / 3  # longest side of an animal, as a fraction of the image's side
TRIES = 12  # places to try before an object is made smaller and, after as many again, left out


@dataclass
class Scene:
    size: int
    canvas: np.ndarray  # (3, S, S) float32
    layers: list  # _Sprites from back to front
    owner: np.ndarray  # (S, S) int16: the layer that a pixel shows, or -1 for the background
    areas: list  # number of solid pixels of each layer, including those outside the image

    def fits(self, sprite, inside=0.85):
        """Whether each animal stays at least half visible with `sprite` in front, and most of it lies in the image."""
        windows = sprite.windows(self.size)
        if windows is None:
            return False
        solid = sprite.solid[windows[1]]
        if sprite.label and solid.sum() < max(8, inside * sprite.solid.sum()):
            return False
        before = np.bincount(self.owner.ravel() + 1, minlength=len(self.layers) + 1)[1:]
        hidden = np.bincount(self.owner[windows[0]][solid] + 1, minlength=len(self.layers) + 1)[1:]
        return all(
            2 * (b - h) >= area for layer, b, h, area in zip(self.layers, before, hidden, self.areas) if layer.label
        )

    def add(self, sprite):
        """Put `sprite` in front of everything else."""
        scene, own = sprite.windows(self.size)
        self.owner[scene][sprite.solid[own]] = len(self.layers)
        self.areas.append(int(sprite.solid.sum()))
        self.layers.append(sprite)


def draw_scene(rng, size, case):
    """Draw a Scene of `size` x `size` pixels. case: one of CASES."""
    scene = Scene(size, background(rng, size), [], np.full((size, size), -1, np.int16), [])
    for _ in range(rng.integers(0, 7)):
        _place_clutter(scene, rng)
    if case == "crowded":
        _place_crowd(scene, rng)
    else:
        _place_animals(scene, rng, *_sizes(rng, case))
    if not any(sprite.label for sprite in scene.layers):  # no place was found, but one in the middle always fits
        sprite = animal_sprite(rng, rng.integers(1, len(CLASSES) + 1), 0.4 * size)
        _find_place(scene, rng, sprite, lambda: (size - np.array(sprite.solid.shape[::-1])) / 2)
    if case == "disconnected":
        _cut_in_pieces(scene, rng)
    elif rng.random() < 0.35:
        _place_in_front(scene, rng)
    paint_scene(scene, rng)
    return scene


def _sizes(rng, case):
    """How many animals there are, and limits for their longest side as a fraction of the image's side."""
    if case == "small":
        return rng.integers(3, 7), 0.09, 0.17
    if case == "disconnected":
        return rng.integers(1, 3), 0.4, LARGEST
    count = rng.integers(1, 7)
    return count, SMALLEST, LARGEST if count < 4 else 0.55


def _place_animals(scene, rng, count, smallest, largest):
    """Place animals of sizes spread evenly on a logarithmic scale. One that stands lower is in front of the others."""
    for stand in np.sort(rng.random(count)):
        label = rng.integers(1, len(CLASSES) + 1)
        longest = scene.size * np.exp(rng.uniform(np.log(smallest), np.log(largest)))
        for shrink in (1, 0.7):
            sprite = animal_sprite(rng, label, max(shrink * longest, smallest * scene.size))
            if _find_place(scene, rng, sprite, lambda sprite=sprite, stand=stand: _anywhere(scene, rng, sprite, stand)):
                break


def _anywhere(scene, rng, sprite, stand):
    height, width = sprite.solid.shape
    x = rng.uniform(-0.12 * width, scene.size - 0.88 * width)
    y = (stand + rng.uniform(-0.1, 0.1)) * (scene.size - 0.8 * height) - 0.1 * height
    return x, y


def _find_place(scene, rng, sprite, spot):
    """Try the places that spot() returns until `sprite` fits. Returns True if it was added."""
    for _ in range(TRIES):
        sprite.left, sprite.top = (int(v) for v in np.floor(spot()))
        if scene.fits(sprite):
            scene.add(sprite)
            return True
    return False


def _place_crowd(scene, rng):
    """Place one animal in the middle and four or five of its category close around it (slide T20)."""
    size, label, around = scene.size, rng.integers(1, len(CLASSES) + 1), rng.integers(4, 6)
    longest = rng.uniform(0.3, 0.4) * size
    angles = rng.uniform(0, 2 * np.pi) + np.arange(around) * (2 * np.pi / around)
    offsets = np.concatenate([[(0, 0)], np.stack([np.cos(angles), 0.75 * np.sin(angles)], 1) * 0.8 * longest])
    center = size * rng.uniform(0.45, 0.55, 2)
    for offset in offsets[np.argsort(offsets[:, 1], kind="stable")]:
        sprite = animal_sprite(rng, label, longest * rng.uniform(0.8, 1.1))
        middle = center + offset - np.array(sprite.solid.shape[::-1]) / 2

        def spot(middle=middle):
            return middle + rng.uniform(-0.15, 0.15, 2) * longest

        _find_place(scene, rng, sprite, spot)


def _place_clutter(scene, rng):
    """Place something behind the animals that is not one of them but has their colors."""
    drawing, kind = Drawing(), rng.integers(5)
    color, second = any_color(rng), any_color(rng)
    if kind == 0:  # a polygon
        corners = circle(rng.integers(3, 8))
        drawing.paint(corners * rng.uniform(0.5, 1, (len(corners), 1)), color, bool(rng.integers(2)))
    elif kind == 1:  # an ellipse with a spot, like a head with an eye
        drawing.paint(circle(24) * (1, rng.uniform(0.4, 1)), color, bool(rng.integers(2)))
        drawing.paint(circle(12) * 0.2 + rng.uniform(-0.3, 0.3, 2), second)
    elif kind == 2:  # a star
        drawing.paint(circle(10) * np.tile([[1], [0.45]], (5, 1)), color, bool(rng.integers(2)))
    elif kind == 3:  # a tuft of stems, like whiskers or feathers
        _paint_stems(drawing, rng, color)
    else:  # two triangles on a block, like ears on a head
        drawing.paint(np.array([(-0.8, 0.2), (0.8, 0.2), (0.7, 0.9), (-0.7, 0.9)]), color, True)
        for x in (-0.8, 0.2):
            drawing.paint(np.array([(x, 0.2), (x + 0.6, 0.2), (x + 0.3, -0.7)]), second, True)
    longest = scene.size * rng.uniform(0.06, 0.35)
    sprite = rasterize(drawing, rng, rng.uniform(0, 2 * np.pi), longest=longest)
    sprite.left, sprite.top = (int(v) for v in rng.uniform(-0.3 * longest, scene.size - 0.6 * longest, 2))
    if sprite.windows(scene.size):
        scene.add(sprite)


def _place_in_front(scene, rng):
    """Place some stems or a stick that hide a little of the animals."""
    drawing, size = Drawing(), scene.size
    if rng.random() < 0.5:
        _paint_stems(drawing, rng, any_color(rng))
        sprite = rasterize(drawing, rng, 0, longest=size * rng.uniform(0.2, 0.5))
    else:
        half = rng.uniform(0.01, 0.03)
        drawing.paint(np.array([(-1, -half), (1, -half), (1, half), (-1, half)]), any_color(rng), True)
        sprite = rasterize(drawing, rng, rng.uniform(0, np.pi), longest=size * rng.uniform(0.4, 1))
    middle = np.array(sprite.solid.shape[::-1]) / 2
    _find_place(scene, rng, sprite, lambda: rng.uniform(0, size, 2) - middle)


def _paint_stems(drawing, rng, color):
    for _ in range(4):
        x, lean, tip = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(-1, -0.2)
        drawing.paint(np.array([(x, 1), (x + 0.09, 1), (x + lean, tip)]), color)


def _cut_in_pieces(scene, rng):
    """Put a pole or a fence of three in front of the foremost animal, so that it is visible in pieces (slide T21)."""
    ys, xs = np.nonzero(scene.owner == len(scene.layers) - 1)
    for thickness in np.linspace(0.05, 0.02, 4 * TRIES):
        half = max(1.5, scene.size * thickness * rng.uniform(0.6, 1))
        tilt = rng.uniform(-0.2, 0.2) + (np.pi / 2 if rng.random() < 0.75 else 0)
        x, y = (np.quantile(v, rng.uniform(0.35, 0.65)) for v in (xs, ys))
        distance = (ys + 0.5 - y) * np.cos(tilt) - (xs + 0.5 - x) * np.sin(tilt)  # from the pole's middle line
        if min((distance < -half - 1).mean(), (distance > half + 1).mean()) < 0.15:
            continue
        drawing, color, length = Drawing(), any_color(rng), 1.5 * scene.size
        spacing = scene.size * rng.uniform(0.3, 0.5)
        for shift in (-spacing, 0, spacing) if rng.random() < 0.5 else (0,):
            pole = [(-length, -half), (length, -half), (length, half), (-length, half)]
            drawing.paint(np.array(pole) + (0, shift), color, True)
        sprite = rasterize(drawing, rng, tilt, center=(x, y), size=scene.size)
        if scene.fits(sprite):
            scene.add(sprite)
            return
