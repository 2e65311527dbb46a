"""Files of weights under any name, in bfloat16, with classes or anchors of their own; models instead of weights."""

import json
import pickle

import numpy as np
import pytest

from minimask import weights
from minimask.__main__ import main
from minimask.errors import InputError
from minimask.mask_rcnn import build
from minimask.presets import merge
from minimask.run.evaluation import check_classes
from minimask.weights import torch_file
from tests.torch_files import TWELVE, call, name, piece, storage, tensor, write_zip
from tests.weight_files import SIZES, published, small_model, write

SETTINGS = dict(SIZES, detection=dict(score_threshold=0.02))


def same_weights(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)


@pytest.mark.parametrize("ending", ["ckpt", "bin", "pth.tar", "weights", "safetensors"])
@pytest.mark.parametrize("written", ["pkl", "npz"])
def test_the_suffix_does_not_count(tmp_path, ending, written):
    model = small_model()
    path = write(tmp_path / f"made.{written}", published(model)).rename(tmp_path / f"weights.{ending}")
    assert same_weights(model, weights.load(path, **SETTINGS))


def test_a_checkpoint_under_another_name(tmp_path):
    from minimask import checkpoint

    model = small_model()
    names = {"class_names": list("abcd"), "category_ids": [1, 2, 3, 4]}
    checkpoint.write_model(tmp_path / "a.npz", model, names)
    path = (tmp_path / "a.npz").rename(tmp_path / "model.bin")
    assert weights.is_checkpoint(path) and weights.load(path).class_names == list("abcd")


def test_bfloat16_in_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    state, header, data = published(small_model()), {}, b""
    for key, array in state.items():
        half = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
        header[key] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(half)]}
        data += half
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    read = weights.read(path).state
    for key, array in state.items():
        assert read[key].dtype == np.float32 and np.allclose(read[key], array, rtol=2**-7), key


@pytest.mark.parametrize("key", ["params", "network_state_dict", "my_detector"])
def test_the_only_model_under_any_key(tmp_path, key):
    model = small_model()
    path = write(tmp_path / "a.pkl", {"epoch": 3, key: published(model), "optimizer": {"state": {0: np.ones(3)}}})
    assert same_weights(model, weights.load(path, **SETTINGS))


def test_several_models_under_unknown_keys_are_named(tmp_path):
    state = published(small_model())
    path = write(tmp_path / "a.pkl", {"teacher": state, "student": state})
    with pytest.raises(InputError, match=r"a.pkl: contains several dicts of arrays \(teacher, student\)"):
        weights.load(path)


@pytest.mark.parametrize("preset", ["toy", "small"])
def test_models_of_our_own_presets_in_torchvisions_layout(tmp_path, preset):
    model = build(preset, 4, heads=dict(keypoints=3)).eval()
    weights.save(tmp_path / "mine.npz", model)
    read = weights.load(tmp_path / "mine.npz")
    assert same_weights(model, read) and read.rpn.settings == model.rpn.settings
    assert read.transform.min_size == model.transform.min_size


def test_a_body_of_no_preset_is_named(tmp_path):
    weights.save(tmp_path / "mine.npz", build("toy", 4, backbone=dict(channels=(8, 8, 16, 16))))
    with pytest.raises(InputError, match="mine.npz: its first layer is not the 7x7 convolution .* name a preset"):
        weights.load(tmp_path / "mine.npz")


@pytest.mark.parametrize("made", ["pathlib.PosixPath", "torch.device", "collections.defaultdict"])
def test_settings_of_a_run_beside_the_weights(tmp_path, made):
    """What scripts save beside the weights: a path, the device, counters."""
    argument = name("builtins.list") if "dict" in made else piece("cpu")
    content = b"}(" + piece("model") + b"}" + piece("w") + tensor(storage()) + b"s" + piece("x") + call(made, argument)
    write_zip(tmp_path / "a.pth", content + b"u", {"0": TWELVE})
    assert torch_file.read(tmp_path / "a.pth")["x"] == ({} if "dict" in made else "cpu")


def test_numpys_random_state_beside_the_weights(tmp_path):
    state = np.random.default_rng(0).integers(0, 2**32, 624, dtype=np.uint32)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.ones(3), "rng": ("MT19937", state)}))
    read = torch_file.read(tmp_path / "a.pkl")["rng"][1]
    assert read.dtype == np.uint32 and (read == state).all()


