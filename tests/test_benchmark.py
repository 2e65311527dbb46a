"""The benchmark: both sides do the same work, and table and messages are right. Speed is not tested here."""

import argparse
import ast
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minimask import benchmark
from minimask.benchmark import common, growth, models, ours
from minimask.benchmark.cases import Layer, all_cases, roi_align_bytes
from minimask.device import gpu_available
from minimask.errors import InputError


def arguments(*words):
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return parser.parse_args(words)


def small_cases():
    """Cases that take a few milliseconds, one for each piece of work."""
    chosen = {}
    for case in all_cases("unused"):
        if not case.inputs and ("toy" in case.title or case.piece in ("nms", "paste")):
            chosen[case.piece, case.settings.get("direction")] = case
    return chosen.values()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_case_is_a_piece_of_both_sides(device):
    cases = all_cases("folder", device)
    assert len({case.title for case in cases}) == len(cases)
    theirs = ast.parse((benchmark.HERE / "reference.py").read_text())
    signatures = {
        node.name: {a.arg for a in node.args.args} for node in theirs.body if isinstance(node, ast.FunctionDef)
    }
    for case in cases:
        assert set(inspect.signature(ours.PIECES[case.piece]).parameters) == set(case.settings)
        assert signatures[case.piece] - {"tuned"} == set(case.settings)
        assert ("tuned" in signatures[case.piece]) == case.tuned, case.title
        if case.inputs:
            piece, settings = case.inputs
            assert set(inspect.signature(ours.PIECES[piece]).parameters) == set(settings)


def test_arithmetic_of_a_layer():
    """7x7/2 from 3 to 64 channels: 112 x 112 outputs of 64 channels, 7 * 7 * 3 products each."""
    assert Layer("stem", 1, 224, 224, 3, 64, size=7, stride=2).flops() == 2 * 112 * 112 * 64 * 147
    assert Layer("depthwise", 1, 10, 10, 8, 8, groups=8).flops() == 2 * 100 * 8 * 9


def test_bytes_that_must_be_moved():
    """Max pooling of 4 x 4 numbers gives 2 x 2; RoIAlign of one RoI of 1 x 1 reads 8 x 8 + 4 x 4 + 2 x 2 + 1 places."""
    cases = {case.title: case for case in all_cases("folder")}
    assert cases["max pool: toy 3x3/2 forward"].bytes == 4 * 8 * (64 * 64 + 32 * 32) * 32
    assert cases["batch norm + relu: toy C4 backward"].bytes == 4 * 7 * 8 * 8 * 8 * 128
    assert cases["optimizer: AdamW 2 million in 60 arrays"].bytes == 4 * 7 * 60 * 9 * 64 * 64
    assert roi_align_bytes(1, 32, 32, 3, 224, rois=1, size=1) == 4 * 3 * (64 + 16 + 4 + 1 + 1)
    assert cases["nms: 1000 boxes"].bytes == 0  # how much it reads depends on the boxes


def test_every_kernel_case_runs_on_our_side():
    for case in small_cases():
        run = ours.PIECES[case.piece](**case.settings)
        first, second = (common.fingerprint(ours.to_arrays(run())) for _ in range(2))
        assert first and all(size > 0 and np.isfinite(mean) for size, mean in first) and first[0][1] > 0, case.title
        assert case.piece == "optimizer" or first == second, f"{case.title}: a second run differs"


def test_both_sides_come_to_the_same_results():
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from minimask.benchmark import reference

    for case in small_cases():
        results = []
        for side, settings in ((ours, {}), (reference, {}), (reference, {"tuned": True})):
            if case.tuned or not settings:
                run = side.PIECES[case.piece](**case.settings, **settings)
                results.append(common.fingerprint(side.to_arrays(run())))
        for theirs in results[1:]:
            benchmark.check_same_result(case, results[0], theirs, "torch")


def test_models_of_both_sides_agree(tmp_path):
    """Both sides read the files, and the first training loss is torchvision's, except for which RoIs are sampled."""
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from minimask.benchmark import reference

    for trained in (0, 3):
        models.write_toy(tmp_path, trained)()
        loss, other = models.toy_step(tmp_path)(), reference.toy_step(tmp_path)()
        assert loss.item() == pytest.approx(other.item(), rel=0.3)


