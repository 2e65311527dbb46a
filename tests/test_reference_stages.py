"""Every stage of Mask, Keypoint and Faster R-CNN with ResNet-50-FPN against torchvision's, in float32.

The error of a stage is the largest difference divided by the largest value that torchvision computes; for boxes,
anchors and keypoints, it is divided by the longer side of the image. Proposals and detections must be the same sets,
in the same order wherever scores differ by more than 1e-5: see tests/references/stages.py. The weights are random ones
that torchvision initializes: see live.py.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minimask.mask_rcnn import build
from minimask.weights import from_torchvision, to_torchvision
from tests.references import stages, tiny

END_TO_END, STAGE_BY_STAGE = 1e-4, 1e-5  # bounds if each stage is fed with our previous stage, and with torchvision's
GOLDEN = Path(__file__).parent / "references" / "resnet50.npz"


def test_stages_of_resnet50_fpn_are_the_golden_ones():
    """Means and some numbers of each stage agree to END_TO_END with those that torchvision computed in float64."""
    model = build("resnet50_fpn", num_classes=91, **tiny.RESNET50).eval()
    shapes = {name: array.shape for name, array in to_torchvision(model.state_dict()).items()}
    model.load_state_dict(from_torchvision(tiny.state(shapes)))
    found = stages.digests(stages.ours(model, tiny.pictures()[0]))
    with np.load(GOLDEN) as expected:
        assert len(expected["detected_boxes"]) == 20 and len(expected["proposals"]) == stages.SLICE + 2
        for name in expected:
            assert stages.relative(found[name], expected[name]) < END_TO_END, name


@pytest.fixture(scope="module")
def live():
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from tests.references import live

    return live


PHOTOS = {  # chosen for their sizes, see live.SIZES
    "mask, high photo": ("mask", 0, ["000000166918"], dict(sizes=(320, 640))),
    "mask, low and square photo": ("mask", 1, ["low", "000000165518"], dict(sizes=(320, 640), max_detections=30)),
    "boxes, narrow and wide photo": ("box", 2, ["high", "000000177977"], dict(sizes=(320, 640))),
    "keypoints, wide photo": ("keypoint", 3, ["000000119828"], dict(sizes=(320, 640), max_detections=10)),
    "keypoints, two photos": (
        "keypoint",
        4,
        ["000000119828", "000000166918"],
        dict(sizes=(192, 640), max_detections=8),
    ),
    "mask, at 800": ("mask", 5, ["000000119828"], dict(max_detections=50)),
}


@pytest.fixture(scope="module", params=PHOTOS.values(), ids=PHOTOS)
def case(request, live):
    """torchvision's model, ours, the photos, torchvision's stages."""
    kind, seed, names, settings = request.param
    images = [live.photo(name) for name in names]
    model, ours = live.untrained(kind, images, seed=seed, **settings)
    expected = live.theirs(model, images)
    assert len(expected["detected_boxes"]) == len(images) * settings.get("max_detections", 100)
    return model, ours, images, expected


def check(errors, tolerance):
    too_large = {name: error for name, error in errors.items() if not error < tolerance}
    assert not too_large


def test_end_to_end(case):
    _, model, images, expected = case
    check(stages.errors(stages.ours(model, images), expected), END_TO_END)


def test_stage_by_stage(case):
    _, model, images, expected = case
    check(stages.errors(stages.fed_with(model, images, expected), expected, fed=True), STAGE_BY_STAGE)


def test_nothing_found(case, live):
    """All scores are below the threshold: the arrays are empty and have the same shapes."""
    theirs, model, images, _ = case
    before = theirs.roi_heads.score_thresh, model.detection
    theirs.roi_heads.score_thresh, model.detection = 1.0, replace(model.detection, score_threshold=1.0)
    try:
        expected, found = live.theirs(theirs, images), stages.ours(model, images)
    finally:
        theirs.roi_heads.score_thresh, model.detection = before
    assert expected["detected_boxes"].shape == (0, 4)
    check(stages.errors(found, expected), END_TO_END)
    for name in ("final_boxes", "final_keypoints", *(f"pasted_masks{i}" for i in range(len(images)))):
        assert (name in expected) == (name in found)


def test_torchvisions_scales_of_a_low_first_photo(live):
    """torchvision infers the scales of the maps from the height of its first batch without padding, and keeps them.

    40 pixels are padded to 64 and become 16 rows of P2. log2(16 / 40) rounds to -1, so torchvision uses the scale 1/2
    for P2 and 1/4 to 1/16 for the other levels, in this batch and all later ones. The true scales are 1/4 to 1/32,
    which our model uses.
    """
    from tests.references import make_golden

    low = np.zeros((40, 128, 3), np.uint8)
    for first, finest in ((low, 1 / 2), (tiny.pictures()[0][0], 1 / 4)):
        model = make_golden.tiny_model().eval()
        for image in (first, low):
            expected = live.theirs(model, [image])
            assert model.roi_heads.box_roi_pool.scales == [finest, finest / 2, finest / 4, finest / 8]
    assert expected["P2"].shape[1:3] == (16, 32)
    assert build("toy", num_classes=tiny.CLASSES, **tiny.SETTINGS).roi_strides == [4, 8, 16, 32]
