"""minimask: Mask R-CNN from scratch, every number from pixel to mask in readable Python.

    import minimask

    model = minimask.load("runs/toy")                 # or "toy", a .pth of torchvision, a .pkl of Detectron2
    found = model.predict("photo.jpg")                # a path, a PIL image, an array, or a list of them
    found.show()                                      # a picture in a notebook; found.save("found.png")

    model = minimask.build("toy", classes=["cat", "dog", "duck"])
    run = minimask.train(model, minimask.datasets.toy("train"), steps=500, output="runs/mine")
    minimask.evaluate(model, minimask.datasets.toy("test"))

Reading order: the files that each notebook of the course is about.

    00 start here                 __init__.py, mask_rcnn.py, structures.py, datasets/toy.py
    01 tensors and autograd       tensor.py, functional.py, optim.py
    02 convolution                convolution.py, nn.py
    03 the backbone               normalization.py, backbone.py
    04 the feature pyramid        fpn.py, image.py
    05 anchors and boxes          anchors.py, boxes.py
    06 the RPN                    rpn.py
    07 matching and sampling      targets.py
    08 RoIAlign                   roi_pool.py, roi_align.py
    09 the box head and NMS       box_head.py, boxes.py
    10 the mask head              mask_head.py
    11 the losses                 losses.py
    12 training                   train.py, optim.py, checkpoint.py
    13 from 28 x 28 to the mask   mask_head.py, image.py
    14 measuring                  evaluate.py
    15 keypoints                  keypoint_head.py
    16 kernels                    device.py, kernels/
    17 your own data              datasets/coco.py, datasets/loader.py
    18 published weights          weights/, presets.py, conventions.py

One training step is in these twenty files, 4,000 lines at most: train.py, mask_rcnn.py, structures.py, trace.py;
backbone.py, fpn.py, anchors.py, boxes.py, rpn.py, targets.py, roi_align.py, box_head.py, mask_head.py, losses.py; and
the engine below them: tensor.py, functional.py, nn.py, convolution.py, normalization.py, optim.py. How an operation
finds its kernel is in device.py. The systems that the decks compare with Mask R-CNN are in systems/. What is on no
slide is in folders: draw/, weights/, run/ (files, log, options, commands), machine/ (cards, threads, several workers),
check/ (the exercises), course/ (the notebooks), benchmark/.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

_root = Path(__file__).resolve().parent.parent
if not (Path(__file__).parent / "kernels").exists() and (_root / "kernels" / "conv.py").exists():
    __path__.append(str(_root))  # a bare checkout, not installed: ../kernels is minimask.kernels

__version__ = "0.1.0"

from minimask.machine import python_version  # noqa: E402

python_version.check()

from minimask import device as device  # noqa: E402
from minimask import functional as functional  # noqa: E402  (gives Tensor its operators)
from minimask.run.package import functions_first  # noqa: E402
from minimask.tensor import Function, Parameter, Tensor, no_grad  # noqa: E402

if TYPE_CHECKING:  # what `__getattr__` imports at first use
    from minimask import check, datasets, draw, nn, optim, weights
    from minimask.mask_rcnn import MaskRCNN, build
    from minimask.run.evaluation import evaluate
    from minimask.run.inspection import inspect
    from minimask.run.training import train
    from minimask.weights import load

__all__ = [
    "Function",
    "MaskRCNN",
    "Parameter",
    "Tensor",
    "build",
    "check",
    "datasets",
    "draw",
    "evaluate",
    "functional",
    "inspect",
    "load",
    "nn",
    "no_grad",
    "optim",
    "train",
    "weights",
]

_HOMES = {  # of the names that are imported when they are first used, so that `import minimask` takes no time
    "MaskRCNN": "minimask.mask_rcnn",
    "build": "minimask.mask_rcnn",
    "evaluate": "minimask.run.evaluation",
    "inspect": "minimask.run.inspection",
    "load": "minimask.weights",
    "train": "minimask.run.training",
}


def __getattr__(name):
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in __all__:
        value = importlib.import_module(f"minimask.{name}")
    else:
        raise AttributeError(f"module 'minimask' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return [*__all__, "__version__"]


functions_first(__name__, ("train", "evaluate"))
