"""Damaged and crafted files of weights: reading one may raise InputError or OSError, nothing else, and not take
long or much memory.

python -m tests.fuzz_weights --count 5000      a long run; tests/test_fuzzing.py does a short one
"""

import copy
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np

from minimask import checkpoint, weights
from minimask.errors import InputError
from minimask.mask_rcnn import build
from tests.fuzzing import main
from tests.torch_files import piece, tensor, write_legacy, write_zip
from tests.torch_files import storage as torch_storage

SMALL = dict(
    backbone=dict(name="resnet18", channels=(4, 4, 8, 8), fpn_channels=4),
    heads=dict(box_width=8, mask_channels=(4,), mask_width=4),
    transform=dict(min_size=32, max_size=64),
)
VALUES = (
    None, True, 0, 1, -1, 2, 3, 64, 10**6, 2**63, 10**30, 0.5, float("nan"), "", "fpn", "toy", [],  [1, 2], [[8]], {},
    {"name": "resnet50"}, {"a": 1}, [10**7] * 4, [1] * 4, "resnet50", "c4",
)  # fmt: skip
SHAPES = ((), (0,), (1,), (4,), (0, 4), (4, 0, 3, 3), (10**5, 1), (2, 3), (4, 4, 7, 7), (1, 1, 1, 1, 1))


