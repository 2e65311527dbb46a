"""Mask R-CNN: the stages in the order of the talk. He et al. 2017; slides T08, T09, T13, L05.

image -> body -> C2..C5 -> FPN -> P2..P6 -> RPN -> proposals -> RoIAlign -> box head      -> classes and boxes
                                                             -> RoIAlign -> mask head     -> one mask per class
                                                             -> RoIAlign -> keypoint head -> K points (optional)

`MaskRCNN.forward` is this figure; `record` notes what each stage computes while somebody looks (trace.py). Shapes:
N images, R boxes, S sampled RoIs and D detections per image, C classes with the background, K keypoints.
"""

import numpy as np

from minimask import boxes as box_ops
from minimask import functional as F
from minimask import nn, presets
from minimask.backbone import resnet
from minimask.box_head import BoxPredictor, TwoLayerHead, detect
from minimask.conventions import resolve
from minimask.device import array_module, generator
from minimask.errors import InputError
from minimask.fpn import FPN
from minimask.image import ImageTransform
from minimask.keypoint_head import KeypointHead, KeypointPredictor, decode_keypoints, keypoint_targets
from minimask.losses import box_loss, class_loss, keypoint_loss, mask_loss
from minimask.mask_head import FCNMaskHead, MaskPredictor, MLPMaskHead, mask_probabilities, mask_targets
from minimask.roi_align import assign_levels, roi_align
from minimask.roi_pool import roi_pool, roi_warp
from minimask.rpn import RPN
from minimask.run.predictor import Predictor, check_batch
from minimask.structures import in_use, spread
from minimask.targets import sample_rois, take
from minimask.trace import record

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
POOLINGS = {"roi_align": roi_align, "roi_pool": roi_pool, "roi_warp": roi_warp}
C4_SIZE = 14  # with neck "c4" RoIs are pooled to 14 x 14, and stage 5 halves them


