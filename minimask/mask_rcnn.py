"""Mask R-CNN: the stages in the order of the talk, readable in one screen. He et al. 2017; slides T08, T09, T13, L05.

image -> backbone -> C2..C5 -> FPN -> P2..P6 -> RPN -> proposals -> RoIAlign -> box head  -> classes and boxes
                                                                 -> RoIAlign -> mask head -> one mask a class
                                                                 -> RoIAlign -> keypoint head (if wanted)
`record` notes what each stage computed while somebody looks (trace.py).
"""

import inspect

import numpy as np

from minimask import boxes as box_ops
from minimask import functional as F
from minimask import nn
from minimask.backbone import resnet
from minimask.box_head import BoxPredictor, TwoLayerHead, detect
from minimask.conventions import resolve
from minimask.device import array_module, enough_memory, generator, on_cpu
from minimask.errors import InputError
from minimask.fpn import FPN
from minimask.image import IMAGENET_MEAN, IMAGENET_STD, ImageTransform, restore
from minimask.keypoint_head import (
    KeypointHead,
    KeypointPredictor,
    decode_keypoints,
    keypoint_loss,
    keypoint_targets,
)
from minimask.losses import box_loss, class_loss
from minimask.mask_head import FCNMaskHead, MaskPredictor, MLPMaskHead, mask_loss, mask_probabilities, mask_targets
from minimask.roi_align import assign_levels, roi_align
from minimask.roi_pool import roi_pool, roi_warp
from minimask.rpn import RPN
from minimask.structures import Batch
from minimask.targets import match, sample, take
from minimask.tensor import no_grad
from minimask.trace import record

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
POOLINGS = {"roi_align": roi_align, "roi_pool": roi_pool, "roi_warp": roi_warp}


