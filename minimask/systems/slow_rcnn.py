"""R-CNN, called slow since Fast R-CNN: the network runs once per proposal. Girshick et al. 2014, section 2 and
appendix A to C; slide T09.

    each proposal -> cut out of the image with some context, warped to a square -> network -> class and box

Compare with fast_rcnn.py: there the network runs on the image and its features are cut out, here the picture is cut out
and the network runs on every piece. 200 proposals are 200 forward passes per image instead of one.

It is trained in two steps. First the network learns to classify its proposals by softmax, in the usual training loop.
When that is over, `finish_training` fits to the features of the network, which stay as they are, a linear SVM for each
class (positives are the true boxes alone, negatives have an IoU below 0.3, and hard ones are looked for) and a ridge
regression of better boxes from the last feature map (on proposals with an IoU of at least 0.6). Until then the softmax
scores the boxes, without moving them.

Simplified: a small ResNet and crops of 48 x 48 with 3 pixels of context, instead of AlexNet with 227 and 16; the SVMs
are fitted on 100 images; a score is the sigmoid of the SVM's margin, to lie between 0 and 1 like all scores here.
"""

from dataclasses import dataclass

import numpy as np

from minimask import boxes as box_ops
from minimask import functional as F
from minimask import nn
from minimask.box_head import TwoLayerHead
from minimask.device import array_module, to_cpu
from minimask.losses import class_loss
from minimask.run.settings import setting
from minimask.structures import Detections, in_use
from minimask.systems.crops import CropSettings, CropSystem
from minimask.systems.fast_rcnn import near_objects, toy_preset
from minimask.systems.proposals import proposals_of
from minimask.systems.svm import fit_ridge, fit_svm
from minimask.targets import sample_rois, take
from minimask.tensor import Tensor
from minimask.trace import record

FAR, CLOSE = 0.3, 0.6  # negatives of the SVMs lie below FAR, boxes of the regression from CLOSE on


@dataclass(frozen=True, repr=False)
class SlowSettings(CropSettings):
    """Its settings."""

    svm_images: int = setting(100, "images that the SVMs and the regression are fitted on", least=1)