def test_element_types_that_numpy_lacks_are_named(tmp_path):
    pytest.importorskip("safetensors")
    text = json.dumps({"a.weight": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(InputError, match="a.safetensors: a.weight has elements of type F8_E4M3; save them as F32"):
        weights.read(path)


@pytest.mark.parametrize(
    "start, message",
    [
        (b"\x1f\x8b\x08", "compressed by gzip; unpack it"),
        (b"\x89HDF\r\n", "an HDF5 file, as Keras writes them"),
        (b"\x93NUMPY\x01", "a single array of NumPy"),
        (b'{"metadata": {}}', "it is JSON, such as the index"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, start, message):
    (tmp_path / "a.pth").write_bytes(start + bytes(100))
    with pytest.raises(InputError, match=f"a.pth: not a checkpoint of minimask, and no .*{message}"):
        weights.load(tmp_path / "a.pth")


def test_a_detector_without_a_box_head_is_named(tmp_path):
    """RetinaNet has a ResNet, a pyramid and heads of other names."""
    state = {key: array for key, array in published(small_model()).items() if not key.startswith(("rpn", "roi"))}
    with pytest.raises(InputError, match="a.npz: holds a backbone, without the box head of a Faster or Mask R-CNN"):
        weights.load(write(tmp_path / "a.npz", state))


def test_other_arrays_beside_the_weights_stay_and_are_named(tmp_path):
    """As torch.optim.swa_utils.AveragedModel saves them."""
    model = small_model()
    state = {f"module.{key}": array for key, array in published(model).items()}
    opened = weights.open_file(write(tmp_path / "a.pkl", {**state, "n_averaged": np.array(7)}), **SETTINGS)
    assert opened.report.skipped == ["n_averaged"] and same_weights(model, opened.model)


@pytest.mark.parametrize("kind", ["torch.nn.modules.linear.Linear", "mymodel.Detector", "torchvision.models.x.Y"])
def test_a_whole_model_gets_advice(tmp_path, kind):
    write_zip(tmp_path / "whole.pth", call(kind, tensor(storage())), {"0": TWELVE})
    with pytest.raises(InputError, match=r'Nothing was run.*torch.save\(model.state_dict\(\), "weights.pth"\)'):
        weights.load(tmp_path / "whole.pth")


def test_an_attack_gets_none(tmp_path):
    write_zip(tmp_path / "evil.pth", name("os.system") + b"N\x85R")
    with pytest.raises(InputError, match="Nothing was run$"):
        weights.load(tmp_path / "evil.pth")


@pytest.mark.parametrize("extra", ["backbone.fpn.inner_blocks.0.1.weight", "roi_heads.box_head.0.0.weight"])
def test_torchvisions_v2_models_are_named(tmp_path, extra):
    path = write(tmp_path / "v2.npz", {**published(small_model()), extra: np.ones((4, 4, 3, 3), np.float32)})
    for use in (weights.load, weights.read):
        with pytest.raises(InputError, match="v2.npz: is one of torchvision's v2 models") as caught:
            use(path)
        assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- classes of one's own


def test_class_names_are_given(tmp_path):
    path = write(tmp_path / "mine.npz", published(small_model(3)))
    assert weights.load(path, **SETTINGS).class_names == ["class 1", "class 2"]
    model = weights.load(path, classes=["cat", "dog"], **SETTINGS)
    assert model.class_names == ["cat", "dog"] and model.category_ids == [1, 2]


@pytest.mark.parametrize("classes", [["cat"], ["a", "b", "c"], ["cat", "cat"], "cat", []])
def test_there_must_be_one_name_for_each_class(tmp_path, classes):
    path = write(tmp_path / "mine.npz", published(small_model(3)))
    with pytest.raises(InputError, match="mine.npz: the model has 2 classes of objects; give 2 different names"):
        weights.load(path, classes=classes)


def test_evaluation_says_how_to_give_the_names(tmp_path):
    class Data:
        class_names = ["cat", "dog"]

    path = write(tmp_path / "mine.npz", published(small_model(3)))
    with pytest.raises(InputError, match="no names for their 2 classes; .*--classes cat dog"):
        check_classes(weights.load(path), Data)
    check_classes(weights.load(path, classes=["cat", "dog"]), Data)


def test_classes_on_the_command_line(tmp_path, capsys):
    path = write(tmp_path / "mine.npz", published(small_model(3)))
    arguments = ["convert", str(path), "--output", str(tmp_path / "run"), "--classes", "cat", "dog"]
    assert main(arguments) == 0, capsys.readouterr().err
    assert weights.load(tmp_path / "run").class_names == ["cat", "dog"]


# ------------------------------------------------------------------------------------------------- anchors of one's own


def test_custom_anchors_are_set_as_the_message_says(tmp_path, capsys):
    sizes = ((16, 24),) * 5
    model = small_model(rpn=dict(anchor_sizes=sizes))
    path = write(tmp_path / "file.npz", published(model))
    with pytest.raises(InputError) as caught:
        weights.load(path)
    message = str(caught.value)
    setting = message[message.index("rpn.anchor_sizes=") :].split()[0]
    assert setting == "rpn.anchor_sizes=[[32,64],[32,64],[32,64],[32,64],[32,64]]"
    assert main(["convert", str(path), "--output", str(tmp_path / "run"), "--set", setting]) == 0
    assert weights.load(tmp_path / "run").rpn.settings.anchor_sizes == ((32, 64),) * 5
    settings = merge(SETTINGS, {"rpn": dict(anchor_sizes=sizes)})
    assert same_weights(model, weights.load(path, **settings))


def test_training_takes_custom_anchors_by_set(tmp_path):
    from minimask.run.training import _started

    path = write(tmp_path / "file.npz", published(small_model(rpn=dict(anchor_sizes=((16, 24),) * 5))))
    options = dict(weights=str(path), set={"rpn": {"anchor_sizes": [[16, 24]] * 5}})
    assert _started(None, options).architecture["rpn"] == {"anchor_sizes": [[16, 24]] * 5}


# -------------------------------------------------------------------------------------------------------- crafted files


def test_arrays_of_foreign_shapes(tmp_path):
    state = published(small_model())
    for key in ("roi_heads.box_predictor.cls_score.weight", "backbone.body.conv1.weight", "rpn.head.cls_logits.weight"):
        for shape in ((), (0, 4), (3,)):
            path = tmp_path / "a.pkl"
            path.write_bytes(pickle.dumps({**state, key: np.ones(shape, np.float32)}, protocol=2))
            with pytest.raises(InputError, match="a.pkl: "):
                weights.load(path)


@pytest.mark.parametrize("name", ["roi_heads.box_head.fc6.weight", "backbone.body.layer2.0.conv2.weight"])
def test_a_file_that_describes_a_model_larger_than_itself(tmp_path, name):
    state = published(small_model())
    state[name] = np.zeros((100_000, 16), np.float32)
    with pytest.raises(InputError, match="describes a model of at least .* numbers, but holds only"):
        weights.load(write(tmp_path / "large.npz", state))
