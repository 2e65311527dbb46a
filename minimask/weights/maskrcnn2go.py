"""Another project's network on our operations: MaskRCNN2Go, a Mask R-CNN for phones that Facebook trained on COCO.

Importing a trained network takes its weights as arrays, the list of its operations, and for each operation a call of a
function that already exists here. Three differences deserve attention, because they often go wrong in practice:

- Axes. The file has channels first; here they are last. Weights are transposed once, when they are read.
- Colors. The network was trained on blue, green, red. The first convolution's weights are reversed, not the images.
- Boxes. They use the old convention that counts pixels: x1 is the first pixel, x2 the last, and the width is
  x2 - x1 + 1. Worked number: pixels 3 to 7 are the box (3, 7) of width 5; here that is (3, 8). So we add 1 on the right
  and at the bottom, call our functions (decode, NMS), and subtract 1 again. The model returns boxes of our kind. The
  original pastes a mask without the 1, between integer pixels; here the mask lies exactly in its box. That shifts it by
  half a pixel on the right and at the bottom, and gives a mask AP of 0.271 instead of 0.270 on 39 photos of COCO
  val2017. Box AP is the same in all digits.

The files `graph.json` and `maskrcnn2go_float32.npz` were made from the Caffe2 model zoo (facebookarchive/models, folder
mask_rcnn_2go, Apache-2.0). The design is that of slide T13 with one feature map of stride 16 (Ren et al. 2015) and
inverted residual blocks (Sandler et al. 2018): a 1x1 convolution, a 3x3 depthwise convolution, a 1x1 convolution.
"""

import inspect
import json
import math
from pathlib import Path

import numpy as np

from minimask import boxes as box_ops
from minimask import functional as F
from minimask import roi_align as roi_align_module
from minimask.convolution import conv2d, conv_transpose2d
from minimask.errors import InputError
from minimask.image import ImageTransform, resize_boxes
from minimask.run.predictor import Predictor
from minimask.structures import Detections
from minimask.targets import top_k
from minimask.tensor import Tensor, no_grad

GRAPH, WEIGHTS = "graph.json", "maskrcnn2go_float32.npz"
SHORT_SIDE, LONG_SIDE = 320, 640  # pixels of a resized image
ONE_PIXEL = np.array([0, 0, 1, 1], np.float32)  # from the last pixel x2 to the corner x2 + 1


# ------------------------------------------------------- the operations, whose arguments have the names of graph.json


def conv(x, w, b, kernel, stride, pad, groups, relu):
    """Convolution, with a ReLU if `relu`: x (N, H, W, C), w (kernel, kernel, C / groups, out), b (out,) or None."""
    _check_kernel(w, kernel)
    return conv2d(Tensor(x), Tensor(w), _bias(b), stride, pad, groups=groups, relu=relu).data


def conv_transpose(x, w, b, kernel, stride, pad):
    """Transposed convolution: x (N, H, W, C), w (kernel, kernel, C, out), b (out,) or None."""
    _check_kernel(w, kernel)
    return conv_transpose2d(Tensor(x), Tensor(w), _bias(b), stride, pad).data


def add(x):
    """The sum of two maps: the shortcut around a block."""
    a, b = x
    if a.shape != b.shape:
        raise ValueError(f"x must be two maps of the same shape, got {a.shape} and {b.shape}")
    return a + b


def relu(x):
    """max(x, 0)."""
    return np.maximum(x, 0)


def avg_pool(x, kernel, stride):
    """The mean of each window: a depthwise convolution whose weights are all equal."""
    channels = x.shape[3]
    w = np.full((kernel, kernel, 1, channels), 1 / kernel**2, x.dtype)
    return conv2d(Tensor(x), Tensor(w), stride=stride, groups=channels).data


def fc(x, w, b):
    """Fully connected layer: x (N, H, W, C), flattened in the file's order C, H, W; w (C * H * W, out) -> (N, out)."""
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # (N, C * H * W)
    return F.linear(Tensor(np.ascontiguousarray(x)), Tensor(w), Tensor(b)).data


