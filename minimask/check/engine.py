"""Checks a function that a student wrote: runs cases, compares with a reference, and says what is wrong.

    iou = Check(
        reference=lambda a, b: boxes.iou(a, b),
        cases={"two boxes that share a third": dict(a=..., b=...), ...},
        random=lambda rng: dict(a=random_boxes(rng, 5), b=random_boxes(rng, 4)),
        covers="equal, disjoint, nested, touching and empty boxes",
        mistakes={"intersection divided by the first box alone": lambda a, b: ...},
    )
    iou(my_iou)     # prints what was covered, or raises CheckFailed

It needs only NumPy, and Matplotlib in a notebook, where the first wrong cell is shown as a picture.
"""

import copy
import inspect
import numbers

import numpy as np

from minimask.check.grids import close, display_figure, draw_grid, in_notebook, text_grid
from minimask.check.words import (
    call_text,
    capital,
    count,
    describe,
    first_change,
    name_of,
    number,
    relation,
    same_value,
    where_it_stops,
)

NOT_WRITTEN = "not written yet"
KINDS = {"b": "booleans", "i": "integers", "u": "integers", "f": "floating-point numbers", "c": "complex numbers"}


class CheckFailed(AssertionError):
    """What is wrong with a student's function, in words. A notebook shows the words without a traceback.

    found, expected: the wrong result and the right one. index: where they first differ. All three are None if the
    function fails before its result can be compared.
    """

    def __init__(self, message, found=None, expected=None, index=None):
        super().__init__(message)
        self.found, self.expected, self.index = found, expected, index

    def _render_traceback_(self):
        """What IPython shows instead of a traceback."""
        return [f"CheckFailed: {self}"]


