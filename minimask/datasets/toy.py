"""Drawn scenes of cats, dogs and ducks with exact boxes, masks and keypoints; no files.

Scene i of a split is a function of (seed, split, i) alone. A scene is layers from back to front: a textured
background, clutter in the animals' colors, the animals by where they stand, things that hide parts of them; then
light and the camera's noise. What is hidden by more than half is not placed, so ground truth is at least half visible.

`case` sets up the talk's special cases: "crowded" (an object surrounded by its own category, slide T20),
"disconnected" (one instance in several pieces, T21), "small" (small objects, T22).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from minimask.datasets.animals import (
    CLASSES,
    COATS,
    COLLARS,
    KEYPOINTS,
    PLUMAGE,
    SKELETON,
    Drawing,
    draw_animal,
)
from minimask.device import generator
from minimask.errors import InputError
from minimask.image import flip_order
from minimask.structures import Sample

__all__ = ["CLASSES", "KEYPOINTS", "SKELETON", "ToyScenes", "to_coco"]

SPLITS = ("train", "val", "test")
CASES = (None, "crowded", "disconnected", "small")
SMALLEST, LARGEST = 1 / 8, 2 / 3  # longest side of an animal, in sides of the picture
TRIES = 12  # places tried before an object is made smaller, and then left out
GROUND = ((110, 140, 74), (146, 152, 92), (186, 166, 126), (150, 122, 92), (128, 132, 130), (92, 118, 104))
SKY = ((168, 200, 224), (206, 218, 222), (232, 208, 178), (130, 158, 190), (190, 196, 176), (112, 136, 128))


class ToyScenes:
    """A data set of drawn scenes.

    split: "train", "val" or "test", which never share a scene. size: height and width of the square picture.
    count: number of scenes. seed: another seed, other scenes. case: None, "crowded", "disconnected" or "small".
    dataset[i] is a Sample with 1 to 6 objects; masks are the visible parts and boxes are tight around them.
    Keypoints have visibility 2, or 1 where another object hides them, or 0 where they are absent or outside.
    keypoint_sigmas: how exactly each can be placed, in square roots of the object's area, for `evaluate`: COCO's
    number for the part of a person that is like it, as for nose and eyes, shoulder, hip, wrist and ankle.
    Raises InputError for settings that make no sense.
    """

    class_names = CLASSES
    category_ids = (1, 2, 3)  # COCO id of label 1, of label 2, ...
    keypoint_names = KEYPOINTS
    keypoint_order = flip_order(KEYPOINTS)  # for image.flip
    keypoint_sigmas = (0.026, 0.025, 0.025, 0.079, 0.107, 0.062, 0.089, 0.089)
    skeleton = SKELETON

    def __init__(self, split="train", size=128, count=1000, seed=0, case=None):
        if split not in SPLITS:
            raise InputError(f"toy scenes: split must be one of {', '.join(SPLITS)}, got {split!r}")
        if case not in CASES:
            raise InputError(f"toy scenes: case must be one of {', '.join(map(str, CASES))}, got {case!r}")
        if not 32 <= size <= 2048:
            raise InputError(f"toy scenes: size must be 32 to 2048 pixels, got {size}")
        if count < 0 or seed < 0:
            raise InputError(f"toy scenes: count and seed must not be negative, got {count} and {seed}")
        self.split, self.size, self.count, self.seed, self.case = split, size, count, seed, case

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(f"toy scenes: scene {index} of {self.count}")
        rng = generator(self.seed, SPLITS.index(self.split), CASES.index(self.case), index)
        name = f"toy {self.split} {index}"
        return _sample(_scene(rng, self.size, self.case), index, name if self.case is None else f"{name} {self.case}")

    def to_coco(self):
        """The ground truth as a COCO dict; see `to_coco`."""
        return to_coco(self)


def to_coco(dataset, count=None):
    """The first `count` samples of any data set as a COCO ground-truth dict, which json can write.

    Needs dataset.class_names and category_ids; keypoints go along if the samples have them.
    """
    from pycocotools import mask as rle

    names = getattr(dataset, "keypoint_names", None)
    categories = []
    for label, name in enumerate(dataset.class_names, start=1):
        category = {"id": dataset.category_ids[label - 1], "name": name, "supercategory": ""}
        if names:
            category["keypoints"] = list(names)
            category["skeleton"] = [[a + 1, b + 1] for a, b in getattr(dataset, "skeleton", ())]  # counted from 1
        categories.append(category)
    images, annotations = [], []
    for index in range(len(dataset) if count is None else min(count, len(dataset))):
        sample = dataset[index]
        height, width = sample.image.shape[:2]
        images.append({"id": sample.image_id, "file_name": sample.name, "height": height, "width": width})
        for g, (x1, y1, x2, y2) in enumerate(sample.boxes.tolist()):
            code = rle.encode(np.asfortranarray(sample.masks[g]))
            annotation = {
                "id": len(annotations) + 1,  # not from 0: pycocotools takes 0 for "no match"
                "image_id": sample.image_id,
                "category_id": dataset.category_ids[int(sample.labels[g]) - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(rle.area(code)),
                "iscrowd": int(sample.crowd[g]),
                "segmentation": {"size": [height, width], "counts": code["counts"].decode("ascii")},
            }
            if names:
                points = sample.keypoints[g]
                annotation["keypoints"] = points.ravel().tolist()
                annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
            annotations.append(annotation)
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


# --------------------------------------------------------------------------------- one scene


@dataclass
class _Sprite:
    """A drawing as pixels, and where its top left pixel lies in the scene."""

    color: np.ndarray  # (3, h, w) float32, 0 to 255, times alpha
    alpha: np.ndarray  # (h, w) float32, 0 to 1
    solid: np.ndarray  # (h, w) bool: alpha of at least a half, what the mask counts
    keypoints: np.ndarray  # (K, 3) float32 in pixels of the sprite
    label: int = 0  # 0: not an animal
    left: int = 0
    top: int = 0

    def windows(self, size):
        """The part inside the picture: slices (rows, columns) of the scene and of the sprite; None if outside."""
        height, width = self.solid.shape
        y1, y2 = max(0, -self.top), min(height, size - self.top)
        x1, x2 = max(0, -self.left), min(width, size - self.left)
        if y1 >= y2 or x1 >= x2:
            return None
        scene = slice(y1 + self.top, y2 + self.top), slice(x1 + self.left, x2 + self.left)
        return scene, (slice(y1, y2), slice(x1, x2))


@dataclass
class _Scene:
    size: int
    canvas: np.ndarray  # (3, S, S) float32
    layers: list  # _Sprites from back to front
    owner: np.ndarray  # (S, S) int16: which layer a pixel shows, -1 the background
    areas: list  # of each layer, all its solid pixels, also those outside the picture

    def fits(self, sprite, inside=0.85):
        """True if with `sprite` in front each animal is still half visible, and most of it is in the picture."""
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
        """Put `sprite` in front of all else."""
        scene, own = sprite.windows(self.size)
        self.owner[scene][sprite.solid[own]] = len(self.layers)
        self.areas.append(int(sprite.solid.sum()))
        self.layers.append(sprite)


def _scene(rng, size, case):
    scene = _Scene(size, _background(rng, size), [], np.full((size, size), -1, np.int16), [])
    for _ in range(rng.integers(0, 7)):
        _place_clutter(scene, rng)
    if case == "crowded":
        _place_crowd(scene, rng)
    else:
        _place_animals(scene, rng, *_sizes(rng, case))
    if not any(sprite.label for sprite in scene.layers):  # no place was found: one in the middle always fits
        sprite = _animal(rng, rng.integers(1, len(CLASSES) + 1), 0.4 * size)
        _find_place(scene, rng, sprite, lambda: (size - np.array(sprite.solid.shape[::-1])) / 2)
    if case == "disconnected":
        _cut_in_pieces(scene, rng)
    elif rng.random() < 0.35:
        _place_in_front(scene, rng)
    _paint(scene, rng)
    return scene


def _sizes(rng, case):
    """How many animals, and limits of their longest side in sides of the picture."""
    if case == "small":
        return rng.integers(3, 7), 0.09, 0.17
    if case == "disconnected":
        return rng.integers(1, 3), 0.4, LARGEST
    count = rng.integers(1, 7)
    return count, SMALLEST, LARGEST if count < 4 else 0.55


def _place_animals(scene, rng, count, smallest, largest):
    """Animals of sizes spread evenly on a logarithmic scale; who stands lower stands in front."""
    for stand in np.sort(rng.random(count)):
        label = rng.integers(1, len(CLASSES) + 1)
        longest = scene.size * np.exp(rng.uniform(np.log(smallest), np.log(largest)))
        for shrink in (1, 0.7):
            sprite = _animal(rng, label, max(shrink * longest, smallest * scene.size))
            if _find_place(scene, rng, sprite, lambda sprite=sprite, stand=stand: _anywhere(scene, rng, sprite, stand)):
                break


def _anywhere(scene, rng, sprite, stand):
    height, width = sprite.solid.shape
    x = rng.uniform(-0.12 * width, scene.size - 0.88 * width)
    y = (stand + rng.uniform(-0.1, 0.1)) * (scene.size - 0.8 * height) - 0.1 * height
    return x, y


def _find_place(scene, rng, sprite, spot):
    """Try the places that spot() gives until `sprite` fits; True if it was added."""
    for _ in range(TRIES):
        sprite.left, sprite.top = (int(v) for v in np.floor(spot()))
        if scene.fits(sprite):
            scene.add(sprite)
            return True
    return False


def _place_crowd(scene, rng):
    """One animal in the middle and four or five of its category close around it (slide T20)."""
    size, label, around = scene.size, rng.integers(1, len(CLASSES) + 1), rng.integers(4, 6)
    longest = rng.uniform(0.3, 0.4) * size
    angles = rng.uniform(0, 2 * np.pi) + np.arange(around) * (2 * np.pi / around)
    offsets = np.concatenate([[(0, 0)], np.stack([np.cos(angles), 0.75 * np.sin(angles)], 1) * 0.8 * longest])
    center = size * rng.uniform(0.45, 0.55, 2)
    for offset in offsets[np.argsort(offsets[:, 1], kind="stable")]:
        sprite = _animal(rng, label, longest * rng.uniform(0.8, 1.1))
        middle = center + offset - np.array(sprite.solid.shape[::-1]) / 2

        def spot(middle=middle):
            return middle + rng.uniform(-0.15, 0.15, 2) * longest

        _find_place(scene, rng, sprite, spot)


def _place_clutter(scene, rng):
    """Something that is no animal, behind them; in their colors."""
    drawing, kind = Drawing(), rng.integers(5)
    color, second = _any_color(rng), _any_color(rng)
    if kind == 0:  # a polygon
        corners = _circle(rng.integers(3, 8))
        drawing.paint(corners * rng.uniform(0.5, 1, (len(corners), 1)), color, bool(rng.integers(2)))
    elif kind == 1:  # an ellipse with a spot, like a head with an eye
        drawing.paint(_circle(24) * (1, rng.uniform(0.4, 1)), color, bool(rng.integers(2)))
        drawing.paint(_circle(12) * 0.2 + rng.uniform(-0.3, 0.3, 2), second)
    elif kind == 2:  # a star
        drawing.paint(_circle(10) * np.tile([[1], [0.45]], (5, 1)), color, bool(rng.integers(2)))
    elif kind == 3:  # a tuft of stems, like whiskers or feathers
        _paint_stems(drawing, rng, color)
    else:  # two triangles on a block, like ears on a head
        drawing.paint(np.array([(-0.8, 0.2), (0.8, 0.2), (0.7, 0.9), (-0.7, 0.9)]), color, True)
        for x in (-0.8, 0.2):
            drawing.paint(np.array([(x, 0.2), (x + 0.6, 0.2), (x + 0.3, -0.7)]), second, True)
    longest = scene.size * rng.uniform(0.06, 0.35)
    sprite = _rasterise(drawing, rng, rng.uniform(0, 2 * np.pi), longest=longest)
    sprite.left, sprite.top = (int(v) for v in rng.uniform(-0.3 * longest, scene.size - 0.6 * longest, 2))
    if sprite.windows(scene.size):
        scene.add(sprite)


def _place_in_front(scene, rng):
    """Some stems or a stick that hide a little of the animals."""
    drawing, size = Drawing(), scene.size
    if rng.random() < 0.5:
        _paint_stems(drawing, rng, _any_color(rng))
        sprite = _rasterise(drawing, rng, 0, longest=size * rng.uniform(0.2, 0.5))
    else:
        half = rng.uniform(0.01, 0.03)
        drawing.paint(np.array([(-1, -half), (1, -half), (1, half), (-1, half)]), _any_color(rng), True)
        sprite = _rasterise(drawing, rng, rng.uniform(0, np.pi), longest=size * rng.uniform(0.4, 1))
    middle = np.array(sprite.solid.shape[::-1]) / 2
    _find_place(scene, rng, sprite, lambda: rng.uniform(0, size, 2) - middle)


def _paint_stems(drawing, rng, color):
    for _ in range(4):
        x, lean, tip = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(-1, -0.2)
        drawing.paint(np.array([(x, 1), (x + 0.09, 1), (x + lean, tip)]), color)


def _cut_in_pieces(scene, rng):
    """A pole, or a fence of three, before the foremost animal, which is then seen in pieces (slide T21)."""
    ys, xs = np.nonzero(scene.owner == len(scene.layers) - 1)
    for thickness in np.linspace(0.05, 0.02, 4 * TRIES):
        half = max(1.5, scene.size * thickness * rng.uniform(0.6, 1))
        tilt = rng.uniform(-0.2, 0.2) + (np.pi / 2 if rng.random() < 0.75 else 0)
        x, y = (np.quantile(v, rng.uniform(0.35, 0.65)) for v in (xs, ys))
        distance = (ys + 0.5 - y) * np.cos(tilt) - (xs + 0.5 - x) * np.sin(tilt)  # from the pole's middle line
        if min((distance < -half - 1).mean(), (distance > half + 1).mean()) < 0.15:
            continue
        drawing, color, length = Drawing(), _any_color(rng), 1.5 * scene.size
        spacing = scene.size * rng.uniform(0.3, 0.5)
        for shift in (-spacing, 0, spacing) if rng.random() < 0.5 else (0,):
            pole = [(-length, -half), (length, -half), (length, half), (-length, half)]
            drawing.paint(np.array(pole) + (0, shift), color, True)
        sprite = _rasterise(drawing, rng, tilt, center=(x, y), size=scene.size)
        if scene.fits(sprite):
            scene.add(sprite)
            return


# --------------------------------------------------------------------------------- drawings to pixels


@lru_cache
def _circle(count):
    angles = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _any_color(rng):
    colors = (COATS, PLUMAGE, (COLLARS,), (GROUND,))[rng.integers(4)]
    triple = colors[rng.integers(len(colors))]
    return triple[rng.integers(3)]


def _animal(rng, label, longest):
    """A Sprite of an animal whose longest side is `longest` pixels, turned a little, facing left or right."""
    drawing = draw_animal(label, rng)
    sprite = _rasterise(drawing, rng, rng.normal(0, 0.13), longest=longest, mirror=rng.random() < 0.5)
    sprite.label = int(label)
    return sprite


def _rasterise(drawing, rng, angle, longest=None, mirror=False, center=(0, 0), size=None):
    """Draw the shapes with smooth edges, then shade them.

    angle: radians. longest: pixels of the longest side; without it, shapes are in pixels already, around `center`,
    and are cut at the border of a picture of `size`.
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
        line = max(0.6, 0.022 * longest)  # outlines lie half inside, half outside
        scale = (longest - line) / (high - low).max()
        shift = rng.random(2)  # so that edges fall anywhere between pixels
        low, high = low * scale + shift, high * scale + shift
    corner = np.floor(low - line)
    width, height = (np.ceil(high + line) - corner).astype(int).tolist()
    fine = 4 if max(width, height) < 40 else 3 if max(width, height) < 80 else 2
    shift = (shift - corner) * fine - 0.5  # Pillow's coordinate 0 is the center of the first pixel
    pixels = _fill(drawing, points * (scale * fine) + shift, (width * fine, height * fine), round(line * fine))
    pixels = np.asarray(pixels.reduce(fine)).transpose(2, 0, 1).astype(np.float32)  # (4, h, w)
    alpha = pixels[3] * np.float32(1 / 255)
    pixels[:3] *= _fur(rng, height, width)
    return _Sprite(
        color=pixels[:3],
        alpha=alpha,
        solid=alpha >= 0.5,
        keypoints=_place_keypoints(drawing, turn * scale, (shift + 0.5) / fine, mirror),
        left=int(corner[0]),
        top=int(corner[1]),
    )