class MaskRCNN(nn.Module, Predictor):
    """The model: `model(batch, rng)` returns a dict of losses, `model.detect(batch)` Detections.

    num_classes: number of classes with the background, so at least 2.
    groups: backbone, rpn, roi, heads, detection, transform, conventions; each a dict, or an object of its class in
        run/model_settings.py, which documents every setting. By default a ResNet-50 with a pyramid.
    """

    def __init__(self, num_classes, **groups):
        presets.check_num_classes(num_classes)
        groups = presets.complete(groups)
        backbone, rpn = groups["backbone"], groups["rpn"]
        self.num_classes, self.neck = num_classes, backbone.neck
        self.roi, self.heads, self.detection = groups["roi"], groups["heads"], groups["detection"]
        self.conventions = resolve(**vars(groups["conventions"]))

        channels = self._add_backbone(backbone)
        self.rpn_first_level = rpn.first_level if self.neck == "fpn" else 0
        self.rpn = RPN(channels, rpn, self.conventions["anchor_rounding"])
        self._add_heads(channels, backbone)
        self.transform = ImageTransform(**vars(groups["transform"]), divisor=32)

    def _add_backbone(self, settings):
        """Add body and neck; returns the channels of the feature maps that the RPN and the heads read."""
        self.backbone = nn.Module()
        self.backbone.body = body = self._body(settings, stages=3 if self.neck == "c4" else 4)
        self.roi_strides = body.strides if self.neck == "fpn" else body.strides[-1:]
        if self.neck != "fpn":
            return body.out_channels[-1]
        self.backbone.fpn = FPN(body.out_channels, settings.fpn_channels, settings.fpn_pool)
        return settings.fpn_channels

    def _body(self, settings, stages):
        stride_in_1x1 = self.conventions["stride_in_1x1"]
        return resnet(stages=stages, dilate_c5=self.neck == "c5", stride_in_1x1=stride_in_1x1, **settings.body())

    def _add_heads(self, channels, backbone):
        """Add the heads, which read RoI features of `channels`."""
        heads, settings, c4 = nn.Module(), self.heads, self.neck == "c4"
        self.roi_heads, inside, side = heads, channels, self.roi.mask_size
        if c4:  # stage 5 is the first part of the box head and the mask head
            whole = self._body(backbone, stages=4)
            heads.res5, inside, side = whole.layer4, whole.out_channels[-1], C4_SIZE // 2
            heads.box_predictor = BoxPredictor(inside, self.num_classes)
        else:
            heads.box_head = TwoLayerHead(self.roi.box_size**2 * inside, settings.box_width)
            heads.box_predictor = BoxPredictor(settings.box_width, self.num_classes)

        masks = 1 if settings.class_agnostic_masks else self.num_classes
        if settings.mask == "mlp":
            heads.mask_head = MLPMaskHead(side**2 * inside, settings.mask_width, masks, self.mask_size())
        elif settings.mask == "fcn":
            convolutions = () if c4 else settings.mask_channels
            heads.mask_head = FCNMaskHead(inside, convolutions)
            heads.mask_predictor = MaskPredictor((inside, *convolutions)[-1], settings.mask_width, masks)
        if settings.keypoints:
            heads.keypoint_head = KeypointHead(channels, settings.keypoint_channels)
            heads.keypoint_predictor = KeypointPredictor(settings.keypoint_channels[-1], settings.keypoints)

    def forward(self, batch, rng=None):
        """The figure. Returns losses if `rng` is given, else Detections.

        batch: a Batch of N images; for losses with ground truth.
        rng: the generator that samples anchors and RoIs (see sampling_generator).
        The losses are scalar Tensors: loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg, loss_mask and
        loss_keypoint, the last two if the model has these branches. Training minimizes their sum (slide L26).
        """
        check_batch(batch, rng, self.training)
        batch = batch.to(self.device)
        record(images=batch.images)
        images = F.Tensor(batch.images.astype(self.backbone.body.conv1.weight.dtype, copy=False))
        features = self.features(images)  # P2 .. P6
        logits, deltas, anchors = self.rpn(features[self.rpn_first_level :], batch.images.shape[1:3])
        proposals, _, valid = self.rpn.proposals(logits.data, deltas.data, anchors, batch.sizes)

        if rng is None:
            found = self.find_boxes(features, proposals, valid, batch.sizes)
            found.masks = self.find_masks(features, found) if self.heads.mask else None
            found.keypoints = self.find_keypoints(features, found) if self.heads.keypoints else None
            return found

        losses = self.rpn.losses(logits, deltas, anchors, batch, rng)
        rois = sample_rois(proposals, valid, batch, self.roi, rng)
        losses |= self.box_losses(features, batch, rois)
        positives = rois.first(int(self.roi.samples * self.roi.positive_fraction) or 1)
        losses |= self.mask_losses(features, batch, positives) if self.heads.mask else {}
        losses |= self.keypoint_losses(features, batch, positives) if self.heads.keypoints else {}
        record(**losses)
        return losses

    def losses(self, batch, rng):
        """The losses of a Batch with ground truth, in training or (for validation) in inference mode."""
        if rng is None:
            raise ValueError("MaskRCNN.losses: needs rng=sampling_generator(seed, step)")
        return self.forward(batch, rng)

    def detect(self, batch):
        """Batch -> Detections, in inference mode and without gradients, whatever mode the model is in."""
        with self.inference():
            return self.forward(batch)

    # Stages that both halves use

    def features(self, images):
        """Images, a Tensor (N, H, W, 3) -> the feature maps that the RPN and the heads read, from fine to coarse."""
        body = self.backbone.body
        levels = body(images)
        record(**{f"C{int(np.log2(stride))}": x for stride, x in zip(body.strides, levels)})
        if self.neck != "fpn":
            return levels[-1:]
        levels = self.backbone.fpn(levels)
        record(**{f"P{int(np.log2(self.roi_strides[0])) + i}": x for i, x in enumerate(levels)})
        return levels

    def pool(self, features, boxes, image_index, size, branch):
        """RoI features (R, size, size, channels), each RoI from the pyramid level that its size asks for.

        boxes (R, 4): in pixels of the resized image. image_index (R,): the image of each. branch: name for `record`.
        """
        features = features[: len(self.roi_strides)]
        scales = [1 / stride for stride in self.roi_strides]
        finest = int(np.log2(self.roi_strides[0]))
        levels = assign_levels(boxes, finest, len(features), self.roi.canonical_size)

        pooling = self.roi.pooling if callable(self.roi.pooling) else POOLINGS[self.roi.pooling]
        settings = dict(sampling_ratio=self.roi.sampling_ratio, aligned=self.conventions["aligned"])
        size = C4_SIZE if self.neck == "c4" and branch != "keypoint" else size
        x = pooling(features, boxes, image_index, levels, scales, size, **settings)
        record(**{f"{branch}_levels": levels, f"{branch}_features": x})
        return x

    def _roi_features(self, features, boxes, valid, branch):
        """RoI features of the boxes (N, S, 4) that are in use -> index among all N*S, boxes (R, 4), features."""
        slots, boxes, image_index = in_use(boxes, valid)
        size = {"box": self.roi.box_size, "mask": self.roi.mask_size, "keypoint": self.roi.keypoint_size}[branch]
        return slots, boxes, self.pool(features, boxes, image_index, size, branch)

    def box_branch(self, x):
        """RoI features -> class logits (R, C) and box deltas (R, 4 C)."""
        heads = self.roi_heads
        return heads.box_predictor(heads.res5(x).mean(axis=(1, 2)) if self.neck == "c4" else heads.box_head(x))

    def mask_branch(self, x, labels=None):
        """RoI features -> mask logits (R, M, M, C): one mask per class; the class branch chooses (slide L20).

        With its choice `labels` (R,), for inference, only those masks are computed: (R, M, M, 1). Where classes
        compete (softmax) all of them are needed.
        """
        heads = self.roi_heads
        x = heads.mask_head(heads.res5(x) if self.neck == "c4" else x)
        if self.heads.mask == "mlp":
            return x
        return heads.mask_predictor(x, labels if self.heads.mask_loss == "sigmoid" else None)

    def keypoint_branch(self, x):
        """RoI features -> keypoint logits (R, 4 size, 4 size, K): one one-hot mask per keypoint (slide T25)."""
        return self.roi_heads.keypoint_predictor(self.roi_heads.keypoint_head(x))

    def mask_size(self):
        """Side of a predicted mask: the transposed convolution doubles what was pooled (slide L23)."""
        return C4_SIZE if self.neck == "c4" else 2 * self.roi.mask_size

    def mask_channel(self, labels):
        """Which of its masks belongs to each RoI: that of its class, or the only one."""
        return array_module(labels).zeros_like(labels) if self.heads.class_agnostic_masks else labels

    # Training

    def box_losses(self, features, batch, rois):
        """{"loss_classifier", "loss_box_reg"} on the sampled RoIs."""
        _, _, x = self._roi_features(features, rois.boxes, None, "box")
        class_logits, box_deltas = self.box_branch(x)
        targets = box_ops.encode(take(batch.boxes, rois.matches), rois.boxes, BOX_WEIGHTS)
        targets = array_module(targets).where(rois.positive[..., None], targets, 0)
        record(rois=rois.boxes, roi_labels=rois.labels, roi_matches=rois.matches, roi_positive=rois.positive)
        record(roi_valid=rois.valid, box_targets=targets, class_logits=class_logits, box_deltas=box_deltas)

        labels, positive, valid = (a.reshape(-1) for a in (rois.labels, rois.positive, rois.valid))  # (N*S,) each
        box_reg = box_loss(box_deltas, labels, targets.reshape(-1, 4), positive, valid)
        return {"loss_classifier": class_loss(class_logits, labels, valid), "loss_box_reg": box_reg}

    def mask_losses(self, features, batch, rois):
        """{"loss_mask"} on RoIs, of which only the positives count."""
        aligned, binary = self.conventions["aligned"], self.conventions["binary_mask_targets"]
        targets = mask_targets(batch.masks, rois.boxes, rois.matches, self.mask_size(), aligned, binary)
        slots, _, x = self._roi_features(features, rois.boxes, rois.positive, "mask")
        logits = self.mask_branch(x)
        record(mask_logits=logits, mask_targets=targets)

        targets = targets.reshape(-1, *targets.shape[2:])[slots]  # (N*S, M, M), then those in use
        channel, positive = self.mask_channel(rois.labels.reshape(-1)[slots]), rois.positive.reshape(-1)[slots]
        return {"loss_mask": mask_loss(logits, channel, targets, positive, kind=self.heads.mask_loss)}

    def keypoint_losses(self, features, batch, rois):
        """{"loss_keypoint"} on RoIs, of which only the positives count."""
        count = 0 if batch.keypoints is None else batch.keypoints.shape[2]
        if count != self.heads.keypoints:
            raise InputError(f"the model learns {self.heads.keypoints} keypoints per object, the data has {count}")
        places, visible = keypoint_targets(batch.keypoints, rois.boxes, rois.matches, 4 * self.roi.keypoint_size)
        visible = visible & rois.positive[..., None]  # (N, S, K)
        slots, _, x = self._roi_features(features, rois.boxes, rois.positive, "keypoint")
        logits = self.keypoint_branch(x)
        record(keypoint_logits=logits, keypoint_targets=places, keypoint_visible=visible)

        places, visible = places.reshape(-1, count)[slots], visible.reshape(-1, count)[slots]
        return {"loss_keypoint": keypoint_loss(logits, places, visible)}

    # Inference

    def find_boxes(self, features, proposals, valid, sizes):
        """Detections, still without masks and keypoints: what the box head makes of the proposals."""
        slots, _, x = self._roi_features(features, proposals, valid, "box")
        class_logits, box_deltas = self.box_branch(x)
        record(class_logits=class_logits, box_deltas=box_deltas)

        class_logits, box_deltas = (spread(x.data, slots, valid.shape) for x in (class_logits, box_deltas))
        found = detect(class_logits, box_deltas, proposals, valid, sizes, BOX_WEIGHTS, **vars(self.detection))
        found.whole_pixels = self.conventions["whole_pixels"]
        record(**{f"detected_{name}": getattr(found, name) for name in ("boxes", "labels", "scores", "valid")})
        return found

    def find_masks(self, features, found):
        """Probabilities (N, D, M, M) inside each detected box, those of its class."""
        slots, _, x = self._roi_features(features, found.boxes, found.valid, "mask")
        channel = self.mask_channel(found.labels.reshape(-1)[slots])
        logits = self.mask_branch(x, channel)
        masks = mask_probabilities(logits.data, channel, self.heads.mask_loss)
        record(mask_logits=logits, mask_probabilities=masks)
        return spread(masks, slots, found.valid.shape)

    def find_keypoints(self, features, found):
        """The keypoints (N, D, K, 3) of each detection: x, y, score."""
        slots, boxes, x = self._roi_features(features, found.boxes, found.valid, "keypoint")
        logits = self.keypoint_branch(x)
        points = decode_keypoints(logits.data, boxes)
        record(keypoint_logits=logits, keypoints=points)
        return spread(points, slots, found.valid.shape)


def build(preset="toy", num_classes=None, seed=0, classes=None, **groups):
    """A model with random weights: a MaskRCNN by a preset, or a system of the decks, changed by `groups`.

    preset: a name in presets.PRESETS or systems.SYSTEMS.
    num_classes: number of classes with the background; by default that of `classes`, or 4.
    seed: seed of the random weights.
    classes: names of the classes, without the background: ["cat", "dog", "duck"].
    groups: dicts of settings that are merged into the preset's: build("toy", rpn={"samples": 64}).
    `build(**model.settings)` makes the same architecture again. Raises InputError for an unknown name or a bad value.
    """
    if num_classes is None:
        num_classes = 4 if classes is None else len(classes) + 1
    chosen = presets.complete(groups, preset)
    nn.seed_initializers(seed)
    model = presets.class_of(preset, MaskRCNN)(num_classes, **chosen)
    model.settings = dict(preset=preset, num_classes=int(num_classes), seed=seed, **presets.saved(groups))
    return model if classes is None else model.name_classes(classes)


def sampling_generator(seed, step):
    """The generator that samples anchors and RoIs in training step `step`: a function of both, so no state is kept."""
    return generator(seed, step, 1)
