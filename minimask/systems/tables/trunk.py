"""A trained, frozen body: its features and proposals are computed once, and only heads are trained on them.

The body, the pyramid and the RPN of the small model in this package see every scene once. The heads of a row then train
in seconds, and rows differ in nothing but their heads. The price: the body was trained with RoIAlign and masks and
leans towards them. So a second trunk, "pixels", has a body that was trained as an FCN, for the classes of pixels. An
FCN has no pyramid, so there the pyramid's convolutions stay random. The proposals are the small model's in any case.
"""

import numpy as np

from minimask import nn
from minimask.device import array_module
from minimask.tensor import Tensor, no_grad

PROPOSALS = 100  # per image


class Trunk:
    """The kept features of a model's body (and neck), and proposals, for the scenes of each split.

    model: whose `features` are kept; its body already has the trunk's weights. proposer: the model whose RPN proposes.
    scenes: dict from split to data set, whose image ids are 0, 1, 2, ...
    """

    def __init__(self, model, proposer, scenes):
        self.features, self.boxes, self.valid = {}, {}, {}
        for split, dataset in scenes.items():
            maps, boxes, valid = [], [], []
            for start in range(0, len(dataset), 10):
                samples = [dataset[i] for i in range(start, min(start + 10, len(dataset)))]
                found, proposals, real = self._of(model, proposer, model.transform(samples))
                maps.append([x.data.astype(np.float16) for x in found])
                boxes.append(proposals[:, :PROPOSALS])
                valid.append(real[:, :PROPOSALS])
            self.features[split] = [np.concatenate(level) for level in zip(*maps)]
            self.boxes[split], self.valid[split] = np.concatenate(boxes), np.concatenate(valid)

    @staticmethod
    def _of(model, proposer, batch):
        images = Tensor(batch.images)
        with no_grad(), model.inference(), proposer.inference():
            levels = proposer.features(images)[proposer.rpn_first_level :]
            logits, deltas, anchors = proposer.rpn(levels, batch.images.shape[1:3])
            boxes, _, valid = proposer.rpn.proposals(logits.data, deltas.data, anchors, batch.sizes)
            return model.features(images), boxes, valid


class KeptRPN(nn.Module):
    """Takes the place of a model's RPN: the kept proposals of the images of the current batch, and nothing to learn."""

    def __init__(self, current):
        self.current = current

    def forward(self, features, padded_size):
        """Nothing is computed; `proposals` does not look at it."""
        return Tensor(np.zeros(1, np.float32)), Tensor(np.zeros(1, np.float32)), []

    def proposals(self, logits, deltas, anchors, sizes, with_anchors=False):
        """(boxes, scores, valid) as RPN.proposals has them; which anchors they came from is not known (None)."""
        boxes, valid = self.current.proposals()
        found = boxes, valid.astype(np.float32), valid
        return (*found, None) if with_anchors else found

    def losses(self, logits, deltas, anchors, batch, rng):
        """No losses."""
        return {}


class Current:
    """The scenes that a model sees at the moment: their kept features and proposals."""

    def __init__(self, trunk):
        self.trunk, self.split, self.ids = trunk, None, None

    def use(self, split, image_ids):
        """From now on, these images of a split."""
        self.split, self.ids = split, np.array(image_ids)

    def features(self, images=None):
        """The kept feature maps, whatever the images."""
        return [Tensor(level[self.ids].astype(np.float32)) for level in self.trunk.features[self.split]]

    def proposals(self):
        """Boxes (N, 100, 4) and which of them are real (N, 100)."""
        return self.trunk.boxes[self.split][self.ids], self.trunk.valid[self.split][self.ids]


def attach(model, trunk, test):
    """Let a MaskRCNN, or a system derived from it, read the kept features; its body is frozen.

    test: the split that `detect` sees; losses are always those of the split "train".
    Returns the Current, so that single stages can be called too.
    """
    current = Current(trunk)
    model.backbone.freeze()
    if hasattr(model, "rpn"):
        model.rpn = KeptRPN(current)
    model.features = current.features
    forward, segment = model.forward, getattr(model, "segment", None)

    def see_and_forward(batch, rng=None):
        current.use("train" if rng is not None else test, batch.image_ids)
        return forward(batch, rng)

    def see_and_segment(batch):
        current.use(test, batch.image_ids)
        return segment(batch)

    model.forward = see_and_forward
    if segment is not None:
        model.segment = see_and_segment
    return current


def copy_body(model, weights):
    """Copy what fits of a trained model's body and pyramid into `model`, the last stage of a C4 head included.

    weights: dict from name to array. Returns the number of arrays that were copied.
    """
    copied = 0
    for name, array in model.state_dict().items():
        source = name.replace("roi_heads.res5.", "backbone.body.layer4.")
        source = source.replace("region_backbone.", "backbone.body.")  # SDS looks at each region with two networks
        if source.startswith("backbone.") and source in weights and weights[source].shape == array.shape:
            array[...] = array_module(array).asarray(weights[source])
            copied += 1
    return copied
