"""torchvision's Mask R-CNN in the sizes that the benchmark compares, and the files that our side writes for it.

Like `reference`, this runs in an environment that needs neither minimask nor Numba.
"""

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign

LEVELS = ["0", "1", "2", "3"]


class SmallBody(nn.Module):
    """A ResNet of basic blocks with a 3x3/2 stem and no pooling, with torchvision's parameter names.

    widths, blocks: channels and number of blocks of the four stages. strides: that of the first block of each stage.
    """

    def __init__(self, widths, blocks, strides):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for level, (width, count, stride) in enumerate(zip(widths, blocks, strides), start=1):
            shortcut = None
            if stride != 1 or inputs != width:
                shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            stage = [BasicBlock(inputs, width, stride, shortcut)]
            stage += [BasicBlock(width, width) for _ in range(count - 1)]
            setattr(self, f"layer{level}", nn.Sequential(*stage))
            inputs = width

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        features = {}
        for level in range(4):
            x = getattr(self, f"layer{level + 1}")(x)
            features[LEVELS[level]] = x
        return features


class SmallBackbone(nn.Module):
    def __init__(self, widths, blocks, strides, out_channels):
        super().__init__()
        self.body = SmallBody(widths, blocks, strides)
        self.fpn = FeaturePyramidNetwork(list(widths), out_channels)
        self.out_channels = out_channels

    def forward(self, x):
        return self.fpn(self.body(x))


def small_mask_rcnn(
    widths,
    blocks,
    strides,
    width,
    classes,
    rpn_first_level,
    anchor_sizes,
    ratios,
    canonical,
    box_width,
    mask_layers,
    keypoints=0,
    keypoint_layers=(),
    **settings,
):
    """torchvision's MaskRCNN around a small ResNet-FPN like our preset "toy" (see models.torchvision_settings).

    widths, blocks, strides: channels, number of blocks and stride of the four stages.
    width: channels of the pyramid and of the mask head.
    rpn_first_level: the RPN leaves out the levels before this one.
    canonical: side, in pixels, of a RoI that is pooled from the level of stride 16.
    keypoints: how many, found by a keypoint branch with layers of keypoint_layers channels; 0 for no such branch.
    settings: further arguments of torchvision's MaskRCNN.
    """
    model = MaskRCNN(
        SmallBackbone(widths, blocks, strides, width),
        rpn_anchor_generator=AnchorGenerator(tuple(map(tuple, anchor_sizes)), (tuple(ratios),) * len(anchor_sizes)),
        box_roi_pool=MultiScaleRoIAlign(LEVELS, 7, 2, canonical_scale=canonical),
        mask_roi_pool=MultiScaleRoIAlign(LEVELS, 14, 2, canonical_scale=canonical),
        box_head=TwoMLPHead(width * 49, box_width),
        box_predictor=FastRCNNPredictor(box_width, classes),
        mask_head=MaskRCNNHeads(width, (width,) * mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(width, width, classes),
        **settings,
    )
    if keypoints:
        heads = model.roi_heads
        heads.keypoint_roi_pool = MultiScaleRoIAlign(LEVELS, 14, 2, canonical_scale=canonical)
        heads.keypoint_head = KeypointRCNNHeads(width, keypoint_layers)
        heads.keypoint_predictor = KeypointRCNNPredictor(keypoint_layers[-1], keypoints)
    propose = model.rpn.forward
    model.rpn.forward = lambda images, features, targets=None: propose(
        images, dict(list(features.items())[rpn_first_level:]), targets
    )
    return model


def resnet50_mask_rcnn(classes=91, **settings):
    """maskrcnn_resnet50_fpn as it is built for published weights, with every batch norm frozen."""
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

    body = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    return MaskRCNN(_resnet_fpn_extractor(body, 3), classes, **settings)


def load_weights(model, state):
    """Load a dict of arrays in torchvision's names and layouts. Raises ValueError if any is missing or left over."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
    missing, unknown = model.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        raise ValueError(f"weights do not fit: missing {missing[:5]}, unknown {unknown[:5]}")
    return model


def read_batch(path):
    """The images (3, H, W), from 0 to 1, and the targets that our side wrote."""
    images, targets = [], []
    with np.load(path) as file:
        for i in range(int(file["count"])):
            images.append(torch.from_numpy(file[f"image{i}"]).permute(2, 0, 1).float() / 255)
            targets.append({key: torch.from_numpy(file[f"{key}{i}"]) for key in ("boxes", "labels", "masks")})
    return images, targets
