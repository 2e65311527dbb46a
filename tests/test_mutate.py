"""The mutants that `python -m tests.mutate` tries, and how it runs tests on them."""

import subprocess
import sys

import pytest

from tests import mutate
from tests.equivalent_mutants import EQUIVALENT
from tests.mutants import mutants

SOURCE = '''"""A docstring with 1 < 2."""


def f(x, y=2, *, flag=True):
    if x < y and not flag:  # 3 > 2
        raise ValueError(f"{x + 1}")
    x += 0.5
    values[0] = -x // (max(x, y) - 1)
    log(x)
    return x is not None
'''


def changed_lines():
    """(line before, line after) of each mutant of SOURCE."""
    pairs = set()
    for start, end, text in mutants(SOURCE):
        before, after = SOURCE.splitlines(), (SOURCE[:start] + text + SOURCE[end:]).splitlines()
        assert len(before) == len(after)
        pairs |= {(a.strip(), b.strip()) for a, b in zip(before, after) if a != b}
    return pairs


@pytest.mark.parametrize(
    "before, expected",
    [
        ("def f(x, y=2, *, flag=True):", {"def f(x, y=3, *, flag=True):", "def f(x, y=2, *, flag=False):"}),
        (
            "if x < y and not flag:  # 3 > 2",
            {
                "if x <= y and not flag:  # 3 > 2",
                "if x > y and not flag:  # 3 > 2",
                "if x < y or not flag:  # 3 > 2",
                "if x < y and flag:  # 3 > 2",
            },
        ),
        ('raise ValueError(f"{x + 1}")', {"pass"}),
        ("x += 0.5", {"x -= 0.5", "x += 1.0", "pass"}),
        (
            "values[0] = -x // (max(x, y) - 1)",
            {
                "values[1] = -x // (max(x, y) - 1)",
                "values[0] = x // (max(x, y) - 1)",
                "values[0] = -x * (max(x, y) - 1)",
                "values[0] = -x // (min(x, y) - 1)",
                "values[0] = -x // (max(x, y) + 1)",
                "values[0] = -x // (max(x, y) - 2)",
                "pass",
            },
        ),
        ("log(x)", {"pass"}),
        ("return x is not None", {"return x is None"}),
        ('"""A docstring with 1 < 2."""', set()),
    ],
)
def test_the_mutants_of_a_line(before, expected):
    assert {new for old, new in changed_lines() if old == before} == expected


def test_listed_modules_and_their_tests_exist():
    for module in {*mutate.TESTS, *EQUIVALENT, "boxes"}:
        path, tests = mutate.files_of(module)
        assert all((mutate.ROOT / file).is_file() for file in [path, *tests]), module


def test_equivalent_mutants_are_mutants_of_today():
    """An entry whose line has changed would hide nothing; it must go."""
    for module, listed in EQUIVALENT.items():
        source = (mutate.ROOT / mutate.files_of(module)[0]).read_text(encoding="utf-8")
        content = source.encode()
        possible = set()
        for start, end, text in mutants(source):
            rows = mutate.difference(source, (content[:start] + text.encode() + content[end:]).decode())
            possible.add((rows[0][1:].strip(), rows[-1][1:].strip()))
        for old, new, reason in listed:
            assert (old, new) in possible and reason, f"{module}: {old} -> {new}"


def test_a_survivor_is_printed_and_a_killed_mutant_is_counted(tmp_path):
    """Without a test that looks at SLOW, a change of it survives; with one, it does not."""
    (tmp_path / "test_name.py").write_text(
        "from minimask.errors import InputError\n\n\ndef test(): assert InputError\n"
    )
    command = [
        sys.executable,
        "-m",
        "tests.mutate",
        "errors",
        "--limit",
        "2",
        "--tests",
        str(tmp_path / "test_name.py"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=mutate.ROOT)
    assert done.returncode == 1, done.stderr
    assert "survived minimask/errors.py:" in done.stdout and "errors: 0 killed, 2 survived, 0 equivalent" in done.stdout
