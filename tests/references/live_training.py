"""torchvision trained on the anchors and RoIs that minimask sampled: what is left to differ is arithmetic."""

import contextlib

import numpy as np
import torch

from minimask.device import generator
from minimask.trace import Trace
from tests.references.live import to_chw


def our_losses(model, samples, seed=0):
    """Losses (Tensors) of our model in training, and its Trace, which says what was sampled."""
    with Trace() as trace:
        losses = model.train().losses(model.transform(samples), generator(seed))
    return losses, trace


def their_losses(model, samples, trace, others=0.0):
    """Losses of torchvision's model in training for what `trace` sampled.

    others: which part of the RoIs need not be among torchvision's own proposals.
    """
    dtype = next(model.parameters()).dtype
    targets = []
    for sample in samples:
        fields = dict(boxes=sample.boxes, labels=sample.labels, masks=sample.masks, keypoints=sample.keypoints)
        target = {key: torch.from_numpy(np.array(value)) for key, value in fields.items() if value is not None}
        target["boxes"] = target["boxes"].to(dtype)
        targets.append(target)
    model.train()
    normalize = model.transform.normalize
    model.transform.normalize = lambda image: normalize(image.float()).to(dtype)  # as ours do, also in float64
    try:
        with same_samples(model, trace, others):
            return model([to_chw(sample.image, dtype) for sample in samples], targets)
    finally:
        del model.transform.normalize


@contextlib.contextmanager
def same_samples(model, trace, others):
    """While inside, torchvision's `model` samples the anchors and the RoIs of `trace`.

    That these may be sampled is checked against torchvision's own matching: anchors and RoIs have its labels, and each
    RoI, but for a part `others`, is one of its proposals or a true box.
    """
    rpn, heads = model.rpn, model.roi_heads
    sampler = rpn.fg_bg_sampler
    rpn.fg_bg_sampler = lambda labels: sampled_anchors(labels, trace)
    heads.select_training_samples = lambda proposals, targets: sampled_rois(heads, proposals, targets, trace, others)
    try:
        yield
    finally:
        rpn.fg_bg_sampler = sampler
        del heads.select_training_samples


def sampled_anchors(labels, trace):
    """For each image a mask of the positive and one of the negative anchors; labels: torchvision's, (A,) an image."""
    positives, negatives = [], []
    for i, theirs in enumerate(labels):
        index, positive, valid = (trace[f"rpn_{key}"][i] for key in ("sampled", "positive", "valid"))
        for chosen, label, masks in ((valid & positive, 1, positives), (valid & ~positive, 0, negatives)):
            mask = torch.zeros(len(theirs), dtype=torch.uint8)
            mask[index[chosen]] = 1
            assert (theirs[mask > 0] == label).all(), f"image {i}: a sampled anchor is no {label} for torchvision"
            masks.append(mask)
    return positives, negatives


def sampled_rois(heads, proposals, targets, trace, others):
    """What select_training_samples returns, for our RoIs: they, their objects, labels and regression targets."""
    dtype = proposals[0].dtype
    truth = [t["boxes"].to(dtype) for t in targets]
    valid = trace["roi_valid"]
    rois = [torch.from_numpy(r[v]).to(dtype) for r, v in zip(trace["rois"], valid)]
    which, labels = heads.assign_targets_to_proposals(rois, truth, [t["labels"] for t in targets])
    for i, candidates in enumerate(heads.add_gt_proposals(proposals, truth)):
        distance = torch.cdist(rois[i], candidates, p=float("inf")).min(dim=1).values
        far = (distance > 1e-3 * trace["images"].shape[1]).float().mean()
        assert far <= others, f"image {i}: {far:.0%} of the RoIs are not among the proposals"
        np.testing.assert_array_equal(labels[i].numpy(), trace["roi_labels"][i][valid[i]])
    return rois, which, labels, heads.box_coder.encode([t[w] for t, w in zip(truth, which)], rois)


def gradients(model):
    """Name -> gradient of torchvision's model after `backward`."""
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