class Check:
    """Compares a student's function with a reference on chosen cases and on random ones.

    reference: function that returns the expected result, or a tuple of results.
    cases: dict from a description ("a box outside the image") to the arguments of the call, a dict by name. They are
        passed by position, in the dict's order, so that students may choose other names.
    random: function of a NumPy generator that returns such arguments, or None. It is called `rounds` times, with a
        fixed seed.
    rtol, atol: floats may differ by atol + rtol * |expected|; integers and booleans must be equal.
    covers: what the cases cover, as half a sentence; printed on success.
    results: names of the results, if there are several.
    grid: the two axes of the result that are rows and columns of the picture, e.g. (1, 2) of (R, h, w, C).
    rounds: number of random cases.
    view_allowed: whether the result may share memory with an argument.
    mistakes: dict from a description to a wrong function of a kind that students write. If theirs returns the same, the
        message adds "Likely mistake: {description}."
    draw: function of (found, expected, index, arguments) that draws with Matplotlib, instead of the default picture.
    name: by default, the name of the variable in its module.
    """

    def __init__(
        self,
        reference,
        cases,
        random=None,
        rtol=1e-6,
        atol=1e-8,
        covers="",
        results=(),
        grid=(-2, -1),
        rounds=20,
        view_allowed=False,
        mistakes=None,
        draw=None,
        name=None,
    ):
        self.reference, self.cases, self.random, self.rounds = reference, cases, random, rounds
        self.rtol, self.atol, self.covers, self.results, self.grid = rtol, atol, covers, results, grid
        self.view_allowed, self.mistakes, self.draw, self.name = view_allowed, mistakes or {}, draw, name

    def __repr__(self):
        return f"<check of {self.name}: {self.covers or 'cases ' + ', '.join(self.cases)}>"

    def __call__(self, function):
        """Check a function: print what was covered, or raise CheckFailed."""
        print(self.run(function))

    def run(self, function):
        """Check a function: return what was covered, as text, or raise CheckFailed."""
        self._must_be_function(function)
        for case, arguments in self.all_cases():
            try:
                self._run_case(function, case, arguments)
            except CheckFailed as failure:
                self._show(failure, arguments)
                raise
        randoms = f" and {self.rounds} random ones" if self.random else ""
        covered = f" ({self.covers})" if self.covers else ""
        return f"{self.name}: correct in {count(len(self.cases), 'case')}{randoms}{covered}."

    def signature(self):
        """The arguments, as the longest of the cases passes them: "iou(a, b)"."""
        longest = max(self.cases.values(), key=len)
        return f"{self.name}({', '.join(longest)})"

    def all_cases(self):
        """Pairs of a description and the arguments: the chosen cases, then the random ones, the same every time."""
        for case, arguments in self.cases.items():
            yield f'"{case}"', arguments
        rng = np.random.default_rng(0)
        for i in range(self.rounds if self.random else 0):
            yield f"random case {i + 1}", self.random(rng)

    def _run_case(self, function, case, arguments):
        head = f"{self.name}, {case}:\n    {call_text(function, arguments)}\n"
        expected = self.reference(*copy.deepcopy(list(arguments.values())))
        given = copy.deepcopy(list(arguments.values()))
        try:
            self._must_take(function, given, arguments)
            with np.errstate(all="ignore"):
                found = function(*given)
        except NotImplementedError:
            raise CheckFailed(f"{self.name}: {name_of(function)} is {NOT_WRITTEN}.") from None
        except CheckFailed:
            raise
        except Exception as error:
            raise CheckFailed(head + where_it_stops(error, function)) from None
        for name, before, after in zip(arguments, arguments.values(), given):
            if not same_value(before, after):
                raise CheckFailed(
                    f"{head}It changes its argument {name!r} in place{first_change(before, after)}. The caller still "
                    f"needs the original. Work on a copy: {name} = {name}.copy()"
                )
        failure = self._compare(found, expected)
        if failure is not None:
            hint = self._hint(function, failure, arguments, found)
            message = f"{head}{failure}{hint}"
            raise CheckFailed(message, failure.found, failure.expected, failure.index)
        if not self.view_allowed:
            for name, value in zip(arguments, given):
                if _share_memory(found, value):
                    raise CheckFailed(
                        f"{head}The numbers are right, but the result is the argument {name!r} itself or a view of "
                        "it: changing one later would change the other. Return a copy."
                    )

    def _must_be_function(self, function):
        if inspect.isclass(function) or not callable(function):
            call = f"check.{self.name}(my_{self.name})"
            raise CheckFailed(
                f"{self.name}: this is {describe(function)}, not a function. Pass the function itself, without calling "
                f"it: {call}"
            )

    def _must_take(self, function, values, arguments):
        try:
            inspect.signature(function).bind(*values)
        except ValueError:  # the signature of some built-in functions is unknown
            return
        except TypeError:
            raise CheckFailed(
                f"{self.name}: {name_of(function)}{inspect.signature(function)} cannot be called with the "
                f"{count(len(arguments), 'argument')} {', '.join(arguments)}."
            ) from None

    # ------------------------------------------------------------------------------------------------- comparing

    def _compare(self, found, expected, where="the result"):
        """None if the results agree, otherwise a CheckFailed that says what is wrong, without the case."""
        if isinstance(expected, (tuple, list)):
            return self._compare_several(found, expected, where)
        if found is None and expected is not None:
            return CheckFailed(f"{capital(where)} is None. Is there a `return` at the end?")
        if not isinstance(expected, (np.ndarray, np.generic, numbers.Number)):
            if type(found) is type(expected) and found == expected:
                return None
            return CheckFailed(f"{capital(where)} is {found!r}, expected {expected!r}.")
        if isinstance(expected, np.ndarray) and expected.ndim and not isinstance(found, np.ndarray):
            return CheckFailed(f"{capital(where)} is {describe(found)}, expected {describe(expected)}.")
        if not isinstance(found, (np.ndarray, np.generic, numbers.Number)):
            return CheckFailed(f"{capital(where)} is {describe(found)}, expected {describe(expected)}.")
        return self._compare_arrays(np.asarray(found), np.asarray(expected), where)

    def _compare_several(self, found, expected, where):
        names = [f"result {i + 1}" for i in range(len(expected))]
        names = [f"{names[i]} ({name})" for i, name in enumerate(self.results[: len(expected)])] + names[
            len(self.results) :
        ]
        if not isinstance(found, (tuple, list)) or len(found) != len(expected):
            what = f"{count(len(found), 'result')}" if isinstance(found, (tuple, list)) else describe(found)
            several = f"{len(expected)} results" + (f" ({', '.join(self.results)})" if self.results else "")
            return CheckFailed(f"{capital(where)} is {what}, expected {several}.")
        for name, a, b in zip(names, found, expected):
            failure = self._compare(a, b, name)
            if failure is not None:
                return failure
        return None

    def _compare_arrays(self, found, expected, where):
        if found.shape != expected.shape:
            turned = " It looks transposed." if found.ndim > 1 and found.shape == expected.shape[::-1] else ""
            return CheckFailed(f"{capital(where)} has shape {found.shape}, expected {expected.shape}.{turned}")
        kinds = found.dtype.kind.replace("u", "i"), expected.dtype.kind.replace("u", "i")
        if found.dtype.kind not in KINDS:
            return CheckFailed(f"{capital(where)} holds {found.dtype}, expected {expected.dtype}.")
        wrong = np.argwhere(~close(found, expected, self.rtol, self.atol))
        if kinds[0] != kinds[1] and not (kinds == ("i", "f") and not len(wrong) and not found.ndim):
            lost = ""
            if kinds == ("i", "f"):
                lost = " An array of integers drops everything after the decimal point."
            return CheckFailed(
                f"{capital(where)} holds {KINDS[found.dtype.kind]} ({found.dtype}), expected "
                f"{KINDS[expected.dtype.kind]} ({expected.dtype}).{lost}"
            )
        if not len(wrong):
            return None
        index = tuple(int(i) for i in wrong[0])
        at = f" at [{', '.join(map(str, index))}]" if index else ""
        lines = f"{capital(where)}{at} is {number(found[index])}, expected {number(expected[index])}."
        if expected.size > 1:
            several = "is wrong" if len(wrong) == 1 else "are wrong; this is the first"
            lines += f"\n{len(wrong)} of {expected.size} elements {several}."
        return CheckFailed(lines, found, expected, index)

    def _hint(self, function, failure, arguments, found):
        """What the wrong numbers look like: a known mistake, or a simple relation to the right ones."""
        likely = [text for text, mistake in self.mistakes.items() if self._gives(mistake, arguments, found)]
        if len(likely) > 1:  # the other cases may rule some of them out
            likely = [text for text in likely if self._agrees(function, self.mistakes[text])] or likely
        if likely:
            return f"\nLikely mistake: {likely[0]}."
        if failure.index is None:
            return ""
        sentence = relation(failure.found, failure.expected)
        return f"\n{sentence}" if sentence else ""

    def _agrees(self, function, mistake):
        """Whether a student's function and a known mistake return the same in all of the chosen cases."""
        outcomes = [(outcome(function, arguments), arguments) for arguments in self.cases.values()]
        return all(self._gives(mistake, arguments, found) for found, arguments in outcomes if found is not None)

    def _gives(self, mistake, arguments, found):
        wrong = outcome(mistake, arguments)
        same = Check(None, {}, rtol=self.rtol, atol=self.atol)
        try:
            return wrong is not None and same._compare(found, wrong) is None
        except Exception:  # another kind of result
            return False

    # --------------------------------------------------------------------------------------------------- showing

    def _show(self, failure, arguments):
        """Draw the first wrong cell if this is a notebook; otherwise add a grid of numbers to the message."""
        if failure.index is None or not (failure.index or self.draw):  # one number has no cells
            return
        if in_notebook():
            draw = self.draw or (lambda *shown: draw_grid(*shown[:3], self.grid, self.rtol, self.atol))
            display_figure(draw(failure.found, failure.expected, failure.index, arguments))
        elif failure.index:
            shown = text_grid(failure.found, failure.expected, failure.index, self.grid, self.rtol, self.atol)
            failure.args = (f"{failure}\n\n{shown}",)


def outcome(function, arguments):
    """What a function returns for the arguments, or None if it fails."""
    try:
        with np.errstate(all="ignore"):
            return function(*copy.deepcopy(list(arguments.values())))
    except Exception:
        return None


def _share_memory(a, b):
    """Whether any array in `a` may overlap in memory with one in `b`."""
    pairs = [(x, y) for x in arrays_in(a) for y in arrays_in(b)]
    return any(x.size and y.size and np.may_share_memory(x, y) for x, y in pairs)


def arrays_in(value):
    """All arrays in a value: the value itself, or those in its tuples, lists and dicts."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [array for item in value for array in arrays_in(item)] if isinstance(value, (list, tuple)) else []