@pytest.mark.parametrize("name", ["toy_step", "step", "torch"])
def test_timed_training_steps_do_not_change_the_weights(name, tmp_path, monkeypatch):
    """A side that takes more steps in its time then does the same work in each of them."""

    if name == "torch":
        pytest.importorskip("torch")
        pytest.importorskip("torchvision")
        from minimask.benchmark import reference

        optimizers, make = reference.torch.optim, reference.toy_step
    else:
        optimizers, make = models.optim, {"toy_step": models.toy_step, "step": lambda _: models.step(1, 64, 2)}[name]
    models.write_toy(tmp_path, trained=0)()
    parameters, sgd = [], optimizers.SGD
    monkeypatch.setattr(optimizers, "SGD", lambda p, **settings: sgd(parameters.extend(p) or parameters, **settings))
    run = make(tmp_path)
    weights = [p.data * 1 for p in parameters]
    run()
    assert len(weights) > 20 and all(p.grad is not None for p in parameters)
    for before, p in zip(weights, parameters):
        np.testing.assert_array_equal(p.data, before)


def test_other_work_is_refused():
    case = next(iter(small_cases()))
    benchmark.check_same_result(case, [[10, 1.0]], [[10, 1.0005]], "torch")
    for other in ([[10, 1.01]], [[11, 1.0]], [[10, 1.0], [1, 1.0]]):
        with pytest.raises(InputError, match="different results"):
            benchmark.check_same_result(case, [[10, 1.0]], other, "torch")


def test_times_fills_the_seconds():
    calls = []
    measured = common.times(lambda: calls.append(sum(range(20_000))), 0.02)
    assert sum(measured) >= 0.02 and len(calls) == len(measured) + 1


def test_times_on_a_card_waits_once_for_many_calls():
    """With a pretend card that takes 0.2 ms per call, and only when waited for."""
    launched, waits = [0], []

    def run():
        launched[0] += 1

    def wait():
        time.sleep(2e-4 * launched[0])
        waits.append(launched[0])
        launched[0] = 0

    measured = common.times(run, 0.05, wait)
    assert launched[0] == 0 and waits[:3] == [1, 1, 2] and waits[-1] >= 16
    assert all(2e-4 <= seconds < 2e-3 for seconds in measured)
    assert sum(measured) * waits[-1] >= 0.05 and len(measured) < 20


def test_speed_in_its_units():
    row = {"flops": 3e12, "bytes": 2e9, "seconds": {"minimask": 0.5}}
    assert benchmark.show_speed(row, "cpu") == "6000" and benchmark.show_speed(row, "cuda") == "6.00 TFLOP/s"
    assert benchmark.show_speed({**row, "flops": 0}, "cuda") == "4 GB/s"
    assert benchmark.show_speed({**row, "flops": 0}, "cpu") == ""
    assert benchmark.show_speed({**row, "flops": 0, "bytes": 0}, "cuda") == ""


def test_peak_memory_counts_what_was_freed():
    if common.peak_memory() is None:
        pytest.skip("this system does not say")
    code = (
        "from minimask.benchmark.common import peak_memory; import numpy as np; before = peak_memory();"
        "np.ones(2 ** 25).sum(); print(peak_memory() - before)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(benchmark.HERE).parent.parent)}
    grown = int(subprocess.check_output([sys.executable, "-c", code], text=True, env=environment))
    assert 0.9 * 2**28 < grown < 1.2 * 2**28


def test_table_alone(capsys, tmp_path):
    output = tmp_path / "numbers.json"
    words = ["--only", "nms: 1000", "--rounds", "2", "--output", str(output)]
    assert benchmark.main(arguments(*words)) == 0
    printed = capsys.readouterr().out
    assert "NumPy" in printed and "1000 boxes" in printed and "ratio" not in printed
    written = json.loads(output.read_text())
    (row,) = written["results"]
    assert row["name"] == "nms: 1000 boxes" and len(row["rounds"]["minimask"]) == 2
    assert 0 < row["seconds"]["minimask"] < 1
    assert row["peak_memory"]["minimask"] is None or 2**25 < row["peak_memory"]["minimask"] < 2**31


def test_table_against_torch(capsys):
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    words = ["--only", "toy C3 1", "--rounds", "1", "--no-memory", "--reference", sys.executable]
    with pytest.raises(InputError, match="no piece of work"):
        benchmark.main(arguments(*words))
    words[1] = "toy: C2 3x3/2 forward"
    benchmark.main(arguments(*words))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("torch 2") for line in lines)
    heading, row = (next(line for line in lines if word in line) for word in ("ratio", "C2 3x3/2 forward"))
    assert heading.split()[:4] == ["minimask", "GFLOP/s", "torch", "ratio"]
    assert len(heading) >= len(row)  # aligned to the right


