"""Checks of students' functions: the message about each kind of wrong answer."""

import copy

import numpy as np
import pytest

from minimask import check
from minimask.check import engine, grids
from minimask.check.engine import Check, CheckFailed

HALVES = Check(
    reference=lambda values, factor: values * factor,
    cases={
        "three numbers": dict(values=np.array([1.0, 2.0, 4.0]), factor=0.5),
        "a table": dict(values=np.arange(1.0, 13.0).reshape(3, 4), factor=0.5),
        "nothing": dict(values=np.zeros((0, 4)), factor=0.5),
    },
    random=lambda rng: dict(values=rng.normal(size=(4, 5)), factor=rng.normal()),
    covers="lists, tables and nothing",
    mistakes={"division instead of multiplication": lambda values, factor: values / factor},
    name="scaled",
)
PAIR = Check(
    reference=lambda boxes, best: (boxes[best], best > 0),
    cases={"two boxes": dict(boxes=np.arange(8.0).reshape(2, 4), best=np.array([1, 0]))},
    results=("boxes", "positive"),
    name="pair",
)


def message(function, which=HALVES):
    """The message of the check about a wrong function."""
    with pytest.raises(CheckFailed) as caught:
        which(function)
    return str(caught.value)


def test_right(capsys):
    HALVES(lambda x, s: s * x)
    printed = capsys.readouterr().out
    assert printed == "scaled: correct in 3 cases and 20 random ones (lists, tables and nothing).\n"


def test_rounding_is_right():
    HALVES(lambda x, s: x * s * (1 + 1e-9))
    HALVES(lambda x, s: (x * s).astype(np.float64) + 1e-12)


def test_wrong_number_is_named():
    def my_scaled(values, factor):
        result = values * factor
        if result.size:
            result.flat[-1] += 3
        return result

    assert message(my_scaled) == (
        'scaled, "three numbers":\n'
        "    my_scaled(values=[1., 2., 4.], factor=0.5)\n"
        "The result at [2] is 5, expected 2.\n"
        "1 of 3 elements is wrong.\n"
        "\n"
        "found (* is wrong):\n"
        "            0       1       2\n"
        "    0     0.5       1      *5\n"
        "expected:\n"
        "            0       1       2\n"
        "    0     0.5       1       2"
    )


def test_window_around_the_first_wrong_cell():
    found, expected = np.zeros((2, 40, 50, 3)), np.zeros((2, 40, 50, 3))
    found[1, 20, 30, 2] = 1
    text = grids.text_grid(found, expected, (1, 20, 30, 2), grid=(1, 2))
    rows = text.split("expected:")[0].splitlines()[2:]
    assert [int(row.split()[0]) for row in rows] == list(range(17, 24))
    assert rows[3].split() == ["20", "0", "0", "0", "*1", "0", "0", "0"]


WRONG = {
    "stub": (lambda: lambda x, s: not_written(), "scaled: <lambda> is not written yet."),
    "none": (lambda: lambda x, s: None, "The result is None. Is there a `return` at the end?"),
    "list": (lambda: lambda x, s: list(x * s), "The result is a list of length 3, expected an array of shape (3,)."),
    "number": (lambda: lambda x, s: 1.0, "The result is the number 1, expected an array of shape (3,)."),
    "shape": (lambda: lambda x, s: x[:2] * s, "The result has shape (2,), expected (3,)."),
    "integers": (
        lambda: lambda x, s: (x * s).astype(int),
        "The result holds integers (int64), expected floating-point numbers (float64). "
        "An array of integers drops everything after the decimal point.",
    ),
    "truth": (
        lambda: lambda x, s: x * s > 0,
        "The result holds booleans (bool), expected floating-point numbers (float64).",
    ),
    "nan": (lambda: lambda x, s: x * np.nan, "The result at [0] is nan, expected 0.5."),
    "mistake": (lambda: lambda x, s: x / s, "Likely mistake: division instead of multiplication."),
    "sign": (lambda: lambda x, s: -x * s, "Every element has the wrong sign."),
    "factor": (lambda: lambda x, s: x * s * 3, "Every element is 3 times the expected one."),
    "offset": (lambda: lambda x, s: x * s - 0.5, "Every element is 0.5 too small."),
    "reversed": (lambda: lambda x, s: x[::-1] * s, "The order is reversed along axis 0."),
    "zeros": (lambda: lambda x, s: x * 0, "Every element is 0."),
    "view": (
        lambda: lambda x, s: view_of(x, s),
        "The numbers are right, but the result is the argument 'values' itself",
    ),
    "arguments": (
        lambda: lambda x: x,
        "scaled: <lambda>(x) cannot be called with the 2 arguments values, factor.",
    ),
}


def not_written():
    raise NotImplementedError()