def generate_proposals(
    scores,
    deltas,
    anchors,
    im_info,
    stride,
    pre_nms_topN,
    post_nms_topN,
    nms_thresh,
    min_size,
    legacy_plus_one,
    correct_transform_coords,
):
    """The RPN's boxes: scores (1, H, W, A), deltas (1, H, W, 4 A), anchors (A, 4) at the first cell -> (R, 4)."""
    _check_legacy(legacy_plus_one, correct_transform_coords)
    _, h, w, a = scores.shape
    y, x = np.mgrid[:h, :w].astype(np.float32) * stride
    places = np.stack([x, y, x, y], axis=-1).reshape(h * w, 1, 4) + anchors  # (H * W, A, 4)
    scores, deltas, places = scores.reshape(1, -1), deltas.reshape(-1, 4), places.reshape(-1, 4)

    best = top_k(scores, min(pre_nms_topN, scores.shape[1]))  # (1, K)
    boxes = box_ops.decode(deltas[best], places[best] + ONE_PIXEL) - ONE_PIXEL  # (1, K, 4)
    height, width, scale = im_info
    boxes = box_ops.clip(boxes, (height - 1, width - 1))
    valid = box_ops.large_enough(boxes + ONE_PIXEL, min_size * scale)
    kept, valid = box_ops.nms(boxes + ONE_PIXEL, scores[0, best], valid, nms_thresh, max_kept=post_nms_topN)
    return boxes[0, kept[valid]]


def roi_align(x, rois, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned):
    """The features (R, pooled_h, pooled_w, C) inside boxes `rois` (R, 4) of the map x (1, H, W, C)."""
    if pooled_h != pooled_w:
        raise ValueError(f"pooled_h and pooled_w must be equal, got {pooled_h} and {pooled_w}")
    first = np.zeros(len(rois), np.int64)  # one image, one level
    return roi_align_module.roi_align(
        [Tensor(x)], rois, first, first, [spatial_scale], pooled_h, sampling_ratio, aligned
    ).data


def bbox_transform(rois, deltas, im_info, weights, legacy_plus_one, correct_transform_coords):
    """A box for each class: rois (R, 4), deltas (R, 4 C) -> (R, 4 C), moved and clipped in pixels of the photo.

    The photo's size is computed as the resized size divided by the scale and rounded, which may be off by one pixel, as
    in the original.
    """
    _check_legacy(legacy_plus_one, correct_transform_coords)
    height, width, scale = im_info
    deltas = deltas.reshape(len(rois), -1, 4)  # (R, C, 4)
    boxes = box_ops.decode(deltas, (rois / scale + ONE_PIXEL)[:, None], weights) - ONE_PIXEL
    boxes = box_ops.clip(boxes, (_rounded(height / scale) - 1, _rounded(width / scale) - 1))
    return (boxes * scale).reshape(len(rois), -1)


def box_with_nms_limit(scores, boxes, score_thresh, nms, detections_per_im):
    """The detections: scores (R, C), boxes (R, 4 C) -> scores (D,), boxes (D, 4), classes (D,), best first."""
    rois, classes = scores.shape
    scores = scores[:, 1:].reshape(1, -1)  # (1, R * (C - 1)), without the background
    boxes = boxes.reshape(rois, classes, 4)[:, 1:].reshape(1, -1, 4)
    labels = np.tile(np.arange(1, classes), rois)[None]
    kept, valid = box_ops.nms(
        boxes + ONE_PIXEL, scores, scores > score_thresh, nms, max_kept=detections_per_im, groups=labels
    )
    kept = kept[valid]
    return scores[0, kept], boxes[0, kept], labels[0, kept]


OPERATIONS = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "add": add,
    "relu": relu,
    "sigmoid": F.sigmoid_array,
    "softmax": F.softmax_array,
    "avg_pool": avg_pool,
    "fc": fc,
    "generate_proposals": generate_proposals,
    "roi_align": roi_align,
    "bbox_transform": bbox_transform,
    "box_with_nms_limit": box_with_nms_limit,
}
ARRAYS = {"x", "w", "b", "scores", "deltas", "anchors", "rois", "boxes", "im_info"}  # arguments that name arrays
OF_THE_PICTURE = ("generate_proposals", "bbox_transform")  # operations that need im_info: height, width, scale
AXES = {"conv": (2, 3, 1, 0), "conv_transpose": (2, 3, 0, 1), "fc": (1, 0)}  # how to transpose the file's weights
RESULTS = ("score_nms", "bbox_nms", "class_nms", "mask_fcn_probs")  # the values of the graph that the model returns


