"""The command line: what each command writes, and what it says about bad input (status 2, one message, no changes)."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minimask import checkpoint, weights
from minimask.__main__ import main
from minimask.run.folder import load_newest, newest_settings
from tests.helpers import SMALL_RUN
from tests.references import tiny
from tests.weight_files import old_names, plain, small_model, write

ROOT = Path(__file__).resolve().parents[1]


def snapshot(folder):
    """The content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def fails(capsys, *argv):
    """Run a command that must fail with exit status 2; returns its message."""
    capsys.readouterr()
    assert main([str(a) for a in argv]) == 2
    err = capsys.readouterr().err
    message = err[err.index("minimask: error: ") :]
    assert message.count("\n") == 1 and "Traceback" not in err
    return message


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps on drawn scenes."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    assert main(["train", "--output", str(folder), "--toy-size", "64", "--steps", "2", *SMALL_RUN]) == 0
    return folder


def write_coco(folder, count=6, categories=("cell",)):
    """`count` photos with one square object each, and their COCO file."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    kinds = [{"id": 10 + i, "name": name} for i, name in enumerate(categories)]
    coco = {"images": [], "annotations": [], "categories": kinds}
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "photos" / f"photo_{i}.png")
        coco["images"].append({"id": i + 100, "file_name": f"photo_{i}.png", "width": 64, "height": 64})
        polygon = [[10, 10, 40, 10, 40, 40, 10, 40]]
        coco["annotations"].append(
            {
                "id": i + 1,
                "image_id": i + 100,
                "category_id": 10,
                "bbox": [10, 10, 30, 30],
                "area": 900,
                "iscrowd": 0,
                "segmentation": polygon,
            }
        )
    (folder / "all.json").write_text(json.dumps(coco))
    return coco


# ------------------------------------------------------------------------------------------------------- what they do


COMMANDS = [
    "demo",
    "train",
    "evaluate",
    "predict",
    "download",
    "convert",
    "split",
    "import",
    "inspect",
    "benchmark",
    "compile",
    "check",
    "notebooks",
    "exercises",
    "slides",
    "book",
    "coverage",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: minimask {command}")
    assert f"python -m minimask {command}" in text  # an example


def test_help_of_all(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "    evaluate  average precision" in capsys.readouterr().out


def test_without_a_command_the_list_is_printed(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"    {command} " in text or f"    {command}\n" in text for command in COMMANDS)
    assert "trian; did you mean train? (known: demo, train," in fails(capsys, "trian")


def test_the_demo_of_the_trained_model(tmp_path, capsys):
    assert main(["demo", "--quick", "--output", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert "20 images" in out and "--weights toy" in out
    with Image.open(tmp_path / "demo" / "predictions.png") as picture:
        assert min(picture.size) > 200


def test_addresses_are_shown_unchanged(tmp_path, capsys):
    address = "https://example.com/photo.jpg"
    assert f"{address}: is an address" in fails(capsys, "predict", address, "--weights", "toy")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert f"{address}: is an address" in fails(capsys, "predict", tmp_path / "a.png", "--weights", address)


def test_quiet(run, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    words = ["predict", tmp_path / "a.png", "--weights", "toy", "--quiet", "--output", tmp_path / "found"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == "" and (tmp_path / "found" / "a.json").exists()


def test_train_evaluate_predict(run, tmp_path, capsys):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 2]
    assert {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"} < records[0].keys()
    model, class_names, category_ids = checkpoint.load_model(run)
    assert class_names == ["cat", "dog", "duck"] and category_ids == [1, 2, 3] and not model.training

    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(photo)
    output = tmp_path / "found"
    assert main(["predict", str(photo), "--weights", str(run), "--output", str(output), "--score", "0"]) == 0
    assert sorted(p.name for p in output.iterdir()) == ["photo.json", "photo.png"]
    assert "photo.png: " in capsys.readouterr().out


def test_own_data_from_split_to_evaluation(tmp_path, capsys):
    write_coco(tmp_path)
    assert main(["split", str(tmp_path / "all.json"), "--every", "3"]) == 0
    parts = [json.loads((tmp_path / f"all_{name}.json").read_text()) for name in ("train", "val")]
    names = [[image["file_name"] for image in part["images"]] for part in parts]
    assert names == [["photo_1.png", "photo_2.png", "photo_4.png", "photo_5.png"], ["photo_0.png", "photo_3.png"]]
    photos, output = str(tmp_path / "photos"), str(tmp_path / "run")
    data = ["--images", photos, "--annotations", str(tmp_path / "all_train.json")]
    check = ["--val-annotations", str(tmp_path / "all_val.json"), "--validate-every", "1"]
    assert main(["train", "--output", output, *data, *check, "--epochs", "1", *SMALL_RUN]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 1, 2, 2]  # 4 images in batches of 2, each step validated
    assert records[1]["validation_loss"] > 0 and {"validation_box_AP", "validation_mask_AP50"} < records[1].keys()
    assert newest_settings(output)["model"]["preset"] == "small"
    capsys.readouterr()
    truth = ["--images", photos, "--annotations", str(tmp_path / "all_val.json")]
    assert main(["evaluate", "--weights", output, *truth]) == 0
    out = capsys.readouterr().out
    assert "2 images" in out and "AP50" in out and "masks" in out
    names = sorted(p.name for p in (tmp_path / "run" / "evaluation").iterdir())
    assert names == [
        *("average_precision.json", "bbox_results.json", "per_class.csv", "precision_recall.png"),
        *("report.html", "segm_results.json"),
    ]
    numbers = json.loads((tmp_path / "run" / "evaluation" / "average_precision.json").read_text())
    assert set(numbers) == {"bbox", "segm"} and "AP75" in numbers["segm"]

    # from these weights onwards, and the clock as the end
    more = ["--weights", output, "--output", str(tmp_path / "more"), "--minutes", "0.005"]
    assert main(["train", *data, *more, *SMALL_RUN]) == 0


def test_demo_does_it_all(tmp_path, capsys, monkeypatch):
    from minimask import datasets
    from minimask.run import commands

    monkeypatch.setattr(commands, "DEMO", {**commands.DEMO, "batch_size": 2})
    monkeypatch.setattr(datasets, "SCENES", {**datasets.SCENES, "test": 4})
    for _ in range(2):  # a second demo replaces the first
        assert main(["demo", "--steps", "2", "--output", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert "AP50" in out and "What to try next" in out
    with Image.open(tmp_path / "demo" / "predictions.png") as picture:
        assert min(picture.size) > 200


def test_importing_the_command_line_imports_nothing_slow():
    code = (
        "import sys; sys.argv = ['minimask']; import minimask.__main__ as m; m.make_parsers();"
        "print([n for n in ('numba', 'matplotlib', 'pycocotools', 'PIL', 'tqdm') if n in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == "[]", process.stderr


def test_training_imports_nothing_that_it_does_not_need():
    code = (
        "import sys; import minimask.train, minimask.machine.warmup, minimask.datasets.toy, minimask.datasets.loader;"
        "print([n for n in ('matplotlib', 'pycocotools', 'scipy') if n in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == "[]", process.stderr


# --------------------------------------------------------------------------------------------------- published weights


def published_file(path, num_classes=91, **settings):
    """A published file with torchvision's older names, of a small model that finds things."""
    model = small_model(num_classes, **settings)
    state = old_names(weights.to_torchvision(model.state_dict()))
    if num_classes == 91:
        state["roi_heads.box_predictor.cls_score.bias"][17] += 6  # cats
    write(path, state)
    return path