class MaskRCNN(nn.Module):
    """The model. In training `model(batch, rng)` is a dict of losses; in inference `model(batch)` is Detections.

    num_classes counts the background, so it is at least 2. backbone: a name of backbone.RESNETS, with
    `backbone_settings` of ResNet's own. neck: "fpn" (a pyramid), "c4" (RoIs from C4; stage 5 is the head) or "c5"
    (C5 dilated to stride 16). The rest is what its names say; `rpn` and `detection` are settings of rpn.RPN and
    box_head.detect. rpn_first_level: the RPN leaves out finer levels of the pyramid, which only RoIs read.
    roi_canonical_size: a RoI of that side is pooled from the level of stride 16. mask_head: "fcn", "mlp", or None for
    boxes alone. keypoints: how many points each object has, 0 for no keypoint branch. conventions: "torchvision",
    "detectron2" or "paper"; `aligned`, `anchor_rounding`, `binary_mask_targets` and `whole_pixels` change one of them
    (conventions.py says what they are; stride_in_1x1 is a backbone setting).
    """

    def __init__(
        self, num_classes, backbone="resnet50", norm="frozen", backbone_settings=None,
        neck="fpn", fpn_channels=256, fpn_pool=True, rpn_first_level=0,
        anchor_sizes=((32,), (64,), (128,), (256,), (512,)), anchor_ratios=(0.5, 1.0, 2.0), rpn=None,
        roi_samples=512, roi_positive_fraction=0.25, roi_iou=0.5, roi_canonical_size=224,
        roi_pooling="roi_align", sampling_ratio=2, aligned=None, box_pool_size=7, mask_pool_size=14, box_width=1024,
        mask_head="fcn", mask_channels=(256, 256, 256, 256), mask_width=256, mask_loss="sigmoid",
        class_agnostic_masks=False, keypoints=0, keypoint_pool_size=14, keypoint_channels=(512,) * 8,
        conventions="torchvision", anchor_rounding=None, binary_mask_targets=None, whole_pixels=None,
        detection=None, min_size=800, max_size=1333, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD,
    ):  # fmt: skip
        if not isinstance(num_classes, (int, np.integer)) or num_classes < 2:
            raise InputError(f"num_classes must be at least 2 (the background and one class), got {num_classes}")
        if neck not in ("fpn", "c4", "c5"):
            raise InputError(f'neck must be "fpn", "c4" or "c5", got {neck!r}')
        if roi_pooling not in POOLINGS:
            raise InputError(f"roi_pooling must be one of {', '.join(POOLINGS)}, got {roi_pooling!r}")
        self.num_classes, self.neck, self.rpn_first_level = num_classes, neck, rpn_first_level if neck == "fpn" else 0
        self.detection = detection or {}
        self.roi_samples, self.roi_positive_fraction, self.roi_iou = roi_samples, roi_positive_fraction, roi_iou
        self.roi_canonical_size, self.sampling_ratio = roi_canonical_size, sampling_ratio
        self.roi_pooling, self.box_pool_size, self.mask_pool_size = roi_pooling, box_pool_size, mask_pool_size
        self.mask_loss, self.class_agnostic_masks = mask_loss, class_agnostic_masks
        self.keypoints, self.keypoint_pool_size = keypoints, keypoint_pool_size
        self.conventions = resolve(
            conventions, aligned=aligned, anchor_rounding=anchor_rounding, binary_mask_targets=binary_mask_targets,
            whole_pixels=whole_pixels, stride_in_1x1=(backbone_settings or {}).get("stride_in_1x1"),
        )  # fmt: skip
        self.aligned = self.conventions["aligned"]

        body_settings = {**dict(dilate_c5=neck == "c5", stages=3 if neck == "c4" else 4), **(backbone_settings or {})}
        body_settings["stride_in_1x1"] = self.conventions["stride_in_1x1"]
        self.backbone = nn.Module()
        self.backbone.body = body = resnet(backbone, norm, **body_settings)
        if neck == "fpn":
            self.backbone.fpn = FPN(body.out_channels, fpn_channels, fpn_pool)
            self.roi_strides, channels = body.strides, fpn_channels
        else:
            self.roi_strides, channels = body.strides[-1:], body.out_channels[-1]
        rounding = self.conventions["anchor_rounding"]
        self.rpn = RPN(channels, anchor_sizes, anchor_ratios, **{"anchor_rounding": rounding, **(rpn or {})})

        heads = self.roi_heads = nn.Module()
        if neck == "c4":
            last = {**body_settings, "stages": 4, "stem": "large"}
            heads.res5 = resnet(backbone, norm, **last).layer4
            channels = body.out_channels[-1] * 2
            heads.box_predictor = BoxPredictor(channels, num_classes)
        else:
            heads.box_head = TwoLayerHead(box_pool_size**2 * channels, box_width)
            heads.box_predictor = BoxPredictor(box_width, num_classes)
        masks = 1 if class_agnostic_masks else num_classes
        if mask_head == "mlp":
            heads.mask_head = MLPMaskHead(mask_pool_size**2 * channels, mask_width, masks, self.mask_size())
        elif mask_head == "fcn":
            convolutions = () if neck == "c4" else mask_channels
            heads.mask_head = FCNMaskHead(channels, convolutions)
            heads.mask_predictor = MaskPredictor(convolutions[-1] if convolutions else channels, mask_width, masks)
        elif mask_head is not None:
            raise InputError(f'mask_head must be "fcn", "mlp" or None, got {mask_head!r}')
        if keypoints:
            heads.keypoint_head = KeypointHead(channels, keypoint_channels)
            heads.keypoint_predictor = KeypointPredictor(keypoint_channels[-1], keypoints)
        self.transform = ImageTransform(min_size, max_size, image_mean, image_std, divisor=32)

    # ------------------------------------------------------------------------------------------------------- stages

    def forward(self, batch, rng=None):
        """Losses in training (`rng`: the generator that samples), Detections in inference."""
        return self.losses(batch, rng) if self.training else self.detect(batch)

    def features(self, images):
        """Images (N, H, W, 3) -> the feature maps that RPN and heads read, fine to coarse."""
        levels = self.backbone.body(images)
        record(**{f"C{int(np.log2(stride))}": x for stride, x in zip(self.backbone.body.strides, levels)})
        if self.neck != "fpn":
            return levels[-1:]
        levels = self.backbone.fpn(levels)
        record(**{f"P{int(np.log2(self.roi_strides[0])) + i}": x for i, x in enumerate(levels)})
        return levels

    def losses(self, batch, rng):
        """Batch with ground truth -> {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg",
        "loss_mask", "loss_keypoint"}, scalar Tensors, the last two if the model has these branches. Their sum is what
        is trained (slide L26).
        """
        if rng is None or batch.boxes is None:
            raise ValueError("MaskRCNN.losses: needs a Batch with ground truth and rng=generator(seed, step)")
        batch = self._checked(batch)
        features = self.features(self._images(batch))
        predictions, anchors = self.rpn(features[self.rpn_first_level :], batch.images.shape[1:3])
        proposals, _, valid = self.rpn.proposals(predictions.data, anchors, batch.sizes)
        losses = self.rpn.losses(predictions, anchors, batch, rng)

        rois, labels, which, positive, valid = self.sample_rois(proposals, valid, batch, rng)
        x = self.pool(features, *flatten(rois), self.box_pool_size, "box")
        class_logits, box_deltas = self.box_branch(x)
        targets = box_ops.encode(take(batch.boxes, which), rois, BOX_WEIGHTS)
        targets = array_module(rois).where(positive[..., None], targets, 0)
        record(
            rois=rois, roi_labels=labels, roi_matches=which, roi_positive=positive, roi_valid=valid,
            box_targets=targets, class_logits=class_logits, box_deltas=box_deltas,
        )  # fmt: skip
        labels_flat, positive_flat, valid_flat = labels.reshape(-1), positive.reshape(-1), valid.reshape(-1)
        losses["loss_classifier"] = class_loss(class_logits, labels_flat, valid_flat)
        losses["loss_box_reg"] = box_loss(box_deltas, labels_flat, targets.reshape(-1, 4), positive_flat, valid_flat)

        # Masks and keypoints are learned on positives alone, and those are the first places.
        most = int(labels.shape[1] * self.roi_positive_fraction) or 1
        positives = [a[:, :most] for a in (rois, labels, which, positive)]
        if hasattr(self.roi_heads, "mask_head"):
            losses["loss_mask"] = self._mask_loss(features, batch, *positives)
        if self.keypoints:
            losses["loss_keypoint"] = self._keypoint_loss(features, batch, *positives)
        record(**losses)
        return losses

    def _mask_loss(self, features, batch, rois, labels, which, positive):
        targets = mask_targets(
            batch.masks, rois, which, self.mask_size(), self.aligned, self.conventions["binary_mask_targets"]
        )
        slots = used(positive)
        boxes, image_index = flatten(rois)
        x = self.pool(features, boxes[slots], image_index[slots], self.mask_pool_size, "mask")
        logits = self.mask_branch(x)
        record(mask_logits=logits, mask_targets=targets)
        targets = targets.reshape(-1, *targets.shape[2:])[slots]
        channel = self._mask_channel(labels.reshape(-1)[slots])
        return mask_loss(logits, channel, targets, positive.reshape(-1)[slots], kind=self.mask_loss)

    def _keypoint_loss(self, features, batch, rois, labels, which, positive):
        if batch.keypoints is None or batch.keypoints.shape[2] != self.keypoints:
            count = 0 if batch.keypoints is None else batch.keypoints.shape[2]
            raise InputError(f"the model learns {self.keypoints} keypoints an object, the data has {count}")
        size = 4 * self.keypoint_pool_size
        places, visible = keypoint_targets(batch.keypoints, rois, which, size)  # (N, S, K)
        visible = visible & positive[..., None]
        slots = used(positive)
        boxes, image_index = flatten(rois)
        x = self.pool(features, boxes[slots], image_index[slots], self.keypoint_pool_size, "keypoint")
        logits = self.keypoint_branch(x)
        record(keypoint_logits=logits, keypoint_targets=places, keypoint_visible=visible)
        places, visible = (a.reshape(-1, self.keypoints)[slots] for a in (places, visible))
        return keypoint_loss(logits, places, visible)

    def detect(self, batch):
        """Batch -> Detections: boxes in pixels of the resized image, masks as probabilities inside their boxes."""
        batch = self._checked(batch)
        with no_grad():
            features = self.features(self._images(batch))
            predictions, anchors = self.rpn(features[self.rpn_first_level :], batch.images.shape[1:3])
            proposals, _, valid = self.rpn.proposals(predictions.data, anchors, batch.sizes)
            slots = used(valid)
            boxes, image_index = flatten(proposals)
            x = self.pool(features, boxes[slots], image_index[slots], self.box_pool_size, "box")
            class_logits, box_deltas = self.box_branch(x)
            record(class_logits=class_logits, box_deltas=box_deltas)
            class_logits, box_deltas = (spread(t.data, slots, valid.shape) for t in (class_logits, box_deltas))
            found = detect(class_logits, box_deltas, proposals, valid, batch.sizes, BOX_WEIGHTS, **self.detection)
            record(
                detected_boxes=found.boxes, detected_labels=found.labels, detected_scores=found.scores,
                detected_valid=found.valid,
            )  # fmt: skip
            found.whole_pixels = self.conventions["whole_pixels"]

            slots = used(found.valid)
            boxes, image_index = flatten(found.boxes)
            boxes, image_index = boxes[slots], image_index[slots]
            if hasattr(self.roi_heads, "mask_head"):
                x = self.pool(features, boxes, image_index, self.mask_pool_size, "mask")
                channel = self._mask_channel(found.labels.reshape(-1)[slots])
                logits = self.mask_branch(x, channel)
                masks = mask_probabilities(logits.data, channel, self.mask_loss)
                record(mask_logits=logits, mask_probabilities=masks)
                found.masks = spread(masks, slots, found.valid.shape)
            if self.keypoints:
                x = self.pool(features, boxes, image_index, self.keypoint_pool_size, "keypoint")
                logits = self.keypoint_branch(x)
                points = decode_keypoints(logits.data, boxes)
                record(keypoint_logits=logits, keypoints=points)
                found.keypoints = spread(points, slots, found.valid.shape)
            return found

    def predict(self, images):
        """List of (H, W, 3) uint8 RGB arrays of any sizes -> list of Prediction in their own pixels."""
        training = self.training
        self.eval()
        try:
            batch = self.transform(images)
            with enough_memory("predict fewer images at once"):
                return restore(self.detect(batch), batch)
        finally:
            self.train(training)

    # -------------------------------------------------------------------------------------------------------- parts

    def sample_rois(self, proposals, valid, batch, rng):
        """RoIs to train the heads on -> rois (N, S, 4), labels (N, S) with 0 the background, which object, positive,
        valid.

        The ground truth boxes are proposals too, so that the heads see positives from the first step.
        """
        xp = array_module(proposals)
        real = batch.valid & ~batch.crowd
        boxes = xp.concatenate([proposals, batch.boxes.astype(proposals.dtype)], axis=1)
        valid = xp.concatenate([valid, real], axis=1)
        matched, which = match(boxes, batch.boxes, real, batch.crowd, self.roi_iou, self.roi_iou)
        matched[~valid] = -1
        index, positive, valid = sample(matched, self.roi_samples, self.roi_positive_fraction, rng)
        which = take(which, index)
        return take(boxes, index), xp.where(positive, take(batch.labels, which), 0), which, positive, valid

    def pool(self, features, boxes, image_index, size, branch):
        """RoI features (R, size, size, C), each RoI from the level that its size asks for. branch: for `record`."""
        features = features[: len(self.roi_strides)]
        scales = [1 / stride for stride in self.roi_strides]
        finest = int(np.log2(self.roi_strides[0]))
        levels = assign_levels(boxes, finest, len(features), self.roi_canonical_size)
        if self.neck == "c4":
            size = 14  # stage 5 halves it
        x = POOLINGS[self.roi_pooling](
            features, boxes, image_index, levels, scales, size, sampling_ratio=self.sampling_ratio, aligned=self.aligned
        )
        record(**{f"{branch}_levels": levels, f"{branch}_features": x})
        return x

    def box_branch(self, x):
        """RoI features -> class logits (R, C), box deltas (R, 4 C)."""
        heads = self.roi_heads
        x = heads.res5(x).mean(axis=(1, 2)) if self.neck == "c4" else heads.box_head(x)
        return heads.box_predictor(x)

    def mask_branch(self, x, labels=None):
        """RoI features -> mask logits (R, M, M, C): one mask for each class, the class branch chooses (slide L20).

        With its choice `labels` (R,), for inference, only those masks are computed: (R, M, M, 1). Where classes
        compete (softmax) all are needed.
        """
        heads = self.roi_heads
        x = heads.res5(x) if self.neck == "c4" else x
        x = heads.mask_head(x)
        if not hasattr(heads, "mask_predictor"):
            return x
        return heads.mask_predictor(x, labels if self.mask_loss == "sigmoid" else None)

    def keypoint_branch(self, x):
        """RoI features -> a logit for each place and keypoint (R, 4 size, 4 size, K): one-hot masks (slide T25)."""
        return self.roi_heads.keypoint_predictor(self.roi_heads.keypoint_head(x))

    def mask_size(self):
        """Side of a predicted mask: the transposed convolution doubles what was pooled (slide L23)."""
        return 14 if self.neck == "c4" else 2 * self.mask_pool_size

    def _mask_channel(self, labels):
        return labels * 0 if self.class_agnostic_masks else labels

    def _checked(self, batch):
        """The batch on the model's device. ValueError if it is none."""
        if not isinstance(batch, Batch):
            raise ValueError(
                "MaskRCNN: takes a Batch (model.transform makes one of images; model.predict takes images themselves), "
                f"got {type(batch).__name__}"
            )
        if batch.images.ndim != 4 or batch.images.shape[3] != 3:
            raise ValueError(f"MaskRCNN: images must be (N, H, W, 3), got shape {batch.images.shape}")
        return batch.to(self.device)

    def _images(self, batch):
        """The images as a Tensor of the model's dtype."""
        record(images=batch.images)
        return F.Tensor(batch.images.astype(self.backbone.body.conv1.weight.dtype, copy=False))