def _fill(drawing, points, size, line):
    """Paint the shapes on a transparent picture; colors come out multiplied by alpha."""
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
        k = ToyScenes.keypoint_order[k] if mirror else k
        keypoints[k, :2] = np.array(place) @ turn + shift
        keypoints[k, 2] = 2
    return keypoints


def _fur(rng, height, width):
    """Brightness (h, w): lighter above and on one side, with fur or feathers."""
    down = np.linspace(1.12, rng.uniform(0.75, 0.95), height, dtype=np.float32)
    side = rng.uniform(-0.1, 0.1)
    across = np.linspace(1 - side, 1 + side, width, dtype=np.float32)
    texture = _texture(rng, "fur", height, width, rng.uniform(0.5, 1.5) * max(40, width, height))
    texture *= np.float32(rng.uniform(0.03, 0.1))
    texture += np.float32(1)
    texture *= down[:, None] * across
    return texture


# --------------------------------------------------------------------------------- backgrounds and light


@lru_cache
def _tile(kind):
    """A square of seamless noise, about -2 to 2, as a Pillow float picture: made once, then cut from."""
    side = 512
    rng = generator(7, {"clouds": 0, "fur": 1}[kind])
    fy, fx = np.meshgrid(np.fft.fftfreq(side) * side, np.fft.rfftfreq(side) * side, indexing="ij")
    if kind == "clouds":  # amplitude falls with frequency
        strength = 1 / np.maximum(4, np.hypot(fx, fy)) ** 1.3
    else:  # short strokes, longer downwards
        strength = np.exp(-((fx / 110) ** 2) - (fy / 40) ** 2)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * strength, (side, side))
    noise = np.round(noise / noise.std() * 64) / 64  # the same numbers whatever the machine's rounding
    return Image.fromarray(noise.astype(np.float32))


