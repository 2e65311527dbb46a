"""What `import minimask` offers: the ten lines of its docstring, predictions with names, options, messages."""

import io
import json
import os
import pydoc
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minimask
from minimask import checkpoint
from minimask.datasets.loader import InMemory, Loader
from minimask.errors import InputError
from minimask.run.options import TrainOptions
from minimask.weights import toy_weights
from tests.helpers import SMALL

ROOT = Path(__file__).resolve().parents[1]


def run_python(code, folder, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    environment.pop("DISPLAY", None)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def toy():
    return minimask.load("toy")


@pytest.fixture(scope="module")
def scene():
    return minimask.datasets.toy("test")[0]


def test_the_ten_lines_of_the_docstring(tmp_path, scene):
    """As they stand, in a folder with a run and a photo; only fewer steps, and fewer scenes to evaluate on."""
    lines = [line.strip() for line in minimask.__doc__.splitlines()[2:11]]
    assert lines[0] == "import minimask" and lines[-1].startswith("minimask.evaluate(")
    code = "\n".join([*lines, 'found.save("found.png")', "print(run)"])
    assert code.count("steps=500") == 1
    code = code.replace("steps=500", "steps=2").replace('toy("test")', 'toy("test", count=3)')
    (tmp_path / "runs" / "toy").mkdir(parents=True)
    shutil.copy(toy_weights(), tmp_path / "runs" / "toy" / "checkpoint-00004000.npz")
    Image.fromarray(scene.image).save(tmp_path / "photo.jpg", quality=95)

    process = run_python(code, tmp_path)
    assert process.returncode == 0, process.stderr
    assert "AP50" in process.stdout and "TrainingRun" in process.stdout
    assert "there is no screen to show it on; the picture is in " in process.stderr or sys.platform != "linux"
    with Image.open(tmp_path / "found.png") as picture:
        assert min(picture.size) > 500
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "runs" / "mine")] == [
        "checkpoint-00000000.npz",
        "checkpoint-00000002.npz",
    ]