def write_picture(path):
    Image.fromarray(tiny.pictures()[0][0]).save(path)
    return path


def test_the_same_found_before_and_after_converting(tmp_path, capsys):
    file = published_file(tmp_path / "small_coco-bf2d0c1e.npz")
    photo = write_picture(tmp_path / "photo.png")
    assert main(["convert", str(file), "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "loaded 1" in out and f"weights: {tmp_path / 'run' / 'checkpoint-00000000.npz'}" in out
    assert main(["convert", str(file), "--output", str(tmp_path / "one.npz")]) == 0
    # and from our checkpoint back into torchvision's layout
    back = tmp_path / "back-bf2d0c1e.npz"
    assert main(["convert", str(tmp_path / "run"), "--output", str(back), "--torchvision"]) == 0
    for name, source in (("a", file), ("b", tmp_path / "run"), ("c", tmp_path / "one.npz"), ("d", back)):
        options = ["--weights", str(source), "--output", str(tmp_path / name), "--score", "0.1"]
        assert main(["predict", str(photo), *options]) == 0
    found = json.loads((tmp_path / "a" / "photo.json").read_text())["detections"]
    assert len(found) >= 5 and {"cat"} <= {entry["name"] for entry in found}
    assert {entry["category_id"] for entry in found if entry["name"] == "cat"} == {17}
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b") == snapshot(tmp_path / "c") == snapshot(tmp_path / "d")


PEOPLE = dict(mask=None, keypoints=17, keypoint_channels=(8, 8))


def test_what_converting_prints_and_keeps(tmp_path, capsys):
    file = published_file(tmp_path / "people.npz", 2, heads=PEOPLE)
    assert main(["convert", str(file), "--output", str(tmp_path / "run"), "--set", "transform.min_size=96"]) == 0
    settings = newest_settings(tmp_path / "run")
    assert settings["class_names"] == ["person"] and settings["keypoint_names"][0] == "nose"
    assert settings["model"]["transform"]["min_size"] == 96 and settings["model"]["heads"]["keypoints"] == 17
    before = snapshot(tmp_path / "run")
    assert "holds checkpoints already" in fails(capsys, "convert", file, "--output", tmp_path / "run")
    one = tmp_path / "run" / "checkpoint-00000000.npz"
    assert "exists already" in fails(capsys, "convert", file, "--output", one)
    assert "unknown model setting color" in fails(
        capsys, "convert", file, "--output", tmp_path / "run", "--overwrite", "--set", "color=1"
    )
    message = fails(capsys, "train", "--output", tmp_path / "run", "--resume", "--steps", "1")
    assert "holds converted weights, not a run to go on with" in message
    assert snapshot(tmp_path / "run") == before
    assert main(["convert", str(file), "--output", str(tmp_path / "run"), "--overwrite"]) == 0
    assert snapshot(tmp_path / "run") != before


def test_training_from_published_weights(tmp_path, capsys):
    write_coco(tmp_path)
    file = published_file(tmp_path / "small_coco-bf2d0c1e.npz")
    data = ["--images", str(tmp_path / "photos"), "--annotations", str(tmp_path / "all.json")]
    run = ["--output", str(tmp_path / "run"), "--batch-size", "2", "--threads", "1", "--min-size", "64"]
    message = fails(capsys, "train", *data, *run, "--weights", file, "--steps", "2")
    assert "holds weights for 91 classes" in message and "here has 2 classes" in message and "--new-heads" in message
    assert not (tmp_path / "run").exists()
    options = [*data, *run, "--weights", str(file), "--new-heads", "--learning-rate", "1e-6"]
    assert main(["train", *options, "--steps", "2", "--save-every", "1"]) == 0
    assert "new 6 (not from the file, to be trained): roi_heads.box_predictor" in capsys.readouterr().err
    settings = newest_settings(tmp_path / "run")
    model = settings["model"]
    assert model["preset"] == "resnet50_fpn" and model["num_classes"] == 2 and model["transform"] == {"min_size": 64}
    backbone = {"name": "resnet18", "channels": [8, 8, 16, 16], "fpn_channels": 16, "norm_eps": 0.0}
    assert model["backbone"] == backbone
    arrays = checkpoint.part(load_newest(tmp_path / "run")[1], "model")
    with np.load(file) as theirs:
        np.testing.assert_array_equal(arrays["backbone.body.bn1.weight"], theirs["backbone.body.bn1.weight"])
        weight = theirs["rpn.head.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(arrays["rpn.head.conv.0.0.weight"], weight, atol=1e-4)

    # the run can be resumed without the file
    (tmp_path / "run" / "checkpoint-00000002.npz").unlink()
    file.rename(tmp_path / "elsewhere.npz")
    assert main(["train", "--output", str(tmp_path / "run"), "--resume"]) == 0
    again = checkpoint.part(load_newest(tmp_path / "run")[1], "model")
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


def test_keypoints_of_the_weights_are_left_out_unless_requested(tmp_path, capsys):
    write_coco(tmp_path)
    file = published_file(tmp_path / "people.npz", 2, heads=PEOPLE)
    data = ["--images", str(tmp_path / "photos"), "--annotations", str(tmp_path / "all.json")]
    run = ["--output", str(tmp_path / "run"), "--batch-size", "2", "--threads", "1", "--min-size", "64"]
    assert main(["train", *data, *run, "--weights", str(file), "--new-heads", "--steps", "1"]) == 0
    assert "skipped" in capsys.readouterr().err
    assert newest_settings(tmp_path / "run")["model"]["heads"]["keypoints"] == 0


def test_training_from_a_backbone_or_with_a_preset(tmp_path, capsys):
    write_coco(tmp_path)
    file = write(tmp_path / "resnet.npz", plain(small_model()))
    data = ["--images", str(tmp_path / "photos"), "--annotations", str(tmp_path / "all.json")]
    run = ["--batch-size", "2", "--threads", "1", "--min-size", "64", "--steps", "1", "--weights", str(file)]
    small = ["--set", "backbone.fpn_channels=16", "--set", "heads.box_width=32", "--set", "heads.mask_channels=[16]"]
    assert main(["train", *data, *run, *small, "--output", str(tmp_path / "run")]) == 0
    assert "skipped 2 (in the file, not in the model): fc.weight, fc.bias" in capsys.readouterr().err
    model = newest_settings(tmp_path / "run")["model"]
    assert model["backbone"] == {"name": "resnet18", "channels": [8, 8, 16, 16], "fpn_channels": 16}
    message = fails(capsys, "train", *data, *run, "--preset", "small", "--output", tmp_path / "other")
    assert "conv1.weight is (8, 3, 7, 7) in the file, (32, 3, 3, 3) in the model" in message
    message = fails(capsys, "predict", tmp_path / "photos", "--weights", file, "--output", tmp_path / "found")
    assert "resnet.npz: is a backbone, which finds nothing by itself" in message
    message = fails(capsys, "train", *data, "--new-heads", "--output", tmp_path / "other")
    assert "new_heads needs weights" in message
    assert not (tmp_path / "other").exists() and not (tmp_path / "found").exists()


def test_evaluating_published_weights_by_the_names_of_the_classes(tmp_path, capsys):
    """The file has 91 labels; the data has two of them, under other ids."""
    write_coco(tmp_path, 2, ("dog", "cat"))
    Image.fromarray(tiny.pictures()[0][0]).resize((64, 64)).save(tmp_path / "photos" / "photo_0.png")
    file = published_file(tmp_path / "small_coco-bf2d0c1e.npz")
    data = ["--images", str(tmp_path / "photos"), "--annotations", str(tmp_path / "all.json")]
    assert main(["evaluate", "--weights", str(file), *data]) == 0
    assert "2 images" in capsys.readouterr().out
    found = json.loads((tmp_path / "evaluation" / "bbox_results.json").read_text())
    cats = [entry for entry in found if entry["category_id"] == 11]  # the file's id of "cat"
    assert len(cats) >= 3 and all(entry["score"] > 0.05 for entry in cats)
    write_coco(tmp_path, 2, ("cat", "unicorn"))  # no object is a unicorn
    assert main(["evaluate", "--weights", str(file), *data]) == 0
    assert 'category without objects that the model does not have: "unicorn"' in capsys.readouterr().err
    write_coco(tmp_path, 2, ("unicorn", "cat"))
    message = fails(capsys, "evaluate", "--weights", file, *data)
    assert "90 classes of objects (person, bicycle, car, motorcycle, ...), the data has 2 (unicorn, cat)" in message


# ------------------------------------------------------------------------------------------------------------ bad input


def test_no_traceback_and_status_2_in_a_real_process(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "minimask", "predict", "nowhere.png", "--weights", "nothing.npz"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stderr.strip() == "minimask: error: nowhere.png: no such photo or folder"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--steps", "0"], "steps must be an integer of at least 1, or none, got 0"),
        (["--steps", "3", "--minutes", "1"], "give one of steps, epochs and minutes, not steps and minutes"),
        (["--minutes", "-1"], "minutes must be a number above 0, or none, got -1.0"),
        (["--epochs", "0"], "epochs must be a number above 0, or none, got 0.0"),
        (["--batch-size", "0"], "batch_size must be an integer of at least 1, got 0"),
        (["--learning-rate", "0"], "learning_rate must be a number above 0, got 0.0"),
        (["--learning-rate", "nan"], "learning_rate must be a number above 0, got nan"),
        (["--workers", "-1"], "workers must be an integer of at least 0, or none, got -1"),
        (["--threads", "0"], "threads must be an integer of at least 1, or none, got 0"),
        (["--threads", "100000"], "count must be 1 to"),
        (["--scale-jitter", "2", "1"], "scale_jitter must be LOW <= HIGH, got (2.0, 1.0)"),
        (["--toy-size", "4"], "toy_size must be an integer of at least 32, got 4"),
        (["--toy-case", "huge"], "toy_case must be crowded, disconnected or small, or none, got 'huge'"),
        (["--preset", "smal"], "preset must be toy, small, resnet50_fpn, "),
        (["--stpes", "3"], "train: unknown option --stpes; did you mean --steps?"),
        (["--lr", "3"], "train: unknown option --lr; did you mean --learning-rate?"),
        (["photo.jpg"], "train: takes no 'photo.jpg'"),
        (["--set", "color=blue"], "unknown model setting color"),
        (["--set", "roi.pooling=mean"], "roi.pooling must be roi_align, roi_pool or roi_warp or a function"),
        (["--min-size", "900", "--max-size", "300"], "min_size <= max_size, got 900 and 300"),
        (["--images", "photos"], "images and annotations belong together"),
        (["--val-annotations", "val.json"], "val_annotations needs images and annotations"),
        (["--weights", "nowhere.npz"], "nowhere.npz: there is no such file or folder"),
    ],
)
def test_train_settings(options, message, tmp_path, capsys):
    assert message in fails(capsys, "train", "--output", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_train_num_classes(tmp_path, capsys):
    coco = write_coco(tmp_path)
    coco["categories"], coco["annotations"] = [], []
    (tmp_path / "all.json").write_text(json.dumps(coco))
    data = ["--images", tmp_path / "photos", "--annotations", tmp_path / "all.json"]
    message = fails(capsys, "train", "--output", tmp_path / "run", *data)
    assert "categor" in message


def test_train_data(tmp_path, capsys):
    coco = write_coco(tmp_path)
    photos, file = tmp_path / "photos", tmp_path / "bad.json"

    def message(content, images=photos):
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return fails(
            capsys, "train", "--output", tmp_path / "run", "--images", images, "--annotations", file, *SMALL_RUN
        )

    assert "bad.json" in message("{")
    assert "images" in message({"annotations": [], "categories": []})
    assert "bad.json" in message({**coco, "images": [], "annotations": []})  # no images at all
    message({**coco, "annotations": [{**coco["annotations"][0], "category_id": 99}]})
    message({**coco, "annotations": [{**coco["annotations"][0], "segmentation": [[1, 1, 5, 5]]}]})
    message(coco, tmp_path / "nowhere")
    missing = [{**image, "file_name": f"not_there_{i}.png"} for i, image in enumerate(coco["images"])]
    assert "not_there_" in message({**coco, "images": missing})
    assert not (tmp_path / "run" / "checkpoint-00000001.npz").exists()


def test_an_unreadable_photo_is_named(tmp_path, capsys):
    write_coco(tmp_path)
    (tmp_path / "photos" / "photo_3.png").write_bytes(b"no picture")
    data = ["--images", tmp_path / "photos", "--annotations", tmp_path / "all.json"]
    message = fails(capsys, "train", "--output", tmp_path / "run", *data, "--steps", "3", *SMALL_RUN)
    assert "photo_3.png" in message


def test_an_earlier_run_stays_as_it_is(run, capsys):
    before = snapshot(run)
    message = fails(capsys, "train", "--output", run, "--steps", "1", *SMALL_RUN)
    assert "holds a run already" in message and "--resume" in message and "--overwrite" in message
    # what fails before training starts deletes nothing, even with --overwrite
    fails(capsys, "train", "--output", run, "--overwrite", "--steps", "0")
    fails(capsys, "train", "--output", run, "--overwrite", "--steps", "1", "--weights", run / "nowhere.npz", *SMALL_RUN)
    assert snapshot(run) == before


def test_damaged_weights_and_another_class_count(run, tmp_path, capsys):
    path = checkpoint.find(run)
    damaged = tmp_path / "damaged.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    write_coco(tmp_path)
    data = ["--images", tmp_path / "photos", "--annotations", tmp_path / "all.json"]
    photo = tmp_path / "photos" / "photo_0.png"
    assert "damaged.npz: the checkpoint is damaged" in fails(capsys, "predict", photo, "--weights", damaged)
    assert "damaged.npz: the checkpoint is damaged" in fails(capsys, "evaluate", "--weights", damaged)
    message = fails(capsys, "train", "--weights", path, "--output", tmp_path / "run", *data, *SMALL_RUN)
    assert "4 classes" in message and "2 classes" in message and str(path) in message
    message = fails(capsys, "evaluate", "--weights", run, *data)
    assert "3 classes of objects (cat, dog, duck), the data has 1 (cell)" in message
    assert not (tmp_path / "run").exists() and not (run / "evaluation").exists()


def test_a_full_disk_while_training(tmp_path, capsys, monkeypatch):
    options = ["--output", str(tmp_path / "run"), "--toy-size", "64", "--steps", "4", "--save-every", "1", *SMALL_RUN]
    real = os.replace

    def replace(a, b):
        if "00000003" in str(b):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    message = fails(capsys, "train", *options)
    assert "checkpoint-00000003.npz: could not be written (No space left on device)" in message
    names = [p.name for p in checkpoint.checkpoints(tmp_path / "run")]
    assert names == ["checkpoint-00000001.npz", "checkpoint-00000002.npz"]
    monkeypatch.undo()
    assert main(["train", *options, "--resume"]) == 0


def test_predict(run, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    output = tmp_path / "found"
    assert "bad.png" in fails(capsys, "predict", bad, "--weights", run, "--output", output)
    message = fails(capsys, "predict", bad, "--weights", run, "--score", "7")
    assert "score must be a number of at least 0 and at most 1, got 7.0" in message
    assert "nowhere" in fails(capsys, "predict", bad, "--weights", tmp_path / "nowhere")
    assert "holds no checkpoint" in fails(capsys, "predict", bad, "--weights", tmp_path)


def test_predict_a_photo_of_one_pixel_and_a_long_one(run, tmp_path):
    Image.new("RGB", (1, 1), (200, 10, 10)).save(tmp_path / "one.png")
    Image.new("L", (10_000, 4)).save(tmp_path / "long.png")
    photos = [str(tmp_path / "one.png"), str(tmp_path / "long.png")]
    assert main(["predict", *photos, "--weights", str(run), "--output", str(tmp_path / "found")]) == 0
    assert len(list((tmp_path / "found").glob("*.json"))) == 2


@pytest.mark.parametrize(
    "content, message",
    [
        ("[1, 2", "is not json"),
        ("[]", "is not COCO json: it must hold an object, not a list"),
        ('{"images": [], "annotations": []}', 'is not COCO json: "categories" is missing'),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            'images.0. has no "file_name"',
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{}], "categories": [{"id": 1, "name": "a"}]}',
            'annotations.0. has no "image_id"',
        ),
        ('{"images": [], "annotations": [], "categories": []}', "there are no images in it"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            "too few images to split",
        ),
    ],
)
def test_split_of_bad_files(content, message, tmp_path, capsys):
    import re

    file = tmp_path / "file.json"
    file.write_text(content)
    assert re.search(message, fails(capsys, "split", file))
    assert snapshot(tmp_path) == {"file.json": content.encode()}


def test_split_overwrites_nothing_unasked(tmp_path, capsys):
    write_coco(tmp_path)
    (tmp_path / "all_val.json").write_text("mine")
    assert "all_val.json: exists already" in fails(capsys, "split", tmp_path / "all.json")
    assert (tmp_path / "all_val.json").read_text() == "mine" and not (tmp_path / "all_train.json").exists()
    assert "every must be 2 or more" in fails(capsys, "split", tmp_path / "all.json", "--every", "1")
    assert "nowhere.json: no such file of annotations" in fails(capsys, "split", tmp_path / "nowhere.json")
    assert main(["split", str(tmp_path / "all.json"), "--overwrite"]) == 0


def test_predict_a_tree_of_photos(run, tmp_path, capsys):
    for name in ("a.png", "more/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    (tmp_path / "c.heic").write_text("")
    command = ["predict", str(tmp_path), "--weights", str(run), "--output", str(tmp_path / "out"), "--score", "0"]
    results = tmp_path / "found.json"
    assert main([*command, "--coco", str(results)]) == 0
    captured = capsys.readouterr()
    assert "minimask: passed over: 1 .heic file, 1 sub-folder" in captured.err
    assert "a.png" in captured.out and "b.png" not in captured.out
    assert {entry["file_name"] for entry in json.loads(results.read_text())} == {"a.png"}
    assert main([*command, "--recursive"]) == 0
    assert "b.png" in capsys.readouterr().out