def flatten(rois):
    """(N, S, 4) -> boxes (N S, 4) and the image of each (N S,)."""
    n, s, _ = rois.shape
    return rois.reshape(n * s, 4), array_module(rois).arange(n).repeat(s)


def used(valid):
    """The places (N S) worth computing, as an index. On the GPU all: a size that depends on values would wait for it.

    On the CPU knowing it is free, so only the valid ones are computed (one at least, so that no array is empty).
    """
    if not on_cpu(valid) or valid.all():
        return slice(None)
    return np.flatnonzero(valid) if valid.any() else np.zeros(1, np.int64)


def spread(values, slots, shape):
    """Put `values` (R, ...) at places `slots` of zeros (N, S, ...): the inverse of picking them."""
    if isinstance(slots, slice):
        return values.reshape(*shape, *values.shape[1:])
    result = array_module(values).zeros((shape[0] * shape[1], *values.shape[1:]), values.dtype)
    result[slots] = values
    return result.reshape(*shape, *values.shape[1:])


# ------------------------------------------------------------------------------------------------------------- presets

PRESETS = {
    # Trains on drawn 128 x 128 scenes on two CPU cores in minutes. RoIs read a level of stride 2 too: an animal of 16
    # pixels is 4 x 4 cells at stride 4, too few for ears and tails.
    "toy": dict(
        backbone="resnet18", norm="batch",
        backbone_settings=dict(channels=(32, 64, 128, 128), stem="fine"),
        fpn_channels=64, fpn_pool=False, rpn_first_level=1, anchor_sizes=((14, 20), (28, 40), (56, 80)),
        rpn=dict(samples=128, pre_nms=(500, 500), post_nms=(200, 200)),
        roi_samples=64, roi_canonical_size=224, aligned=True, whole_pixels=False, box_width=256,
        mask_channels=(64, 64, 64, 64), mask_width=64, keypoint_channels=(64, 64, 64, 64),
        min_size=128, max_size=256,
    ),
    # For one's own small data set: group norm needs no large batch, anchors begin at 12 pixels.
    "small": dict(
        backbone="resnet18", norm="group",
        backbone_settings=dict(channels=(32, 32, 64, 128), stem="small"),
        fpn_channels=64, fpn_pool=False, anchor_sizes=((12,), (24,), (48,), (96,)),
        rpn=dict(samples=128, pre_nms=(500, 500), post_nms=(300, 300)),
        roi_samples=128, roi_canonical_size=112, aligned=True, whole_pixels=False, box_width=256,
        mask_channels=(64, 64, 64, 64), mask_width=64, keypoint_channels=(64, 64, 64, 64),
        detection=dict(max_detections=200), min_size=256, max_size=384,
    ),
    "resnet50_fpn": dict(backbone="resnet50"),
    "resnet101_fpn": dict(backbone="resnet101"),
    "resnext50_fpn": dict(backbone="resnext50_32x4d"),
    "resnext101_fpn": dict(backbone="resnext101_32x8d"),
    "resnet50_c4": dict(backbone="resnet50", neck="c4", anchor_sizes=((32, 64, 128, 256, 512),)),
    "resnet50_dilated_c5": dict(backbone="resnet50", neck="c5", anchor_sizes=((32, 64, 128, 256, 512),)),
}  # fmt: skip


def build(preset="toy", num_classes=4, seed=0, **settings):
    """A MaskRCNN with random weights: a preset's settings, changed by `settings`, weights drawn from `seed`.

    `rpn`, `detection` and `backbone_settings` given here are merged into the preset's. `build(**model.settings)` makes
    the same architecture again. Raises InputError for an unknown preset or setting.
    """
    if preset not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    known = list(inspect.signature(MaskRCNN.__init__).parameters)[2:]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise InputError(f"unknown model setting {unknown[0]!r}; settings are {', '.join(known)}")
    merged = dict(PRESETS[preset])
    for name, value in settings.items():
        merged[name] = {**(merged.get(name) or {}), **value} if isinstance(value, dict) else value
    nn.seed_initializers(seed)
    model = MaskRCNN(num_classes, **merged)
    model.settings = dict(preset=preset, num_classes=int(num_classes), seed=seed, **settings)
    return model


def sampling_generator(seed, step):
    """The generator that samples anchors and RoIs in training step `step`: a function of both, so no state is kept."""
    return generator(seed, step, 1)