class SlowRCNN(CropSystem):
    """The system."""

    preset = toy_preset(roi=dict(samples=16), detection=dict(nms_threshold=0.3))
    Settings = SlowSettings
    buffer_names = ("svm_weight", "svm_bias", "ridge_weight", "ridge_bias")  # zero until they are fitted

    def _add_heads(self, channels, backbone):
        last, width = self.last_side() ** 2 * channels, self.heads.box_width
        self.roi_heads = heads = nn.Module()
        heads.box_head = TwoLayerHead(last, width)
        heads.cls_score = nn.Linear(width, self.num_classes)
        shapes = (width, self.num_classes), (self.num_classes,), (last, 4 * self.num_classes), (4 * self.num_classes,)
        for name, shape in zip(self.buffer_names, shapes):
            setattr(self, name, np.zeros(shape, np.float32))

    def network(self, pictures):
        """Pictures (R, crop, crop, 3) -> the last feature map in a row (R, F), and the features fc7 (R, width)."""
        x = self.backbone.body(pictures)[-1]
        return x.reshape(x.shape[0], -1), self.roi_heads.box_head(x)

    def region_losses(self, features, proposals, batch, rng):
        """{"loss_classifier"}: the first step of training."""
        near = near_objects(proposals, batch, self.system.background)
        rois = sample_rois(proposals.boxes, near, batch, self.roi, rng)
        _, _, pictures = self._roi_features(features, rois.boxes, None, "box")
        logits = self.roi_heads.cls_score(self.network(pictures)[1])
        record(rois=rois.boxes, roi_labels=rois.labels, class_logits=logits)
        return {"loss_classifier": class_loss(logits, rois.labels.reshape(-1), rois.valid.reshape(-1))}

    def find(self, features, proposals, batch):
        """Detections, image by image: the network sees all proposals of an image at once."""
        xp, (n, r, _) = array_module(proposals.boxes), proposals.boxes.shape
        scores = xp.zeros((n, r, self.num_classes), np.float32)
        deltas = xp.zeros((n, r, 4 * self.num_classes), np.float32)
        for image in range(n):
            own = slice(image, image + 1)
            slots, boxes, zero = in_use(proposals.boxes[own], proposals.valid[own])
            last, fc7 = self.network(self.pool([features[0][own]], boxes, zero, None, "box"))
            scores[image, slots], deltas[image, slots] = self.score(last.data, fc7.data)
        return self.best_boxes(scores, deltas, proposals, batch.sizes)

    def score(self, last, fc7):
        """Features of R boxes -> scores (R, C) and deltas (R, 4 C): of the SVMs if they are fitted, else of softmax."""
        if not self.svm_weight.any():
            scores = F.softmax_array(self.roi_heads.cls_score(Tensor(fc7)).data)
            return scores, array_module(last).zeros((len(last), 4 * self.num_classes), np.float32)
        margins = fc7 @ self.svm_weight + self.svm_bias
        return F.sigmoid_array(margins), last @ self.ridge_weight + self.ridge_bias

    def best_boxes(self, scores, deltas, proposals, sizes):
        """Scores (N, R, C), deltas (N, R, 4 C) -> Detections: as `box_head.detect`, for scores of any kind."""
        xp, (n, r, c), chosen = array_module(scores), scores.shape, self.detection
        deltas = deltas.reshape(n, r, c, 4)[:, :, 1:]
        boxes, large = box_ops.predicted(deltas, proposals.boxes, sizes, side=chosen.smallest_side)
        good = proposals.valid[..., None] & (scores[..., 1:] > chosen.score_threshold) & large
        labels = xp.broadcast_to(xp.arange(1, c), good.shape).reshape(n, -1)  # (N, R (C - 1))
        boxes, scores, good = boxes.reshape(n, -1, 4), scores[..., 1:].reshape(n, -1), good.reshape(n, -1)

        kept, valid = box_ops.nms(boxes, scores, good, chosen.nms_threshold, chosen.max_detections, labels)
        found = take(boxes, kept) * valid[..., None], take(labels, kept) * valid, take(scores, kept) * valid, valid
        return Detections(*found, whole_pixels=self.conventions["whole_pixels"])

    # The second step of training

    def finish_training(self, dataset):
        """Fit the SVMs and the ridge regression to the network's features of the first images of a data set."""
        seen = [self.examples(dataset[i]) for i in range(min(len(dataset), self.system.svm_images))]
        last, fc7, boxes, nearest, overlaps = (np.concatenate(arrays) for arrays in zip(*seen))
        for label in range(1, self.num_classes):
            own = overlaps[:, label]
            if not (own == 1).any():
                continue  # none of these images shows an object of the class
            weight, bias = fit_svm(fc7[own == 1], fc7[own < FAR])
            self.svm_weight[:, label], self.svm_bias[label] = array_module(self.svm_weight).asarray(weight), bias

            close, columns = own >= CLOSE, slice(4 * label, 4 * label + 4)
            weight, bias = fit_ridge(last[close], box_ops.encode(nearest[close], boxes[close]))
            xp = array_module(self.ridge_weight)
            self.ridge_weight[:, columns], self.ridge_bias[columns] = xp.asarray(weight), xp.asarray(bias)

    def examples(self, sample):
        """What one image teaches, for its objects and its A proposals together, all on the CPU.

        Returns the last features (A, F), fc7 (A, width), boxes (A, 4), the true box nearest to each (A, 4), and the
        largest IoU of each with an object of each class (A, C).
        """
        batch = self.transform([sample]).to(self.device)
        found = proposals_of(batch, self.transform, self.system.regions)
        boxes = array_module(found.boxes).concatenate([batch.boxes[0], found.boxes[0, found.valid[0]]])
        with self.inference():
            pictures = self.pool([Tensor(batch.images)], boxes, np.zeros(len(boxes), int), None, "box")
            last, fc7 = self.network(pictures)

        boxes, truth, real = to_cpu(boxes), to_cpu(batch.boxes[0]), to_cpu(batch.valid & ~batch.crowd)[0]
        overlap = box_ops.iou(boxes, truth) * real  # (A, G)
        labels = to_cpu(batch.labels[0])
        of_class = [np.where(labels == c, overlap, 0).max(axis=1) for c in range(self.num_classes)]
        return to_cpu(last.data), to_cpu(fc7.data), boxes, truth[overlap.argmax(axis=1)], np.stack(of_class, axis=1)
