"""Mask R-CNN: the stages in the order of the talk. He et al. 2017; slides T08, T09, T13, L05.

image -> body -> C2..C5 -> FPN -> P2..P6 -> RPN -> proposals -> RoIAlign -> box head      -> classes and boxes
                                                             -> RoIAlign -> mask head     -> one mask per class
                                                             -> RoIAlign -> keypoint head -> K points (optional)

`MaskRCNN.forward` is this figure. Settings are in presets.py, one group per stage. Shapes: N images, R boxes or
proposals, S sampled RoIs and D detections per image, C classes with the background, K keypoints.
`record` notes what each stage computed while somebody looks (trace.py).
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
from minimask.run.predictor import Predictor
from minimask.structures import Batch, RoIs, in_use, spread
from minimask.targets import match, sample, take
from minimask.trace import record

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
POOLINGS = {"roi_align": roi_align, "roi_pool": roi_pool, "roi_warp": roi_warp}
C4_SIZE = 14  # with neck "c4" RoIs are pooled to 14 x 14, and stage 5 halves them


class MaskRCNN(nn.Module, Predictor):
    """The model: `model(batch, rng)` returns a dict of losses, `model(batch)` Detections (in inference mode).

    num_classes: number of classes with the background, so at least 2.
    backbone, rpn, roi, heads, detection, transform, conventions: groups of settings, each a dict or an object of its
        class in presets.py, which documents every setting. The defaults are those of ResNet-50 with a pyramid.
    """

    def __init__(self, num_classes, **groups):
        if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)) or num_classes < 2:
            raise InputError(
                f"num_classes must be an integer of at least 2 (the background and one class), got {num_classes!r}"
            )
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
        if self.neck != "fpn":
            self.roi_strides = body.strides[-1:]
            return body.out_channels[-1]
        self.backbone.fpn = FPN(body.out_channels, settings.fpn_channels, settings.fpn_pool)
        self.roi_strides = body.strides
        return settings.fpn_channels

    def _body(self, settings, stages):
        own = {
            key: getattr(settings, key) for key in ("channels", "stem", "norm_eps", "layers", "groups", "group_width")
        }
        own = {key: value for key, value in own.items() if value is not None}
        own |= dict(stages=stages, dilate_c5=self.neck == "c5", stride_in_1x1=self.conventions["stride_in_1x1"])
        return resnet(settings.name, settings.norm, **own)

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
            last = convolutions[-1] if convolutions else inside
            heads.mask_predictor = MaskPredictor(last, settings.mask_width, masks)
        if settings.keypoints:
            heads.keypoint_head = KeypointHead(channels, settings.keypoint_channels)
            heads.keypoint_predictor = KeypointPredictor(settings.keypoint_channels[-1], settings.keypoints)

    def forward(self, batch, rng=None):
        """The figure: a dict of losses (scalar Tensors) if `rng` is given, else Detections.

        batch: a Batch of N images; for losses with ground truth.
        rng: the generator that samples anchors and RoIs (see sampling_generator).
        Training minimizes the sum of the losses (slide L26).
        """
        batch = self._checked(batch, rng)
        features = self.features(self._images(batch))
        logits, deltas, anchors = self.rpn(features[self.rpn_first_level :], batch.images.shape[1:3])
        proposals, _, valid = self.rpn.proposals(logits.data, deltas.data, anchors, batch.sizes)

        if rng is None:
            found = self.find_boxes(features, proposals, valid, batch.sizes)
            found.masks = self.find_masks(features, found) if self.heads.mask else None
            found.keypoints = self.find_keypoints(features, found) if self.heads.keypoints else None
            return found

        losses = self.rpn.losses(logits, deltas, anchors, batch, rng)
        rois = self.sample_rois(proposals, valid, batch, rng)
        losses |= self.box_losses(features, batch, rois)
        positives = rois.first(int(self.roi.samples * self.roi.positive_fraction) or 1)
        losses |= self.mask_losses(features, batch, positives) if self.heads.mask else {}
        losses |= self.keypoint_losses(features, batch, positives) if self.heads.keypoints else {}
        record(**losses)
        return losses

    def losses(self, batch, rng):
        """The losses of a Batch with ground truth, whatever mode the model is in (validation uses inference mode).

        Returns {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask",
        "loss_keypoint"}, the last two if the model has these branches.
        """
        if rng is None:
            raise ValueError("MaskRCNN.losses: needs rng=sampling_generator(seed, step)")
        return self.forward(batch, rng)

    def detect(self, batch):
        """Batch -> Detections: boxes in pixels of the resized image, masks as probabilities inside their boxes.

        It runs in inference mode, whatever mode the model is in.
        """
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

    def sample_rois(self, proposals, valid, batch, rng):
        """Proposals (N, R, 4) with valid (N, R) -> RoIs, the boxes on which the heads are trained.

        The ground truth boxes are proposals too, so that the heads see positives from the first step.
        """
        xp = array_module(proposals)
        real = batch.valid & ~batch.crowd
        boxes = xp.concatenate([proposals, batch.boxes.astype(proposals.dtype)], axis=1)  # (N, R + G, 4)
        valid = xp.concatenate([valid, real], axis=1)

        matched, matches = match(boxes, batch.boxes, real, batch.crowd, self.roi.iou, self.roi.iou)
        matched[~valid] = -1
        index, positive, valid = sample(matched, self.roi.samples, self.roi.positive_fraction, rng)
        matches = take(matches, index)
        return RoIs(take(boxes, index), xp.where(positive, take(batch.labels, matches), 0), matches, positive, valid)

    def box_losses(self, features, batch, rois):
        """{"loss_classifier", "loss_box_reg"} on the sampled RoIs."""
        _, boxes, image_index = in_use(rois.boxes)
        class_logits, box_deltas = self.box_branch(self.pool(features, boxes, image_index, self.roi.box_size, "box"))
        targets = box_ops.encode(take(batch.boxes, rois.matches), rois.boxes, BOX_WEIGHTS)
        targets = array_module(targets).where(rois.positive[..., None], targets, 0)
        record(rois=rois.boxes, roi_labels=rois.labels, roi_matches=rois.matches, roi_positive=rois.positive)
        record(roi_valid=rois.valid, box_targets=targets, class_logits=class_logits, box_deltas=box_deltas)

        labels, positive, valid = (a.reshape(-1) for a in (rois.labels, rois.positive, rois.valid))  # (N*S,) each
        return {
            "loss_classifier": class_loss(class_logits, labels, valid),
            "loss_box_reg": box_loss(box_deltas, labels, targets.reshape(-1, 4), positive, valid),
        }

    def mask_losses(self, features, batch, rois):
        """{"loss_mask"} on RoIs, of which only the positives count."""
        aligned, binary = self.conventions["aligned"], self.conventions["binary_mask_targets"]
        targets = mask_targets(batch.masks, rois.boxes, rois.matches, self.mask_size(), aligned, binary)
        slots, boxes, image_index = in_use(rois.boxes, rois.positive)
        logits = self.mask_branch(self.pool(features, boxes, image_index, self.roi.mask_size, "mask"))
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
        slots, boxes, image_index = in_use(rois.boxes, rois.positive)
        logits = self.keypoint_branch(self.pool(features, boxes, image_index, self.roi.keypoint_size, "keypoint"))
        record(keypoint_logits=logits, keypoint_targets=places, keypoint_visible=visible)

        places, visible = places.reshape(-1, count)[slots], visible.reshape(-1, count)[slots]
        return {"loss_keypoint": keypoint_loss(logits, places, visible)}

    # Inference

    def find_boxes(self, features, proposals, valid, sizes):
        """Detections, still without masks and keypoints: what the box head makes of the proposals."""
        slots, boxes, image_index = in_use(proposals, valid)
        class_logits, box_deltas = self.box_branch(self.pool(features, boxes, image_index, self.roi.box_size, "box"))
        record(class_logits=class_logits, box_deltas=box_deltas)

        class_logits, box_deltas = (spread(x.data, slots, valid.shape) for x in (class_logits, box_deltas))
        found = detect(class_logits, box_deltas, proposals, valid, sizes, BOX_WEIGHTS, **vars(self.detection))
        found.whole_pixels = self.conventions["whole_pixels"]
        record(detected_boxes=found.boxes, detected_labels=found.labels)
        record(detected_scores=found.scores, detected_valid=found.valid)
        return found

    def find_masks(self, features, found):
        """Probabilities (N, D, M, M) inside each detected box, those of its class."""
        slots, boxes, image_index = in_use(found.boxes, found.valid)
        channel = self.mask_channel(found.labels.reshape(-1)[slots])
        logits = self.mask_branch(self.pool(features, boxes, image_index, self.roi.mask_size, "mask"), channel)
        masks = mask_probabilities(logits.data, channel, self.heads.mask_loss)
        record(mask_logits=logits, mask_probabilities=masks)
        return spread(masks, slots, found.valid.shape)

    def find_keypoints(self, features, found):
        """The keypoints (N, D, K, 3) of each detection: x, y, score."""
        slots, boxes, image_index = in_use(found.boxes, found.valid)
        logits = self.keypoint_branch(self.pool(features, boxes, image_index, self.roi.keypoint_size, "keypoint"))
        points = decode_keypoints(logits.data, boxes)
        record(keypoint_logits=logits, keypoints=points)
        return spread(points, slots, found.valid.shape)

    def _checked(self, batch, rng):
        """The batch on the model's device. Raises ValueError if the model cannot use it."""
        if not isinstance(batch, Batch):
            raise ValueError(
                "MaskRCNN: takes a Batch (model.transform makes one of images; model.predict takes images themselves), "
                f"got {type(batch).__name__}"
            )
        if batch.images.ndim != 4 or batch.images.shape[3] != 3:
            raise ValueError(f"MaskRCNN: images must be (N, H, W, 3), got shape {batch.images.shape}")
        if rng is None and self.training:
            raise ValueError(
                "MaskRCNN: in training mode it needs a Batch with ground truth and rng=sampling_generator(seed, step); "
                "to find objects call model.eval() first, or model.detect(batch) or model.predict(images)"
            )
        if rng is not None and batch.boxes is None:
            raise ValueError("MaskRCNN: losses need a Batch with ground truth and rng; this one has images alone")
        return batch.to(self.device)

    def _images(self, batch):
        """The images as a Tensor of the model's dtype."""
        record(images=batch.images)
        return F.Tensor(batch.images.astype(self.backbone.body.conv1.weight.dtype, copy=False))


def build(preset="toy", num_classes=None, seed=0, classes=None, **groups):
    """A MaskRCNN with random weights: a preset, changed by `groups`.

    preset: a name in presets.PRESETS.
    num_classes: number of classes with the background; by default that of `classes`, or 4.
    seed: of the random weights.
    classes: names of the classes, without the background: ["cat", "dog", "duck"].
    groups: dicts of settings that are merged into the preset's: build("toy", rpn={"samples": 64}).
    `build(**model.settings)` makes the same architecture again. Raises InputError for an unknown name or a bad value.
    """
    if num_classes is None:
        num_classes = 4 if classes is None else len(classes) + 1
    chosen = presets.complete(groups, preset)
    nn.seed_initializers(seed)
    model = MaskRCNN(num_classes, **chosen)
    model.settings = dict(preset=preset, num_classes=int(num_classes), seed=seed, **presets.saved(groups))
    return model if classes is None else model.name_classes(classes)


def sampling_generator(seed, step):
    """The generator that samples anchors and RoIs in training step `step`: a function of both, so no state is kept."""
    return generator(seed, step, 1)