def test_import_is_light_and_offers_the_names(tmp_path):
    slow = ("PIL", "matplotlib", "pycocotools", "numba", "tqdm", "cupy")
    code = f"import minimask, sys; print([n for n in {slow} if n in sys.modules]); print(*dir(minimask))"
    light, names = run_python(code, tmp_path).stdout.splitlines()
    assert light == "[]"
    wanted = (
        "load build MaskRCNN train evaluate Tensor Function Parameter no_grad nn optim functional datasets draw check"
    )
    assert {*wanted.split(), "weights"} <= set(names.split())
    for name in minimask.__all__:
        assert getattr(minimask, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = minimask.trian


def test_train_and_evaluate_stay_functions_when_the_modules_are_imported(tmp_path):
    code = (
        "import minimask.train, minimask.evaluate as e, minimask as m; print(callable(m.train), callable(m.evaluate))"
    )
    assert run_python(code, tmp_path).stdout.split() == ["True", "True"]


def test_help_is_the_reading_order():
    text = pydoc.render_doc(minimask)
    for notebook in sorted((ROOT / "notebooks").glob("[0-9]*.py")):
        assert f"\n        {notebook.name[:2]} " in text, notebook.name
    assert "roi_pool.py, roi_align.py" in text


def test_docstring_names_files_that_exist():
    words = {word.strip(",.;:") for word in minimask.__doc__.split()}
    named = [word for word in words if word.endswith((".py", "/")) and "." not in word.removesuffix(".py")]
    assert len(named) > 35
    for word in named:
        assert (ROOT / "minimask" / word).exists() or (ROOT / word).exists(), word


# ---------------------------------------------------------------------------------------------------------- prediction


def same(a, b, tolerance=0):
    """The same objects; boxes within `tolerance` pixels (sums of other batches may round differently)."""
    np.testing.assert_allclose(a.boxes, b.boxes, atol=tolerance)
    assert (a.masks != b.masks).mean() <= tolerance
    assert a.names == b.names


def test_predict_takes_a_path_an_image_an_array_or_a_list(toy, scene, tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(scene.image).save(path)
    found = toy.predict(scene.image)
    assert set(found.names) == {"cat", "dog", "duck"} and len(found.names) == len(found.scores)
    assert found.names[0] == ["cat", "dog", "duck"][found.labels[0] - 1]
    assert found.class_names == ["cat", "dog", "duck"] and found.keypoint_names[0] == "nose"
    np.testing.assert_array_equal(found.image, scene.image)
    for form in (path, str(path), Image.open(path)):
        same(toy.predict(form), found)
    same(toy.predict(scene.image.astype(np.float64) / 255), found, 1e-3)
    several = toy.predict([path, scene.image])
    assert isinstance(several, list) and len(several) == 2
    same(several[0], found, 1e-3)
    assert toy.predict([]) == []
    gray = toy.predict(scene.image[..., 0])
    assert gray.image.shape == scene.image.shape


@pytest.mark.parametrize(
    "image, message",
    [
        (np.full((9, 9, 3), 200, np.float32), "a float array must lie between 0 and 1, got 200 to 200; divide by 255"),
        (np.full((9, 9, 3), np.nan), "the array holds NaN or infinity"),
        (np.zeros((9, 9, 4), np.uint8), r"must be \(H, W, 3\), uint8 or float .* got shape \(9, 9, 4\), uint8"),
        (np.zeros((9, 9, 3), np.int64), r"got shape \(9, 9, 3\), int64"),
        (np.zeros((2, 9, 9, 3), np.uint8), r"got shape \(2, 9, 9, 3\)"),
        (3, "takes paths, PIL images, arrays .* got int"),
    ],
)
def test_images_that_cannot_be_used(toy, image, message):
    with pytest.raises(ValueError, match=message):
        toy.predict(image)
    with pytest.raises(ValueError, match=message):
        toy.predict([np.zeros((9, 9, 3), np.uint8), image])


def test_predict_of_a_missing_photo(toy):
    with pytest.raises(InputError, match="nowhere.jpg: no such image file"):
        toy.predict("nowhere.jpg")


def test_predict_does_not_need_eval_and_leaves_the_mode(toy, scene):
    expected = toy.predict(scene.image)
    toy.train()
    try:
        same(toy.predict(scene.image), expected)
        assert toy.training
    finally:
        toy.eval()


def test_a_prediction_shows_itself(toy, scene, tmp_path, monkeypatch, capsys):
    found = toy.predict(scene.image)
    with Image.open(io.BytesIO(found._repr_png_())) as picture:  # what Jupyter shows below a cell
        assert picture.format == "PNG" and min(picture.size) > 500
        shown = np.asarray(picture.convert("RGB"))
    found.save(tmp_path / "found.png")
    with Image.open(tmp_path / "found.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), shown)

    display = pytest.importorskip("IPython.display")
    pictures = []
    monkeypatch.setitem(sys.modules, "ipykernel", display)
    monkeypatch.setattr(display, "display", pictures.append)
    found.show()
    assert pictures[0].data.startswith(b"\x89PNG")


def test_representations(toy, scene):
    batch = toy.transform([scene])
    found = toy.predict(scene.image)
    assert repr(scene) == "Sample('toy test 0', 128 x 128, 6 objects, masks, keypoints)"
    assert repr(batch) == "Batch(1 image, 128 x 128, 6 objects, masks, keypoints)"
    assert repr(toy.detect(batch)).startswith("Detections(1 image, ")
    first = f"{found.names[0]} {found.scores[0]:.2f}"
    assert repr(found).startswith(f"Prediction({len(found.scores)} objects: {first}, ")
    assert repr(minimask.datasets.toy("val")) == "ToyScenes('val': 200 scenes of 128 x 128; cat, dog, duck)"
    assert repr(TrainOptions(steps=5).step_settings(10)) == "TrainSettings(steps=5)"
    data = minimask.datasets.toy("val", count=2)
    loader = Loader(InMemory(data), toy.transform, batch_size=2)
    assert repr(loader) == f"Loader(InMemory({data!r}, 0 samples kept), batch_size=2, seed=0)"
    for record in (scene, batch, found, toy.detect(batch)):
        assert len(repr(record)) < 240 and "\n" not in repr(record)


# -------------------------------------------------------------------------------------------------- build, load, train


def test_build_with_classes():
    model = minimask.build("toy", classes=["cat", "dog", "duck"], **SMALL)
    assert model.num_classes == 4 and model.class_names == ["cat", "dog", "duck"] and model.category_ids == [1, 2, 3]
    assert minimask.build("toy", num_classes=3, **SMALL).class_names == ()
    with pytest.raises(InputError, match="class_names must be a list of 2 names"):
        minimask.build("toy", num_classes=3, classes=["cat", "dog", "duck"], **SMALL)


def test_load_with_other_settings():
    model = minimask.load("toy", detection={"max_detections": 3})
    assert model.detection.max_detections == 3 and model.detection.score_threshold == 0.05 and not model.training
    with pytest.raises(InputError, match="unknown setting detection.most"):
        minimask.load("toy", detection={"most": 3})
    with pytest.raises(InputError, match="https://example.com/a.pth: is an address"):
        minimask.load("https://example.com/a.pth")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("front") / "run"
    model = minimask.build("toy", classes=["cat", "dog", "duck"], seed=3, **SMALL)
    data = minimask.datasets.toy("train", size=64, count=8)
    options = dict(steps=2, batch_size=2, seed=3, validate_every=2, threads=1)
    validation = minimask.datasets.toy("val", size=64, count=2)
    return minimask.train(model, data, folder, quiet=True, validation=validation, **options)


def test_train_returns_the_run(trained, capfd):
    assert trained.checkpoint.name == "checkpoint-00000002.npz"
    assert repr(trained) == f"TrainingRun({str(trained.folder)!r}: checkpoint-00000002.npz)"
    steps = [record for record in trained.log if "lr" in record]
    assert [record["step"] for record in steps] == [1, 2] and "validation_mask_AP" in trained.log[-1]
    assert trained.picture().shape[2] == 3
    again = minimask.load(trained.folder)
    assert again.class_names == ["cat", "dog", "duck"]
    for name, array in trained.model.state_dict().items():
        np.testing.assert_array_equal(array, again.state_dict()[name], err_msg=name)


def test_train_is_the_command(trained, tmp_path):
    """The same options in Python alone, without a model and a data set, and on the command line: the same bits."""
    from minimask.__main__ import main

    settings = {group: json.loads(json.dumps(values)) for group, values in SMALL.items()}
    by_options = minimask.train(
        output=tmp_path / "a", steps=2, batch_size=2, seed=3, toy_size=64, set=settings, quiet=True, threads=1
    )
    words = [f"--set={group}={json.dumps(values)}" for group, values in SMALL.items()]
    command = ["train", "--output", tmp_path / "b", "--steps", 2, "--batch-size", 2, "--seed", 3, "--toy-size", 64]
    assert main([*command, "--quiet", "--threads", 1, *words]) == 0
    arrays = [checkpoint.read(path)[0] for path in (by_options.checkpoint, checkpoint.find(tmp_path / "b"))]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name], err_msg=name)


def test_every_option_of_the_command_line_is_an_argument():
    from minimask.__main__ import make_parsers

    flags = {action.dest for action in make_parsers()[1]["train"]._actions}
    front = {"help", "output", "resume", "overwrite", "distributed", "quiet"}
    assert flags - front == {field.name for field in fields(TrainOptions) if not field.metadata.get("hidden")}
    for name in flags - front:
        assert f"{name}: " in minimask.train.__doc__


def test_a_run_started_in_python_resumes_in_python(trained, tmp_path, capsys):
    from minimask.__main__ import main

    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    assert main(["train", "--output", folder, "--resume"]) == 2
    assert "was started in Python on a data set that was passed to it (ToyScenes('train'" in capsys.readouterr().err
    data, model = minimask.datasets.toy("train", size=64, count=8), minimask.build("toy", 4, **SMALL)
    with pytest.raises(InputError, match="was started with steps = 2, not 3"):
        minimask.train(model, data, folder, resume=True, steps=3)
    run = minimask.train(model, data, folder, resume=True, quiet=True, validate_every=1)
    for name, array in trained.model.state_dict().items():
        np.testing.assert_array_equal(array, run.model.state_dict()[name], err_msg=name)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(stpes=3), "unknown option of train: stpes; did you mean steps?"),
        (dict(learning_rate="fast"), "train: learning_rate must be a number above 0, got 'fast'"),
        (dict(optimizer="adam"), "train: optimizer must be adamw or sgd, got 'adam'"),
        (dict(steps=3, minutes=1.0), "give one of steps, epochs and minutes, not steps and minutes"),
        (dict(preset="small"), "preset does not go with a model that is given"),
        (dict(images="photos", annotations="a.json"), "images does not go with a dataset that is given"),
    ],
)
def test_train_messages(options, message, tmp_path):
    model, data = minimask.build("toy", **SMALL), minimask.datasets.toy("train", size=64, count=2)
    with pytest.raises(InputError, match=message):
        minimask.train(model, data, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_classes_must_be_the_models(tmp_path):
    data = minimask.datasets.toy("train", size=64, count=2)
    for classes in (["dog", "cat", "duck"], ["a", "b", "c"]):
        model = minimask.build("toy", classes=classes, **SMALL)
        with pytest.raises(InputError, match="the model has the classes .*; the data set has cat, dog, duck"):
            minimask.train(model, data, tmp_path / "run", steps=1)
        with pytest.raises(InputError, match="evaluate: the model has 3 classes of objects"):
            minimask.evaluate(model, data)
    with pytest.raises(InputError, match="the model has 2 classes of objects; the data set has 3"):
        minimask.train(minimask.build("toy", num_classes=3, **SMALL), data, tmp_path / "run", steps=1)


def test_evaluate_prints_and_returns(toy, capsys, tmp_path):
    numbers = minimask.evaluate(toy, minimask.datasets.toy("test", count=4), output=tmp_path / "results")
    out = capsys.readouterr().out
    assert "4 images" in out and "AP50" in out
    assert numbers["bbox"]["AP"] > 0.5 and numbers["segm"]["AP"] > 0.4 and "keypoints" in numbers
    assert json.loads((tmp_path / "results" / "average_precision.json").read_text()) == numbers
    minimask.evaluate(toy, minimask.datasets.toy("test", count=1), quiet=True)
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="unknown setting batch; did you mean batch_size?"):
        minimask.evaluate(toy, minimask.datasets.toy("test", count=1), batch=3)


def test_coco_data_in_the_order_of_a_model(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(photos / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "bbox": [2, 3, 8, 9],
                "area": 72,
                "iscrowd": 0,
                "segmentation": [[2, 3, 10, 3, 10, 12, 2, 12]],
            }
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}],
    }
    assert minimask.datasets.coco(photos, content).class_names == ("dog", "cat")
    data = minimask.datasets.coco(photos, content, classes=["cat", "dog"])
    assert data.class_names == ("cat", "dog") and data[0].labels.tolist() == [2]
