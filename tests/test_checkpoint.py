"""Checkpoints: written completely or not at all; each kind of damage gets one clear message."""

import errno
import json
import os
import zipfile

import numpy as np
import pytest

from minimask import checkpoint
from minimask.errors import InputError
from minimask.mask_rcnn import build
from minimask.run.folder import load_newest
from tests.helpers import step_of


class Model:
    """The part of a model that a checkpoint sees."""

    def __init__(self, num_classes=3, seed=0):
        rng = np.random.default_rng(seed)
        self.settings = {"num_classes": num_classes}
        self.state = {
            "body.weight": rng.standard_normal((3, 3, 2, 4)).astype(np.float32),
            "head.bias": rng.standard_normal(num_classes).astype(np.float32),
        }

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        for name, array in state.items():
            if self.state[name].shape != array.shape:
                raise InputError(f"{name} must be {self.state[name].shape}, got {array.shape}")
            self.state[name][...] = array


class Optimizer:
    def __init__(self):
        self.state = {"step": np.array(7), "momentum/body.weight": np.ones((3, 3, 2, 4), np.float32)}

    def state_dict(self):
        return self.state


def save(folder, step, model=None):
    return checkpoint.save(folder, step, model or Model(), Optimizer(), {"class_names": ["cat", "dog"], "seed": 1})


def test_what_is_saved_is_read_back_bit_for_bit(tmp_path):
    model = Model()
    path = save(tmp_path, 12, model)
    assert path.name == "checkpoint-00000012.npz"
    arrays, settings = checkpoint.read(path)
    for name, array in checkpoint.part(arrays, "model").items():
        assert array.dtype == np.float32 and array.tobytes() == model.state[name].tobytes()
    assert checkpoint.part(arrays, "optimizer")["step"] == 7
    assert settings["step"] == 12 and settings["class_names"] == ["cat", "dog"] and settings["seed"] == 1
    assert settings["model"] == {"num_classes": 3}


def test_numpy_reads_it_without_pickle(tmp_path):
    path = save(tmp_path, 1)
    with np.load(path, allow_pickle=False) as file:
        assert file["model/body.weight"].shape == (3, 3, 2, 4)
        assert json.loads(file["settings"].item())["step"] == 1


def test_the_last_two_are_kept(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    assert [step_of(path) for path in checkpoint.checkpoints(tmp_path)] == [30, 40]
    assert checkpoint.find(tmp_path).name == "checkpoint-00000040.npz"
    assert not list(tmp_path.glob("*.partial"))


def test_missing(tmp_path):
    with pytest.raises(InputError, match="nowhere.npz: there is no such file"):
        checkpoint.find(tmp_path / "nowhere.npz")
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoint.find(tmp_path)
    assert checkpoint.checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a checkpoint of minimask"),
        (b"PK\x03\x04" + bytes(100), "cut off"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        checkpoint.read(path)
    assert str(path) in str(caught.value)


def test_another_npz_file(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(InputError, match="other.npz: not a checkpoint of minimask .*'settings'"):
        checkpoint.read(tmp_path / "other.npz")
    np.savez(tmp_path / "other.npz", settings=np.array('{"format": "something else"}'))
    with pytest.raises(InputError, match="holds 'something else'"):
        checkpoint.read(tmp_path / "other.npz")
    np.savez(tmp_path / "other.npz", settings=np.array({"a": 1}, dtype=object))
    with pytest.raises(InputError, match="other.npz: the checkpoint is damaged"):
        checkpoint.read(tmp_path / "other.npz")


def test_cut_off_anywhere(tmp_path):
    path = save(tmp_path, 1)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            checkpoint.read(path)
        assert str(path) in str(caught.value)


def test_one_wrong_bit_never_goes_unnoticed(tmp_path):
    path = save(tmp_path, 1)
    content = path.read_bytes()
    arrays, settings = checkpoint.read(path)
    rng = np.random.default_rng(0)
    noticed = 0
    for position in rng.choice(len(content), 400, replace=False):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            other_arrays, other_settings = checkpoint.read(path)
        except InputError as error:
            assert str(path) in str(error)
            noticed += 1
            continue  # the bit means nothing to us (a date, a permission), so everything else must be unchanged
        assert other_settings == settings and other_arrays.keys() == arrays.keys()
        assert all(other_arrays[name].tobytes() == arrays[name].tobytes() for name in arrays)
    assert noticed > 200


def test_a_damaged_array_is_named(tmp_path):
    path = save(tmp_path, 1)
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("model/head.bias.npy").header_offset + 180
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="checkpoint-00000001.npz: the checkpoint is damaged .*head.bias"):
        checkpoint.read(path)


def test_a_message_about_a_damaged_name_takes_one_line(tmp_path):
    path = save(tmp_path, 1)
    content = path.read_bytes()
    place = content.rindex(b"model/head.bias")  # in the table of contents
    path.write_bytes(content[:place] + b"\n" + content[place + 1 :])
    with pytest.raises(InputError) as caught:
        checkpoint.read(path)
    assert str(caught.value).startswith(f"{path}: the checkpoint is damaged (?odel/head.bias")
    assert str(caught.value).isprintable()


def test_the_one_before_is_used_if_the_newest_is_damaged(tmp_path):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:500])
    path, _, settings, damaged = load_newest(tmp_path)
    assert step_of(path) == settings["step"] == 1
    path.write_bytes(b"")
    with pytest.raises(InputError, match="cut off.*is empty"):
        load_newest(tmp_path)


