"""The pieces of work that are measured: names, shapes, the arithmetic in them and the bytes they must move."""

import math
from dataclasses import dataclass, field


@dataclass
class Case:
    """One row of the table. Both sides have a function `piece` that takes `settings`."""

    group: str
    name: str
    piece: str
    settings: dict = field(default_factory=dict)
    flops: float = 0.0  # multiplications and additions per run; 0 if the number says little
    bytes: float = 0.0  # that a run must read and write at least; 0 if the number says little
    seconds: float = 0.1  # time for each side in each round
    tolerance: float = 1e-3  # relative difference allowed between the results of the two sides
    inputs: tuple = ()  # the piece of our side that writes the files it reads, and that piece's settings
    tuned: bool = True  # whether the reference has faster settings for it

    @property
    def title(self):
        return f"{self.group}: {self.name}"


@dataclass
class Layer:
    """The shape of a convolution: `n` maps of `height` x `width` pixels, from `inputs` to `outputs` channels."""

    name: str
    n: int
    height: int
    width: int
    inputs: int
    outputs: int
    size: int = 3
    stride: int = 1
    groups: int = 1

    def flops(self):
        rows, columns = -(-self.height // self.stride), -(-self.width // self.stride)
        return 2.0 * self.n * rows * columns * self.outputs * self.inputs // self.groups * self.size**2

    def settings(self):
        return {key: value for key, value in vars(self).items() if key != "name"}


RESNET50_LAYERS = [  # at 800 x 1088: 800 x 1067 padded to a multiple of 32
    Layer("stem 7x7/2", 1, 800, 1088, 3, 64, size=7, stride=2),
    Layer("C2 3x3", 1, 200, 272, 64, 64),
    Layer("C2 1x1", 1, 200, 272, 64, 256, size=1),
    Layer("C3 3x3/2", 1, 200, 272, 128, 128, stride=2),
    Layer("C4 3x3", 1, 50, 68, 256, 256),
    Layer("C5 3x3", 1, 25, 34, 512, 512),
    Layer("C5 1x1", 1, 25, 34, 2048, 512, size=1),
    Layer("P2 3x3", 1, 200, 272, 256, 256),
    Layer("mask head 3x3", 100, 14, 14, 256, 256),
]
TOY_LAYERS = [  # a batch of 8 at 128 x 128
    Layer("stem 3x3/2", 8, 128, 128, 3, 32, stride=2),
    Layer("C1 3x3", 8, 64, 64, 32, 32),
    Layer("C2 3x3/2", 8, 64, 64, 32, 64, stride=2),
    Layer("C3 3x3", 8, 16, 16, 128, 128),
    Layer("C4 3x3", 8, 8, 8, 128, 128),
    Layer("P1 3x3", 8, 64, 64, 64, 64),
    Layer("P1 1x1", 8, 64, 64, 32, 64, size=1),
    Layer("mask head 3x3", 128, 14, 14, 64, 64),
]
OTHER_LAYERS = [
    Layer("depthwise 3x3", 8, 56, 56, 96, 96, groups=96),
    Layer("ResNeXt 3x3, 32 groups", 1, 50, 68, 512, 512, groups=32),
]
DIRECTIONS = ("forward", "to data", "to weights")


def convolution_cases(group, layers):
    """Forward and both gradients of each layer. The data of a first layer needs no gradient."""
    return [
        Case(group, f"{layer.name} {direction}", "conv", {"direction": direction, **layer.settings()}, layer.flops())
        for layer in layers
        for direction in DIRECTIONS
        if not (direction == "to data" and layer.inputs == 3)
    ]


def transposed_cases():
    layers = [Layer("R50 mask head", 100, 14, 14, 256, 256), Layer("toy mask head", 128, 14, 14, 64, 64)]
    return [
        Case(
            "conv transpose",
            f"{layer.name} 2x2/2 {direction}",
            "conv_transpose",
            {
                "direction": direction,
                "n": layer.n,
                "height": 14,
                "width": 14,
                "inputs": layer.inputs,
                "outputs": layer.outputs,
            },
            2.0 * layer.n * 28 * 28 * layer.inputs * layer.outputs,
        )
        for layer in layers
        for direction in DIRECTIONS
    ]


def pooling_cases():
    """A quarter of the map is left. The gradient searches each window again, so it reads the map too."""
    shapes = [("R50 stem", 1, 400, 544, 64), ("toy", 8, 64, 64, 32)]
    return [
        Case(
            "max pool",
            f"{name} 3x3/2 {direction}",
            "max_pool",
            {"direction": direction, "shape": shape},
            bytes=4 * math.prod(shape) * (1.25 if direction == "forward" else 2.5),
        )
        for name, *shape in shapes
        for direction in ("forward", "backward")
    ]


def normalization_cases():
    """Batch norm moves, forward, x twice and y; backward gy, y, x and g, then g, x and gx."""
    shapes = [("toy C1", 8, 64, 64, 32), ("toy C4", 8, 8, 8, 128), ("R50 C2", 1, 200, 272, 256)]
    return [
        Case(
            "batch norm + relu",
            f"{name} {direction}",
            "batch_norm",
            {"direction": direction, "shape": shape},
            bytes=4 * math.prod(shape) * moved,
        )
        for name, *shape in shapes
        for direction, moved in (("forward", 3), ("backward", 7))
    ]


def loss_cases():
    """Each loss and its gradient. R50 means one image and 91 classes; the toy model has 8 images and 4 classes."""
    return [
        Case("losses", f"{model} {kind}", "loss", {"kind": kind, **sizes}, tuned=False)
        for model, sizes in (
            ("toy", dict(anchors=8 * 256, rois=512, masks=128, classes=4)),
            ("R50", dict(anchors=256, rois=512, masks=128, classes=91)),
        )
        for kind in ("objectness", "class", "box", "mask")
    ]


def roi_cases():
    resnet50 = dict(images=1, height=800, width=1088, channels=256, canonical=224)
    toy = dict(images=8, height=128, width=128, channels=64, canonical=112)
    kinds = [
        ("R50 1000 RoIs 7x7", dict(resnet50, rois=1000, size=7)),
        ("R50 100 RoIs 14x14", dict(resnet50, rois=100, size=14)),
        ("toy 512 RoIs 7x7", dict(toy, rois=512, size=7)),
        ("toy 128 RoIs 14x14", dict(toy, rois=128, size=14)),
    ]
    return [
        Case(
            "roi align",
            f"{name} {direction}",
            "roi_align",
            {"direction": direction, **settings},
            bytes=roi_align_bytes(**settings),
        )
        for name, settings in kinds
        for direction in ("forward", "backward")
    ]


def roi_align_bytes(images, height, width, channels, canonical, rois, size):
    """The four maps once and the features of the RoIs once: one of them is read and the other written."""
    places = images * sum((height // s) * (width // s) for s in (4, 8, 16, 32)) + rois * size**2
    return 4.0 * places * channels


def box_cases():
    anchors = 3 * sum((800 // s) * (1088 // s) for s in (4, 8, 16, 32))
    toy_anchors = 6 * sum((128 // s) ** 2 for s in (4, 8, 16))
    return [
        Case("nms", "1000 boxes", "nms", {"boxes": 1000}, tuned=False),
        Case("nms", "6000 boxes", "nms", {"boxes": 6000}, tuned=False),
        Case(
            "matching",
            f"R50 {anchors} anchors, 20 objects",
            "match",
            {"images": 1, "anchors": anchors, "objects": 20, "height": 800, "width": 1088},
            tuned=False,
        ),
        Case(
            "matching",
            f"toy 8 x {toy_anchors} anchors, 4 objects",
            "match",
            {"images": 8, "anchors": toy_anchors, "objects": 4, "height": 128, "width": 128},
            tuned=False,
        ),
        Case(
            "paste masks",
            "100 masks into 480 x 640",
            "paste",
            {"masks": 100, "height": 480, "width": 640},
            bytes=100.0 * 480 * 640,
            tuned=False,
        ),
    ]


def optimizer_cases():
    """SGD reads p, g, v and writes p, v; AdamW reads p, g, m, v and writes p, m, v."""
    return [
        Case(
            "optimizer",
            f"{kind} {label}",
            "optimizer",
            {"kind": kind, "arrays": arrays, "shape": shape},
            bytes=4.0 * arrays * math.prod(shape) * moved,
        )
        for kind, moved in (("SGD", 5), ("AdamW", 7))
        for label, arrays, shape in [
            ("2 million in 60 arrays", 60, [3, 3, 64, 64]),
            ("35 million in 60 arrays", 60, [3, 3, 256, 256]),
        ]
    ]


def whole_cases(folder):
    here = {"folder": folder}
    toy = [
        Case(
            "whole",
            f"toy training step, {what}",
            "toy_step",
            here,
            seconds=1.0,
            tolerance=0.3,
            inputs=("write_toy", {**here, "trained": steps}),
        )
        for what, steps in (("8 x 128 x 128", 0), ("100 steps later", 100))
    ]
    photo = ("write_resnet50", {**here, "width": 640})
    return [*toy, Case("whole", "R50-FPN inference, 800 x 1067", "inference", here, tolerance=0.02, inputs=photo)]


def whole_cases_on_a_card(folder):
    """From a batch on the card to results on the card. Resizing on the host would hide the card's part."""
    here = {"folder": folder}
    toy = [
        Case(
            "whole",
            what,
            "gpu_toy_step",
            {**here, "graph": graph},
            seconds=1.0,
            tolerance=0.3,
            inputs=("write_toy", {**here, "trained": 0}),
        )
        for what, graph in (("toy training step, 8 x 128 x 128", False), ("the same as a CUDA graph (ours)", True))
    ]
    photo = ("write_resnet50", {**here, "width": 800})
    return [*toy, Case("whole", "R50-FPN inference, 800 x 1344", "gpu_inference", here, tolerance=0.02, inputs=photo)]


def all_cases(folder, device="cpu"):
    """Every case, whole models first. `folder` contains the files that both sides read (see `models`)."""
    whole = whole_cases if device == "cpu" else whole_cases_on_a_card
    return [
        *whole(str(folder)),
        *convolution_cases("conv R50", RESNET50_LAYERS),
        *convolution_cases("conv toy", TOY_LAYERS),
        *convolution_cases("conv", OTHER_LAYERS),
        *transposed_cases(),
        *pooling_cases(),
        *normalization_cases(),
        *loss_cases(),
        *roi_cases(),
        *box_cases(),
        *optimizer_cases(),
    ]