def _bias(b):
    return None if b is None else Tensor(b)


def _check_kernel(w, kernel):
    if w.shape[:2] != (kernel, kernel):
        raise ValueError(f"kernel is {kernel}, but the weights have {w.shape[0]} x {w.shape[1]}")


def _check_legacy(legacy_plus_one, correct_transform_coords):
    if not (legacy_plus_one and correct_transform_coords):
        raise ValueError("legacy_plus_one and correct_transform_coords must be true: other boxes are not supported")


def _rounded(x):
    return math.floor(x + 0.5)


# ----------------------------------------------------------------------------------------------------------- the model


class MaskRCNN2Go(Predictor):
    """The network as a model for `evaluate.evaluate` and `predict.predict_files`. It cannot be trained.

    graph: the content of graph.json. Label k is graph["categories"][k - 1].
    weights: dict from names to arrays, as in the file.
    Raises InputError that names the operation if it is unknown, or if a setting, input or weight of it is missing or
    does not fit.
    """

    training = False

    def __init__(self, graph, weights):
        self.operations = check_operations(graph["ops"], weights)
        self.weights = turn_weights(self.operations, weights)
        self.transform = ImageTransform(
            SHORT_SIDE, LONG_SIDE, mean=(0, 0, 0), std=(1 / 255,) * 3, divisor=1, rounded=True
        )  # the network reads 0 .. 255
        masks = self.run(np.zeros((1, 64, 64, 3), np.float32), 1.0)[
            "mask_fcn_probs"
        ]  # raises if something does not fit
        if masks.shape[3] != len(graph["categories"]) + 1:
            raise InputError(
                f"{GRAPH}: has {len(graph['categories'])} categories, but there are masks for {masks.shape[3] - 1}"
            )

    def eval(self):
        """Do nothing: it is always in inference mode."""
        return self

    def train(self, training=True):
        """Raise ValueError, because this network cannot be trained."""
        if training:
            raise ValueError("MaskRCNN2Go: this network is for inference only")
        return self

    def to(self, device):
        """Raise InputError unless the device is the CPU."""
        if device != "cpu":
            raise InputError(f"this network runs on the CPU only, got device {device}")
        return self

    def run(self, image, scale):
        """Run all operations of the graph.

        image: (1, H, W, 3) float32, RGB from 0 to 255, a photo resized by the factor `scale`.
        Returns a dict of all values by name: feature maps (N, H, W, C), old-style boxes in pixels of `image`, ...
        """
        values = {**self.weights, "data": image, "im_info": (*image.shape[1:3], scale)}
        with no_grad():
            for number, operation in enumerate(self.operations):
                try:
                    result = OPERATIONS[operation["op"]](**arguments(operation, values))
                except (ValueError, TypeError, IndexError, AttributeError) as error:
                    raise InputError(f"{place(number, operation)}: {error}") from error
                if "outputs" in operation:
                    values.update(zip(operation["outputs"], result))
                else:
                    values[operation["out"]] = result
        return values

    def detect(self, batch):
        """The Detections of a Batch: boxes in pixels of the resized image, masks as probabilities in their boxes."""
        found = [self._detect_one(*one) for one in zip(batch.images, batch.sizes, batch.original_sizes)]
        n, most = len(found), max(len(scores) for scores, *_ in found)
        m = found[0][3].shape[1]
        detections = Detections(
            boxes=np.zeros((n, most, 4), np.float32),
            labels=np.zeros((n, most), np.int64),
            scores=np.zeros((n, most), np.float32),
            valid=np.zeros((n, most), bool),
            masks=np.zeros((n, most, m, m), np.float32),
            whole_pixels=False,
        )
        for i, (scores, boxes, labels, masks) in enumerate(found):
            d = len(scores)
            detections.scores[i, :d], detections.boxes[i, :d] = scores, boxes
            detections.labels[i, :d], detections.masks[i, :d] = labels, masks
            detections.valid[i, :d] = True
        return detections

    def _detect_one(self, image, size, original):
        """One image of a batch, without its padding: scores (D,), boxes (D, 4), labels (D,), masks (D, M, M)."""
        height, width = size
        scale = min(SHORT_SIDE / original.min(), LONG_SIDE / original.max())
        values = self.run(np.ascontiguousarray(image[None, :height, :width]), scale)
        labels = values["class_nms"]
        masks = values["mask_fcn_probs"][np.arange(len(labels)), :, :, labels]  # (D, M, M)
        boxes = values["bbox_nms"] / np.float32(scale) + ONE_PIXEL  # in pixels of the photo
        return values["score_nms"], resize_boxes(boxes, original, size), labels, masks