def test_full_disk(tmp_path, monkeypatch):
    save(tmp_path, 1)
    before = (tmp_path / "checkpoint-00000001.npz").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(InputError, match="could not be written .No space left on device.*earlier.*unchanged"):
                save(tmp_path, 2)
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001.npz"]
    assert (tmp_path / "checkpoint-00000001.npz").read_bytes() == before


def test_a_file_that_may_not_grow(tmp_path):
    """The system itself refuses in the middle of a write, because of a limit on the size of files."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
        with pytest.raises(InputError, match="could not be written"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001.npz"]
    checkpoint.read(tmp_path / "checkpoint-00000001.npz")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = Model()
    model.state["head.bias"][1] = np.nan
    save(tmp_path, 1)
    with pytest.raises(InputError, match="step 2: the weight head.bias is not finite"):
        save(tmp_path, 2, model)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001.npz"]


def test_another_class_count_says_both(tmp_path):
    path = save(tmp_path, 1, Model(num_classes=81))
    model = Model(num_classes=2)
    kept = model.state["head.bias"].copy()
    with pytest.raises(InputError, match=r"weights for 81 classes .*80 kinds.*2 classes .*1 kind of") as caught:
        checkpoint.copy_weights(model, path, *checkpoint.read(path))
    assert str(path) in str(caught.value)
    assert (model.state["head.bias"] == kept).all()


def test_weights_of_another_model_name_the_file(tmp_path):
    other = Model()
    other.state["body.weight"] = np.ones((1, 1, 2, 4), np.float32)
    path = save(tmp_path, 1, other)
    with pytest.raises(InputError, match=r"body.weight must be \(3, 3, 2, 4\), got \(1, 1, 2, 4\)") as caught:
        checkpoint.copy_weights(Model(), path, *checkpoint.read(path))
    assert str(path) in str(caught.value)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        save(tmp_path / "file" / "run", 1)


def test_a_small_model_is_a_quarter_and_off_by_a_254th_of_its_channel(tmp_path):
    model = build("toy", heads=dict(box_width=64))
    checkpoint.write_model(tmp_path / "full.npz", model, {"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3]})
    checkpoint.write_model(
        tmp_path / "small.npz", model, {"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3]}, small=True
    )
    sizes = [(tmp_path / f"{name}.npz").stat().st_size for name in ("small", "full")]
    assert sizes[0] < 0.3 * sizes[1]
    again, class_names, _ = checkpoint.load_model(tmp_path / "small.npz")
    assert class_names == ["a", "b", "c"]
    for (name, array), other in zip(model.state_dict().items(), again.state_dict().values()):
        limit = abs(array).max(axis=tuple(range(array.ndim - 1))) / 253 if array.ndim > 1 else 0
        assert (abs(array - other) <= limit).all(), name
        assert other.dtype == np.float32
    assert np.abs(again.state_dict()["rpn.head.conv.0.0.weight"] - model.state_dict()["rpn.head.conv.0.0.weight"]).max()
