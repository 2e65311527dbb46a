"""Checks of notebook 18: right answers pass, typical wrong ones are named, and the text has torchvision's numbers."""

from pathlib import Path

import numpy as np

from minimask import weights
from tests import answers

ROOT = Path(__file__).parents[1]


def what_fits(model, file):
    counts = np.zeros(4, int)
    for name, shape in model.items():
        counts[2 if name not in file else 0 if file[name] == shape else 1] += 1
    counts[3] = sum(name not in model for name in file)
    return counts


RIGHT = dict(
    convolution_weights=lambda w: np.moveaxis(w, (0, 1), (3, 2)),
    fc6_weights=lambda w, channels, side: np.moveaxis(w.reshape(-1, channels, side * side), (0, 1), (2, 1)).reshape(
        -1, len(w)
    ),
    background_first=lambda w: np.concatenate([w[-1:], w[:-1]]),
    first_layer=lambda w: 255 * np.flip(w, 2),
    what_fits=what_fits,
)

OBLONG = '"5 outputs from 4 channels, 2 x 3"'
WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("convolution_weights", lambda w: w.reshape(*w.shape[:1:-1], w.shape[1], w.shape[0]), OBLONG, "has shape"),
    ("convolution_weights", lambda w: w.reshape(*w.shape[2:], w.shape[1], w.shape[0]), OBLONG, "the axes must move"),
    ("convolution_weights", lambda w: w.transpose(2, 3, 0, 1), OBLONG, "expected (2, 3, 4, 5)"),
    ("fc6_weights", lambda w, channels, side: w.T, "one output", "just a transpose"),
    (
        "fc6_weights",
        lambda w, c, s: w.reshape(-1, c, s, s).transpose(3, 2, 1, 0).reshape(-1, len(w)),
        "one output",
        "rows and columns of the cells swapped",
    ),
    ("fc6_weights", lambda w, c, s: w, "one output", "It looks transposed"),
    ("background_first", lambda w: w[::-1], "cat, dog, duck", "the objects must keep their order"),
    ("background_first", lambda w: np.roll(w, 1), "cat, dog, duck", "all numbers rolled as one row"),
    ("background_first", lambda w: np.roll(w, -1, 0), "cat, dog, duck", "the first class moved to the end"),
    ("first_layer", lambda w: w[:, :, ::-1], "a 1 x 1 kernel", "the weights still expect colors from 0 to 255"),
    ("first_layer", lambda w: w[:, :, ::-1] / 255, "a 1 x 1 kernel", "the weights must grow"),
    ("first_layer", lambda w: w * 255, "a 1 x 1 kernel", "the order of the colors is not reversed"),
    ("what_fits", lambda m, f: what_fits(m, f)[[0, 1, 3, 2]], '"an empty file"', "missing is what the file lacks"),
    (
        "what_fits",
        lambda m, f: what_fits(dict.fromkeys(m), dict.fromkeys(f)),
        "one of each kind",
        "misfits counted as loaded",
    ),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)


def test_the_exercise_on_fc6_is_what_the_library_does():
    state = {
        "rpn.head.conv.0.0.weight": np.zeros((4, 4, 3, 3)),
        "roi_heads.box_head.fc6.weight": np.arange(5 * 4 * 9.0).reshape(5, 36),
    }
    ours = weights.from_torchvision(state)["roi_heads.box_head.fc6.weight"]
    np.testing.assert_array_equal(ours, RIGHT["fc6_weights"](state["roi_heads.box_head.fc6.weight"], 4, 3))


def test_the_notebook_shows_what_torchvision_gives():
    shown = answers.shown_in("18_published_weights", "TORCHVISION")
    with np.load(ROOT / "tests" / "references" / "operations.npz") as golden:
        np.testing.assert_allclose(shown, golden["conv_7x7_stride2.y"][0, 0, 0], rtol=1e-15)