def view_of(x, s):
    """A view of x, for a check whose reference returns x itself."""
    return x[:]


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_answer(kind):
    make, expected = WRONG[kind]
    which = HALVES
    if kind == "view":
        which = Check(lambda values, factor: values, HALVES.cases, name="scaled")
    assert expected in message(make(), which)


def test_turned():
    turned = Check(lambda x: x, {"square": dict(x=np.arange(9.0).reshape(3, 3))}, name="turned")
    assert "Rows and columns are swapped (the last two axes)." in message(lambda x: x.T.copy(), turned)
    oblong = Check(lambda x: x, {"oblong": dict(x=np.arange(6.0).reshape(2, 3))}, name="turned")
    assert "has shape (3, 2), expected (2, 3). It looks transposed." in message(lambda x: x.T.copy(), oblong)


def test_shifted():
    moved = Check(lambda x: x * 1, {"row": dict(x=np.arange(10.0) ** 2)}, name="moved")
    assert "Everything is shifted by one along axis 0." in message(lambda x: np.roll(x, 1), moved)


def test_changing_an_argument_is_named():
    def my_scaled(values, factor):
        values *= factor
        return values.copy()

    text = message(my_scaled)
    assert "changes its argument 'values' in place: [0] was 1 and is now 0.5." in text
    assert "values = values.copy()" in text


def test_the_students_line_is_named():
    def my_scaled(values, factor):
        return values * factor[0]

    text = message(my_scaled)
    assert "It stops with TypeError: 'float' object is not subscriptable" in text
    assert "return values * factor[0]" in text and "in line " in text


def test_several_results():
    PAIR(lambda boxes, best: (boxes[best], best > 0))
    assert "an array of shape (2, 4), expected 2 results (boxes, positive)." in message(lambda b, i: b[i], PAIR)
    assert "Result 2 (positive) at [0] is False, expected True." in message(lambda b, i: (b[i], i > 5), PAIR)


@pytest.mark.parametrize(
    "thing, described",
    [(np.zeros((2, 3)), "an array of shape (2, 3)"), (None, "None"), (3.0, "the number 3"), (dict, "a type")],
)
def test_not_a_function(thing, described):
    text = message(thing)
    assert described in text and "without calling it: check.scaled(my_scaled)" in text


def test_scalar_results():
    mean = Check(lambda x: float(np.mean(x)), {"four": dict(x=np.array([1.0, 2.0, 3.0, 6.0]))}, name="mean")
    mean(lambda x: np.mean(x))
    mean(lambda x: 3)
    assert "The result is 12, expected 3." in message(lambda x: np.sum(x), mean)


def test_a_case_stays_as_it_was():
    before = HALVES.cases["three numbers"]["values"].copy()
    with pytest.raises(CheckFailed):
        HALVES(lambda x, s: np.multiply(x, s, out=x))
    np.testing.assert_array_equal(HALVES.cases["three numbers"]["values"], before)


def test_notebook_draws_the_first_wrong_cell(monkeypatch):
    drawn = []
    monkeypatch.setattr(engine, "in_notebook", lambda: True)
    monkeypatch.setattr(engine, "display_figure", drawn.append)

    def my_scaled(values, factor):
        result = values * factor
        if values.ndim == 2:
            result[1, 2] = 100
        return result

    text = message(my_scaled)
    assert "The result at [1, 2] is 100, expected 3.5." in text and "found (" not in text
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["found", "expected"]
    assert figure.get_suptitle() == "first wrong: [1, 2] of a result of shape (3, 4); wrong cells are framed"
    frames = [[patch.get_xy() for patch in axes.patches] for axes in figure.axes]
    np.testing.assert_allclose(frames, [[(1.55, 0.55)], [(1.55, 0.55)]])


def test_notebook_shows_words_without_traceback():
    assert CheckFailed("wrong")._render_traceback_() == ["CheckFailed: wrong"]


def test_collected_checks_have_names():
    for name, one in check.CHECKS.items():
        assert getattr(check, name) is one and one.name == name


@pytest.mark.parametrize("name", check.CHECKS)
def test_each_reference_passes_its_own_check(name):
    one = check.CHECKS[name]
    assert one.covers, f"check.{name} does not say what it covers"
    one(lambda *arguments: copy.deepcopy(one.reference(*arguments)))
    with pytest.raises(CheckFailed, match="not written yet"):
        one(lambda *arguments: not_written())


@pytest.mark.parametrize("name", [name for name, one in check.CHECKS.items() if one.mistakes])
def test_each_known_mistake_is_recognized(name):
    for description, mistake in check.CHECKS[name].mistakes.items():
        with pytest.raises(CheckFailed) as failed:
            check.CHECKS[name](mistake)
        assert f"Likely mistake: {description}." in str(failed.value), description
