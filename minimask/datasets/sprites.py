"""Drawings become pixels: filled shapes with smooth edges, shaded like fur or feathers."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from minimask.datasets.animals import KEYPOINTS, draw_animal
from minimask.datasets.augmentation import flip_order
from minimask.datasets.background import texture

_MIRRORED = flip_order(KEYPOINTS)


@dataclass
class Sprite:
    """A drawing as pixels, and the place of its top left pixel in the scene."""

    color: np.ndarray  # (3, h, w) float32, 0 to 255, multiplied by alpha
    alpha: np.ndarray  # (h, w) float32, 0 to 1
    solid: np.ndarray  # (h, w) bool: alpha is at least 0.5; these pixels make up the mask
    keypoints: np.ndarray  # (K, 3) float32 in pixels of the sprite
    label: int = 0  # 0 if it is not an animal
    left: int = 0
    top: int = 0

    def windows(self, size):
        """The part inside the image: slices (rows, columns) of the scene and of the sprite. None if it is outside."""
        height, width = self.solid.shape
        y1, y2 = max(0, -self.top), min(height, size - self.top)
        x1, x2 = max(0, -self.left), min(width, size - self.left)
        if y1 >= y2 or x1 >= x2:
            return None
        scene = slice(y1 + self.top, y2 + self.top), slice(x1 + self.left, x2 + self.left)
        return scene, (slice(y1, y2), slice(x1, x2))


def animal_sprite(rng, label, longest):
    """The Sprite of an animal, turned a little and facing left or right. longest: its longest side in pixels."""
    drawing = draw_animal(label, rng)
    sprite = rasterize(drawing, rng, rng.normal(0, 0.13), longest=longest, mirror=rng.random() < 0.5)
    sprite.label = int(label)
    return sprite


def rasterize(drawing, rng, angle, longest=None, mirror=False, center=(0, 0), size=None):
    """Draw the shapes with smooth edges, then shade them. Returns a Sprite.

    angle: how far to turn the drawing, in radians.
    longest: length of its longest side in pixels. If it is None, the shapes are in pixels already, around `center`,
        and are clipped to an image of `size` pixels.
    mirror: whether to exchange left and right.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    if mirror:
        turn[:, 0] *= -1
    points = np.concatenate([points for points, _, _ in drawing.shapes]) @ turn
    low, high = points.min(0), points.max(0)

    if longest is None:
        scale, line, shift = 1.0, 1.0, np.array(center)
        low, high = np.maximum(low + shift, -2), np.minimum(high + shift, size + 2)
    else:
        line = max(0.6, 0.022 * longest)  # half of an outline lies inside the shape, half outside
        scale = (longest - line) / (high - low).max()
        shift = rng.random(2)  # edges fall anywhere between pixels
        low, high = low * scale + shift, high * scale + shift
    corner = np.floor(low - line)
    width, height = (np.ceil(high + line) - corner).astype(int).tolist()

    fine = 4 if max(width, height) < 40 else 3 if max(width, height) < 80 else 2
    shift = (shift - corner) * fine - 0.5  # Pillow's coordinate 0 is the center of the first pixel
    pixels = _fill(drawing, points * (scale * fine) + shift, (width * fine, height * fine), round(line * fine))
    pixels = np.asarray(pixels.reduce(fine)).transpose(2, 0, 1).astype(np.float32)  # (4, h, w)
    alpha = pixels[3] * np.float32(1 / 255)
    pixels[:3] *= _fur(rng, height, width)
    return Sprite(
        color=pixels[:3],
        alpha=alpha,
        solid=alpha >= 0.5,
        keypoints=_place_keypoints(drawing, turn * scale, (shift + 0.5) / fine, mirror),
        left=int(corner[0]),
        top=int(corner[1]),
    )


def _fill(drawing, points, size, line):
    """Paint the shapes on a transparent picture, whose colors are multiplied by alpha."""
    picture = Image.new("RGBa", size)
    draw = ImageDraw.Draw(picture)
    flat, start = points.ravel().tolist(), 0
    for shape, (r, g, b), outlined in drawing.shapes:
        outline = flat[start : start + 2 * len(shape)]
        start += 2 * len(shape)
        if outlined:
            draw.line(outline + outline[:4], (r * 4 // 10, g * 4 // 10, b * 4 // 10, 255), line)
        draw.polygon(outline, (r, g, b, 255))
    return picture


def _place_keypoints(drawing, turn, shift, mirror):
    keypoints = np.zeros((len(KEYPOINTS), 3), np.float32)
    for name, place in drawing.keypoints.items():
        k = KEYPOINTS.index(name)
        k = _MIRRORED[k] if mirror else k
        keypoints[k, :2] = np.array(place) @ turn + shift
        keypoints[k, 2] = 2
    return keypoints


def _fur(rng, height, width):
    """Brightness (h, w): lighter at the top and on one side, with the texture of fur or feathers."""
    down = np.linspace(1.12, rng.uniform(0.75, 0.95), height, dtype=np.float32)
    side = rng.uniform(-0.1, 0.1)
    across = np.linspace(1 - side, 1 + side, width, dtype=np.float32)
    fur = texture(rng, "fur", height, width, rng.uniform(0.5, 1.5) * max(40, width, height))
    fur *= np.float32(rng.uniform(0.03, 0.1))
    fur += np.float32(1)
    fur *= down[:, None] * across
    return fur