# ----------------------------------------------------------------------------------------------------- reading a graph


def load(folder):
    """Load the network from the folder that contains the two files.

    Returns (model, class_names, category_ids), like checkpoint.load_model: class_names[i] is the name of label i + 1,
    and category_ids[i] its id in COCO.
    Raises InputError if a file is missing, is something else, or does not fit the other one.
    """
    folder = Path(folder)
    graph, weights = read_graph(folder / GRAPH), read_weights(folder / WEIGHTS)
    model = MaskRCNN2Go(graph, weights)
    return model, [c["name"] for c in graph["categories"]], [c["id"] for c in graph["categories"]]


def read_graph(path):
    """The content of a graph.json. Raises InputError if it cannot be used."""
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: is not json ({error})") from error
    for name, keys in (("ops", {"op", "out"}), ("categories", {"id", "name"})):
        entries = graph.get(name) if isinstance(graph, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) and e.keys() >= keys for e in entries):
            raise InputError(f'{path}: must have a list "{name}" of objects with {" and ".join(sorted(keys))}')
    return graph


def read_weights(path):
    """The arrays of an .npz file by name. Raises InputError if it cannot be read or has arrays that are not numbers."""
    try:
        with np.load(path, allow_pickle=False) as file:
            weights = dict(file)
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path}: cannot be read ({error})") from error
    for name, array in weights.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError(f"{path}: {name} must contain finite numbers, is {array.dtype} {array.shape}")
    return weights


def check_operations(operations, weights):
    """Check that each operation is known and has its settings and inputs. Returns the operations.

    Their values are checked when they run. Raises InputError that names an operation that cannot run.
    """
    known = {*weights, "data", "im_info"}
    for number, operation in enumerate(operations):
        if operation["op"] not in list(OPERATIONS):
            raise InputError(f"{place(number, operation)}: must be one of {', '.join(OPERATIONS)}")
        names = {name: name for name in known}
        try:
            inspect.signature(OPERATIONS[operation["op"]]).bind(**arguments(operation, names))
        except KeyError as error:
            raise InputError(
                f"{place(number, operation)}: needs {error}, which is neither a weight nor the result of an earlier one"
            ) from None
        except TypeError as error:
            raise InputError(f"{place(number, operation)}: {error}") from None
        known.update(operation.get("outputs", [operation["out"]]))
    for name in RESULTS:
        if name not in known:
            raise InputError(f"{GRAPH}: no operation computes {name!r}")
    return operations


def place(number, operation):
    """The place of an operation in the graph, for messages."""
    return f"{GRAPH}, operation {number} ({operation['op']}, out {operation['out']!r})"


def arguments(operation, values):
    """The keyword arguments of an operation's function, with arrays instead of their names."""
    found = {name: setting for name, setting in operation.items() if name not in ("op", "out", "outputs", "act_quant")}
    if operation["op"] in OF_THE_PICTURE:
        found["im_info"] = "im_info"
    for name in found.keys() & ARRAYS:
        if isinstance(found[name], list):
            found[name] = [values[one] for one in found[name]]
        elif name != "b" or found[name] is not None:  # a layer need not have a bias
            found[name] = values[found[name]]
    return found


def turn_weights(operations, weights):
    """The weights with the axes that the functions here expect, and those of the first convolution for RGB."""
    turned = {name: np.asarray(w, np.float32) for name, w in weights.items()}
    for number, operation in enumerate(operations):
        axes = AXES.get(operation["op"])
        if axes is None:
            continue
        name = operation["w"]
        if name not in list(weights) or weights[name].ndim != len(axes):
            raise InputError(f"{place(number, operation)}: w must be a weight with {len(axes)} axes, is {name!r}")
        w = weights[name].transpose(axes)
        if operation["x"] == "data":
            w = w[:, :, ::-1]  # (kh, kw, BGR, out) -> (kh, kw, RGB, out)
        turned[name] = np.ascontiguousarray(w, np.float32)
    return turned
