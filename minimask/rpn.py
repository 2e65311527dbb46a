"""Region proposal network: at each anchor, is there an object, and how must the anchor move to fit it?

Ren et al. 2015, section 3.1; Lin et al. 2017, section 4.1 (one head for all pyramid levels); slides T08, L06, L10.
"""

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
    """Features of each level -> predictions (N, L, 5 P): for each place of all levels P logits, then 4 P deltas."""

    def __init__(self, channels, anchors_per_location):
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, relu=True)))
        self.cls_logits = nn.Conv2d(channels, anchors_per_location, 1)
        self.bbox_pred = nn.Conv2d(channels, anchors_per_location * 4, 1)
        for conv in (self.conv[0][0], self.cls_logits, self.bbox_pred):
            conv.weight.data[...] = nn.normal(nn.init_rng(), conv.weight.shape, 0.01)

    def forward(self, features):
        # Both 1x1 convolutions read the same map: side by side they are one, with 1 + 4 numbers an anchor.
        weight = F.concatenate([self.cls_logits.weight, self.bbox_pred.weight], axis=3)  # (1, 1, C, P + 4 P)
        bias = F.concatenate([self.cls_logits.bias, self.bbox_pred.bias])
        maps = [conv2d(self.conv(x), weight, bias) for x in features]  # (N, h, w, 5 P) each
        return F.concatenate([y.reshape(y.shape[0], y.shape[1] * y.shape[2], y.shape[3]) for y in maps], axis=1)


def logits_and_deltas(predictions):
    """Raw predictions (N, L, 5 P) of the head -> logits (N, L P), deltas (N, L P, 4), in the anchors' order."""
    n, places, numbers = predictions.shape
    p = numbers // 5
    return predictions[..., :p].reshape(n, places * p), predictions[..., p:].reshape(n, places * p, 4)


def logits_and_deltas_at(predictions, index):
    """The same as Tensors, at chosen anchors `index` (N, S) only -> (N, S), (N, S, 4): what the losses need."""
    xp = array_module(index)
    p = predictions.shape[2] // 5
    rows, place, which = xp.arange(len(index))[:, None, None], index[..., None] // p, index[..., None] % p
    columns = xp.concatenate([which, p + 4 * which + xp.arange(4)], axis=2)  # (N, S, 5)
    chosen = predictions[rows, place, columns]
    return chosen[..., 0], chosen[..., 1:]


class RPN(nn.Module):
    """Proposals from features, and the two RPN losses.

    anchor_sizes, anchor_ratios: see AnchorGenerator. samples, positive_fraction: anchors an image in the loss.
    low, high: IoU below which an anchor is background, from which on it is an object. pre_nms, post_nms: proposals
    kept a level before and an image after non-maximum suppression, each (training, inference). anchor_rounding: see
    conventions.py.
    """

    def __init__(
        self, channels, anchor_sizes, anchor_ratios=(0.5, 1.0, 2.0), samples=256, positive_fraction=0.5, low=0.3,
        high=0.7, pre_nms=(2000, 1000), post_nms=(2000, 1000), nms_threshold=0.7, smallest_side=1e-3,
        anchor_rounding="pixels",
    ):  # fmt: skip
        self.anchor_generator = AnchorGenerator(anchor_sizes, anchor_ratios, anchor_rounding)
        self.head = RPNHead(channels, self.anchor_generator.per_location[0])
        self.samples, self.positive_fraction, self.low, self.high = samples, positive_fraction, low, high
        self.pre_nms, self.post_nms = pre_nms, post_nms
        self.nms_threshold, self.smallest_side = nms_threshold, smallest_side

    def forward(self, features, padded_size):
        """-> predictions Tensor (N, L, 5 P) of RPNHead, anchors: list of (A_l, 4) arrays."""
        xp = array_module(features[0].data)
        anchors = self.anchor_generator([f.shape[1:3] for f in features], padded_size, xp)
        return self.head(features), anchors

    def proposals(self, predictions, anchors, sizes):
        """The best boxes: (N, R, 4) pixels of the resized image, scores (N, R) and valid (N, R). Raw arrays, no
        gradient.

        Best `pre_nms` a level by score; move the anchors; cut at the image's border (`sizes` (N, 2), without the
        padding); drop those that have no size; suppress within each level; best `post_nms` of all levels.
        """
        logits, deltas = logits_and_deltas(predictions)
        xp = array_module(logits)
        training = 0 if self.training else 1
        sizes_of_levels = [len(level_anchors) for level_anchors in anchors]
        counts = [min(self.pre_nms[training], size) for size in sizes_of_levels]
        chosen, level_of = top_k_of_levels(logits, sizes_of_levels, counts)  # (N, K) each
        all_anchors = xp.concatenate(anchors)
        record(anchors=all_anchors, objectness=logits, rpn_deltas=deltas)
        boxes, big = box_ops.predicted(
            take(deltas, chosen)[:, :, None], all_anchors[chosen], sizes, side=self.smallest_side
        )
        boxes, big = boxes[:, :, 0], big[:, :, 0]
        scores = F.sigmoid_array(take(logits, chosen))
        kept, valid = box_ops.nms(
            boxes, scores, big, self.nms_threshold, max_kept=self.post_nms[training], groups=level_of
        )
        boxes, scores = take(boxes, kept) * valid[..., None], take(scores, kept) * valid
        record(proposals=boxes, proposal_scores=scores, proposal_valid=valid)
        return boxes, scores, valid

    def losses(self, predictions, anchors, batch, rng):
        """{"loss_objectness", "loss_rpn_box_reg"} on anchors sampled with `rng`: two scalar Tensors."""
        xp = array_module(predictions.data)
        anchors = xp.concatenate(anchors)
        real = batch.valid & ~batch.crowd
        labels, which = match(
            anchors[None], batch.boxes, real, batch.crowd, self.low, self.high, allow_low_quality=True
        )
        index, positive, valid = sample(labels, self.samples, self.positive_fraction, rng)
        targets = box_ops.encode(take(batch.boxes, take(which, index)), anchors[index])
        logits, deltas = logits_and_deltas_at(predictions, index)
        targets = xp.where(positive[..., None], targets, 0).astype(deltas.dtype)
        record(
            rpn_labels=labels, rpn_matches=which, rpn_sampled=index, rpn_positive=positive, rpn_valid=valid,
            rpn_targets=targets,
        )  # fmt: skip
        return {
            "loss_objectness": objectness_loss(logits, positive, valid),
            "loss_rpn_box_reg": rpn_box_loss(deltas, targets, positive, valid),
        }