def _texture(rng, kind, height, width, extent):
    """Noise (height, width) float32 from a random place of the tile; the longer side shows `extent` of its pixels."""
    tile = _tile(kind)
    extent = min(extent, tile.width)
    w, h = extent * width / max(height, width), extent * height / max(height, width)
    x, y = rng.uniform(0, tile.width - w), rng.uniform(0, tile.height - h)
    return np.array(tile.resize((width, height), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h)))


def _background(rng, size):
    """Two colors (3, S, S), mixed by one of several patterns, with soft noise over them."""
    kind = rng.integers(6)
    first, second = (np.array(c, np.float32) for c in _two_colors(rng, kind))
    y, x = np.mgrid[0:1:size * 1j, 0:1:size * 1j].astype(np.float32)
    clouds = _texture(rng, "clouds", size, size, rng.uniform(60, 500))
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
    else:  # one color that slowly becomes another
        mix = np.clip(along, 0, 1)
    mix = mix * np.float32(rng.uniform(0.5, 1)) if kind > 1 else mix
    canvas = first[:, None, None] + (second - first)[:, None, None] * mix
    grain = _texture(rng, "fur" if rng.random() < 0.5 else "clouds", size, size, rng.uniform(100, 400))
    canvas += (clouds * np.float32(rng.uniform(2, 14)) + grain * np.float32(rng.uniform(2, 12)))[None]
    return canvas


