"""Region proposal network: is there an object at this anchor, and how must the anchor move to fit it?

Ren et al. 2015, section 3.1; Lin et al. 2017, section 4.1 (one head for all pyramid levels); slides T08, L06, L10.

N images, P anchors per place of a feature map, A anchors per image (all places of all levels).
"""

from itertools import accumulate

from minimask import boxes as box_ops
from minimask import functional as F
from minimask import nn
from minimask.anchors import AnchorGenerator
from minimask.convolution import conv2d
from minimask.device import array_module
from minimask.losses import objectness_loss, rpn_box_loss
from minimask.targets import match, sample, take, top_k_of_levels
from minimask.trace import record


class RPNHead(nn.Module):
    """A 3x3 convolution, then two 1x1 convolutions: one logit and four deltas for each anchor of a place."""

    def __init__(self, channels, anchors_per_location):
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, relu=True)))
        self.cls_logits = nn.Conv2d(channels, anchors_per_location, 1)
        self.bbox_pred = nn.Conv2d(channels, anchors_per_location * 4, 1)
        for conv in (self.conv[0][0], self.cls_logits, self.bbox_pred):
            conv.weight.data[...] = nn.normal(nn.init_rng(), conv.weight.shape, 0.01)

    def forward(self, x):
        """Features (N, h, w, C) of one level -> logits (N, h, w, P) and deltas (N, h, w, 4 P)."""
        x = self.conv(x)
        return side_by_side(x, self.cls_logits, self.bbox_pred)  # self.cls_logits(x), self.bbox_pred(x) in one pass


class RPN(nn.Module):
    """Proposals from features, and the two RPN losses.

    channels: of the feature maps. settings: RPNSettings (run/model_settings.py). anchor_rounding: see conventions.py.
    """

    def __init__(self, channels, settings, anchor_rounding="pixels"):
        self.settings = settings
        self.anchor_generator = AnchorGenerator(settings.anchor_sizes, settings.anchor_ratios, anchor_rounding)
        self.head = RPNHead(channels, self.anchor_generator.per_location[0])

    def forward(self, features, padded_size):
        """The predictions for all anchors, in the order of the anchors: level, row, column, anchor.

        features: list of Tensors (N, h, w, C), one per level.
        padded_size: (H, W) of the images of the batch, in pixels.

        Returns logits, a Tensor (N, A), deltas, a Tensor (N, A, 4), and the anchors: a list of (A_level, 4) arrays.
        """
        n = features[0].shape[0]
        logits, deltas = zip(*[self.head(x) for x in features])
        logits = F.concatenate([x.reshape(n, -1) for x in logits], axis=1)
        deltas = F.concatenate([x.reshape(n, -1, 4) for x in deltas], axis=1)
        xp = array_module(logits.data)
        return logits, deltas, self.anchor_generator([x.shape[1:3] for x in features], padded_size, xp)

    def proposals(self, logits, deltas, anchors, sizes, with_anchors=False):
        """The best boxes of each image: raw arrays, through which no gradient flows.

        Take the best `pre_nms` of each level by score, move the anchors, clip the boxes to their image, drop those
        without a size, suppress within each level, and keep the best `post_nms` of all levels.

        logits (N, A), deltas (N, A, 4): arrays of `forward`.
        anchors: list of (A_level, 4), pixels of the padded image.
        sizes: (N, 2) height and width of each image without its padding, in pixels.

        Returns boxes (N, R, 4), scores (N, R), valid (N, R) bool and, if with_anchors, the anchor of each (N, R) int.
        """
        xp, settings = array_module(logits), self.settings
        pre_nms, post_nms = (pair[0 if self.training else 1] for pair in (settings.pre_nms, settings.post_nms))
        counts = [len(level_anchors) for level_anchors in anchors]
        chosen, level_of = top_k_of_levels(logits, counts, [min(pre_nms, count) for count in counts])  # (N, K) each
        all_anchors = xp.concatenate(anchors)  # (A, 4)
        record(anchors=all_anchors, objectness=logits, rpn_deltas=deltas)

        deltas = take(deltas, chosen)[:, :, None]  # (N, K, 1, 4): there is one class, "object"
        predicted = box_ops.predicted(deltas, all_anchors[chosen], sizes, side=settings.smallest_side)
        boxes, large = (x[:, :, 0] for x in predicted)
        scores = F.sigmoid_array(take(logits, chosen))
        kept, valid = box_ops.nms(boxes, scores, large, settings.nms_threshold, max_kept=post_nms, groups=level_of)

        boxes, scores = take(boxes, kept) * valid[..., None], take(scores, kept) * valid
        record(proposals=boxes, proposal_scores=scores, proposal_valid=valid)
        return (boxes, scores, valid, take(chosen, kept)) if with_anchors else (boxes, scores, valid)

    def losses(self, logits, deltas, anchors, batch, rng):
        """{"loss_objectness", "loss_rpn_box_reg"}, two scalar Tensors, on anchors that are sampled with `rng`.

        logits, deltas: Tensors of `forward`; anchors: list of (A_level, 4); batch: a Batch with ground truth.
        """
        xp, settings = array_module(logits.data), self.settings
        anchors, real = xp.concatenate(anchors), batch.valid & ~batch.crowd
        labels, matched = match(
            anchors[None], batch.boxes, real, batch.crowd, settings.low, settings.high, allow_low_quality=True
        )
        index, positive, valid = sample(labels, settings.samples, settings.positive_fraction, rng)  # (N, S) each

        images = xp.arange(len(index))[:, None]
        logits, deltas = logits[images, index], deltas[images, index]  # (N, S), (N, S, 4)
        targets = box_ops.encode(take(batch.boxes, take(matched, index)), anchors[index])
        targets = xp.where(positive[..., None], targets, 0).astype(deltas.dtype)
        record(rpn_labels=labels, rpn_matches=matched, rpn_sampled=index)
        record(rpn_positive=positive, rpn_valid=valid, rpn_targets=targets)
        return {
            "loss_objectness": objectness_loss(logits, positive, valid),
            "loss_rpn_box_reg": rpn_box_loss(deltas, targets, positive, valid),
        }


def side_by_side(x, *layers):
    """[layer(x) for layer in layers] for 1x1 convolutions, computed as one convolution that has all their filters.

    The RPN's 1x1 convolutions have few filters each, so two passes over the map would take longer than one.
    """
    weight = F.concatenate([layer.weight for layer in layers], axis=3)  # (1, 1, C, sum of the filters)
    y = conv2d(x, weight, F.concatenate([layer.bias for layer in layers]))
    ends = accumulate(layer.weight.shape[3] for layer in layers)
    return [y[..., end - layer.weight.shape[3] : end] for end, layer in zip(ends, layers)]
