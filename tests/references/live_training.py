"""torchvision trained on the anchors and RoIs that minimask sampled, so that only the arithmetic can differ."""

import contextlib

import numpy as np
import torch

from minimask.device import generator
from minimask.trace import Trace
from tests.references.live import to_chw


def our_losses(model, samples, seed=0):
    """The training losses (Tensors) of our model, and the Trace that records what was sampled."""
    with Trace() as trace:
        losses = model.train().losses(model.transform(samples), generator(seed))
    return losses, trace


def their_losses(model, samples, trace, others=0.0):
    """The training losses of torchvision's model for the anchors and RoIs in `trace`.

    others: the fraction of the RoIs of an image that may be missing from torchvision's proposals.
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
    model.transform.normalize = lambda image: normalize(image.float()).to(
        dtype
    )  # in float32 even if the model is float64, as in our model
    try:
        with same_samples(model, trace, others):
            return model([to_chw(sample.image, dtype) for sample in samples], targets)
    finally:
        del model.transform.normalize


@contextlib.contextmanager
def same_samples(model, trace, others):
    """While inside, torchvision's `model` samples the anchors and the RoIs of `trace`.

    They are checked against torchvision's own matching: anchors and RoIs must have the labels it assigns, and all RoIs
    except a fraction `others` must be among its proposals and the true boxes.
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
    """Per image, a mask of the positive and one of the negative anchors. labels: torchvision's, (A,) per image."""
    positives, negatives = [], []
    for i, theirs in enumerate(labels):
        index, positive, valid = (trace[f"rpn_{key}"][i] for key in ("sampled", "positive", "valid"))
        for chosen, label, masks in ((valid & positive, 1, positives), (valid & ~positive, 0, negatives)):
            mask = torch.zeros(len(theirs), dtype=torch.uint8)
            mask[index[chosen]] = 1
            assert (theirs[mask > 0] == label).all(), (
                f"image {i}: torchvision labels a sampled anchor other than {label}"
            )
            masks.append(mask)
    return positives, negatives


def sampled_rois(heads, proposals, targets, trace, others):
    """What select_training_samples returns, for our RoIs: the RoIs, their objects, labels and regression targets."""
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
    """Name -> gradient of each parameter of torchvision's model after `backward`."""
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