def _two_colors(rng, kind):
    if kind <= 1 or rng.random() < 0.4:
        pair = SKY[rng.integers(len(SKY))], GROUND[rng.integers(len(GROUND))]
    else:
        pair = _any_color(rng), _any_color(rng)
    return [np.clip(color + rng.uniform(-15, 15, 3), 10, 250) for color in pair]


@lru_cache
def _spot():
    """A round spot that fades towards its rim, as a Pillow float picture."""
    y, x = np.mgrid[-1:1:33j, -1:1:33j]
    return Image.fromarray(np.clip(1.1 * (1 - np.hypot(x, y)), 0, 0.8).astype(np.float32))


def _paint(scene, rng):
    """Blend the layers from back to front, then the light and the camera."""
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
    """A soft dark spot on the ground under an animal."""
    height, width = sprite.solid.shape
    w, h = max(2, width), max(2, height // 4)
    left, top = sprite.left + (width - w) // 2, sprite.top + height - (2 * h) // 3
    x1, x2, y1, y2 = max(0, left), min(scene.size, left + w), max(0, top), min(scene.size, top + h)
    if x1 < x2 and y1 < y2:
        spot = np.asarray(_spot().resize((w, h), Image.Resampling.BILINEAR))
        scene.canvas[:, y1:y2, x1:x2] *= 1 - np.float32(strength) * spot[y1 - top : y2 - top, x1 - left : x2 - left]


def _light(rng, size):
    """Brightness (S, S): a slow change in one direction, and sometimes the edge of a large shadow."""
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


# --------------------------------------------------------------------------------- ground truth


def _sample(scene, index, name):
    """What can be seen of each animal: mask, tight box, label, keypoints."""
    animals = [k for k, sprite in enumerate(scene.layers) if sprite.label]
    masks = np.stack([scene.owner == k for k in animals])
    boxes = np.empty((len(animals), 4), np.float32)
    for g, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[g] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    keypoints = np.stack([_seen_keypoints(scene, k) for k in animals])
    image = np.clip(scene.canvas + np.float32(0.5), 0, 255).astype(np.uint8)
    return Sample(
        image=np.ascontiguousarray(image.transpose(1, 2, 0)),
        boxes=boxes,
        labels=np.array([scene.layers[k].label for k in animals], np.int64),
        masks=masks.view(np.uint8),
        crowd=np.zeros(len(animals), bool),
        image_id=index,
        name=name,
        keypoints=keypoints,
    )


def _seen_keypoints(scene, layer):
    """The keypoints of one animal in the scene: 2 visible, 1 behind something, 0 (and 0, 0) absent or outside."""
    sprite = scene.layers[layer]
    keypoints = sprite.keypoints.copy()
    keypoints[:, :2] += (sprite.left, sprite.top)
    x, y = keypoints[:, 0], keypoints[:, 1]
    inside = (keypoints[:, 2] > 0) & (x >= 0) & (y >= 0) & (x < scene.size) & (y < scene.size)
    keypoints[~inside] = 0
    in_front = scene.owner[y[inside].astype(int), x[inside].astype(int)] > layer
    keypoints[inside, 2] = np.where(in_front, 1, 2)
    return keypoints