class Fuzzer:
    """Makes files from one small model; `make(i)` writes file i, a function of the seed and i alone."""

    def __init__(self, folder, seed=0):
        self.folder, self.seed = Path(folder), seed
        model = build("resnet50_fpn", 3, **SMALL).eval()
        self.settings = {"class_names": ["a", "b"], "category_ids": [1, 2], "model": model.settings, "step": 3}
        self.ours = {f"model/{name}": array for name, array in model.state_dict().items()}
        self.state = weights.to_torchvision(model.state_dict())
        self.good = {}
        checkpoint.write_model(self.folder / "whole.npz", model, self.settings)
        checkpoint.write_model(self.folder / "small.npz", model, self.settings, small=True)
        for name, write in (("npz", self._npz), ("pkl", self._pickle), ("safetensors", self._safetensors)):
            write(self.folder / f"state.{name}", self.state)
        for kind, write in (("zip", write_zip), ("legacy", write_legacy)):
            write(self.folder / f"{kind}.pth", *self._torch())
        for path in sorted(self.folder.iterdir()):
            self.good[path.name] = path.read_bytes()

    def make(self, i):
        """Write file i; returns (path, what was done)."""
        rng = np.random.default_rng((self.seed, i))
        names = list(self.good)
        name = names[rng.integers(len(names))]
        path = self.folder / f"fuzz-{name}"
        ways = (self._flip, self._cut, self._overwrite, self._change_settings, self._change_arrays)
        way = ways[rng.integers(len(ways))]
        way(path, name, rng)
        return path, way.__name__.strip("_")

    def _flip(self, path, name, rng):
        data = bytearray(self.good[name])
        for place in _places(rng, len(data), int(rng.integers(1, 9))):
            data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)

    def _cut(self, path, name, rng):
        data = self.good[name]
        start = 0 if rng.random() < 0.8 else int(rng.integers(64))
        path.write_bytes(data[start : int(rng.integers(len(data)))])

    def _overwrite(self, path, name, rng):
        data = bytearray(self.good[name])
        for place in _places(rng, len(data), 2):
            data[place : place + 8] = rng.integers(0, 256, 8, dtype=np.uint8).tobytes()
        path.write_bytes(data)

    def _change_settings(self, path, name, rng):
        settings = json.loads(json.dumps(self.settings))
        for _ in range(int(rng.integers(1, 3))):
            target = settings if rng.random() < 0.3 else settings.get("model")
            if isinstance(target, dict) and target and rng.random() < 0.6:
                inner = target[list(target)[rng.integers(len(target))]]
                target = inner if isinstance(inner, dict) and inner else target
            if isinstance(target, dict) and target:
                key = list(target)[rng.integers(len(target))]
                if rng.random() < 0.2:
                    del target[key]
                else:
                    target[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        arrays = {key: a for key, a in self.ours.items() if rng.random() < 0.99}
        if rng.random() < 0.3:
            key = list(arrays)[rng.integers(len(arrays))]
            arrays[f"scale/{key.removeprefix('model/')}"] = np.ones(SHAPES[rng.integers(len(SHAPES))], np.float32)
        _write_checkpoint(path, arrays, settings)

    def _change_arrays(self, path, name, rng):
        state = dict(self.state)
        for _ in range(int(rng.integers(1, 4))):
            key = list(state)[rng.integers(len(state))]
            kind = rng.integers(5)
            if kind == 0:
                del state[key]
            elif kind == 1:
                state[key] = np.ones(SHAPES[rng.integers(len(SHAPES))], np.float32)
            elif kind == 2 and state[key].dtype.kind == "f":
                state[key] = state[key].astype(("U4", "i1", "c8", "f8", "?")[rng.integers(5)])
            elif kind == 3:
                state[key.replace("0", "9").replace("1", "0")] = state.pop(key)
            else:
                state[key] = np.repeat(state[key], 3, axis=0) if state[key].ndim else state[key]
        write = (self._npz, self._pickle)[rng.integers(2)]
        if rng.random() < 0.2:
            state = {"model_state_dict": VALUES[rng.integers(len(VALUES))], "model": state}
            write = self._pickle
        write(path, state)

    def _npz(self, path, state):
        with open(path, "wb") as file:
            np.savez(file, **state)

    def _pickle(self, path, state):
        path.write_bytes(pickle.dumps(state, protocol=2))

    def _safetensors(self, path, state):
        header, data = {}, b""
        for key, array in state.items():
            content = np.ascontiguousarray(array, "<f4").tobytes()
            offsets = [len(data), len(data) + len(content)]
            header[key] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
            data += content
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)

    def _torch(self):
        """The arguments of `write_zip` and `write_legacy`: a state dict, and its storages."""
        items, storages = [], {}
        for i, (key, array) in enumerate(self.state.items()):
            strides = tuple(int(s) // 4 for s in np.empty(array.shape, np.float32).strides)
            view = tensor(torch_storage(str(i), array.size), 0, array.shape, strides)
            items.append(piece(key) + view)
            storages[str(i)] = np.ascontiguousarray(array, "<f4").tobytes()
        return b"}(" + b"".join(items) + b"u", storages


def _places(rng, size, count):
    """Random places, half of them near the beginning or the end, where headers and tables are."""
    near = rng.integers(0, min(size, 600), count)
    anywhere = rng.integers(0, size, count)
    return [
        int(a if kind < 2 else n if kind == 2 else size - 1 - n)
        for a, n, kind in zip(anywhere, near, rng.integers(0, 4, count))
    ]


def _write_checkpoint(path, arrays, settings):
    content = {"format": "minimask checkpoint 1", "arrays": len(arrays), **settings}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in {**arrays, "settings": np.array(json.dumps(content))}.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=False)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def prepare(folder, seed):
    """Returns a function that opens and recognizes file `number`: see fuzzing.py."""
    fuzzer = Fuzzer(folder, seed)

    def attempt(number):
        path, way = fuzzer.make(number)
        wrong = []
        outcome = _outcome(way, path, weights.open_file, wrong)
        _outcome(way, path, weights.recognize, wrong)
        return outcome, wrong

    return attempt


def _outcome(way, path, use, wrong):
    """How the use of one file ends; a wrong end is added to `wrong`."""
    try:
        weights.is_checkpoint(path)
        use(path)
        return "read"
    except (InputError, OSError) as error:
        if not str(error).strip() or "\n" in str(error):
            wrong.append((way, f"message: {error!r}"))
        return type(error).__name__
    except Exception as error:
        wrong.append((way, f"{use.__name__}: {type(error).__name__}: {error}"))
        return "failed"


if __name__ == "__main__":
    raise SystemExit(main(prepare, "files of weights"))