@pytest.mark.parametrize(
    "words, message",
    [
        (["--only", "nothing like it"], "no piece of work has 'nothing like it' in its name; there are: whole"),
        (["--reference", "/no/such/python"], "cannot run /no/such/python"),
        (["--rounds", "0"], "at least 1"),
        (["--threads", "0"], "at least 1"),
        (["--threads", "2", "0"], "at least 1"),
        (["--growth", "/dev/null/growth.png"], "growth.png: cannot be written to"),
        (["--growth", "growth.png", "--only", "nothing"], "there are: training step, images, training step, side"),
    ],
)
def test_bad_arguments(words, message):
    with pytest.raises(InputError, match=message):
        benchmark.main(arguments(*words))


@pytest.mark.skipif(gpu_available(), reason="there is a card")
def test_without_a_card():
    with pytest.raises(InputError, match="device cuda: "):
        benchmark.main(arguments("--device", "cuda"))


def test_reference_without_torch_is_named(tmp_path):
    """With an interpreter that cannot import torch, its message appears, then ours, and no process is left behind."""
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    code = (
        "import sys; from minimask import benchmark\n"
        "benchmark.HERE = __import__('pathlib').Path(sys.argv[1])\n"
        "try:\n    benchmark.start_sides(sys.executable, 1)\n"
        "except benchmark.InputError as error:\n    print(error)"
    )
    for name in ("reference.py", "reference_models.py", "common.py"):
        (tmp_path / name).write_text((benchmark.HERE / name).read_text())
    environment = {**os.environ, "PYTHONPATH": str(Path(benchmark.HERE).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert "the torch side" in done.stdout and "ended with status 1" in done.stdout
    assert "no torch here" in done.stderr


# ------------------------------------------------------------------------------------------------------------- growth


def test_exponent_of_known_growth():
    work = [1, 2, 4, 8]
    assert growth.exponent(work, [0.5 * w**2 for w in work]) == pytest.approx(2)
    assert growth.exponent(work, [3.0] * 4) == pytest.approx(0)
    assert growth.exponent(work, [1 + w for w in work]) < 1  # a fixed part flattens the line


def test_every_series_is_a_piece_of_our_side():
    series = growth.all_series()
    assert len({s.title for s in series}) == len(series)
    for s in series:
        assert set(inspect.signature(ours.PIECES[s.piece]).parameters) == {*s.settings, s.grows}, s.title
        assert list(s.sizes) == sorted(s.sizes) and len(s.sizes) >= 4
    grown = {s.grows: s.sizes for s in series}
    assert {"images", "side", "objects", "rois"} < set(grown)


def test_whole_pieces_of_growth_run():

    loss = models.step(images=2, side=64, objects=3)()
    assert np.isfinite(loss.item())
    assert len(models.detect(images=1, side=64)()[0]) == 1


def test_growth_table_and_picture(capsys, tmp_path):
    picture, output = tmp_path / "growth.png", tmp_path / "growth.json"
    words = ["--growth", str(picture), "--only", "paste", "--rounds", "1", "--threads", "1", "--output", str(output)]
    assert benchmark.main(arguments(*words)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    (row,) = json.loads(output.read_text())["results"]
    assert row["threads"] == 1 and len(row["seconds"]) == len(row["sizes"]) and 0 < row["exponent"] < 2
    printed = capsys.readouterr().out
    assert "1 thread used" in printed and "paste masks, masks" in printed


def test_growth_that_is_too_fast_is_named():
    row = {"name": "x, images", "sizes": [1, 2], "seconds": [1.0, 4.0], "exponent": 2.0, "most": 1.1}
    assert growth.show_row(row).endswith("grows too fast")
    assert not growth.show_row({**row, "exponent": 1.0}).endswith("grows too fast")


def test_several_thread_counts_in_one_report(capsys, tmp_path):
    output = tmp_path / "numbers.json"
    words = ["--only", "nms: 1000", "--rounds", "1", "--no-memory", "--threads", "1", "2", "--output", str(output)]
    benchmark.main(arguments(*words))
    report = json.loads(output.read_text())
    assert [row["threads"] for row in report["results"]] == [1, 2]
    printed = capsys.readouterr().out
    assert "1 thread used" in printed and "2 threads used" in printed
