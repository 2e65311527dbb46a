"""Makes torch_files/: small files written by the real torch.save, and their contents as expected.npz.

    python tests/references/make_torch_files.py                    needs torch
    python tests/references/make_torch_files.py --python2 PYTHON   needs Python 2.7 with numpy; writes python2.pkl only

Names in expected.npz are FILE/KEY, where KEY is the path of the array in the file, joined by "/".
"""

import argparse
import subprocess
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "torch_files"

# Arrays stored as byte strings (short and long), text that is not UTF-8, Python 2's OrderedDict and long integers.
PYTHON2 = """
import cPickle, sys
from collections import OrderedDict
import numpy as np
arrays = OrderedDict()
arrays["conv1_w"] = np.arange(-6, 6, dtype=np.float32).reshape(2, 2, 3)
arrays["conv1_b"] = np.array([0.1, -0.2], np.float64)
arrays["long"] = np.arange(100, dtype=np.float32) * 2.5
arrays["fortran"] = np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))
arrays["empty"] = np.zeros((0, 4), np.float32)
arrays["flag"] = np.array([True, False])
value = {"blobs": arrays, "cfg": "NUM_CLASSES: 81\\n" * 40, u"lr": np.float32(0.5), "steps": 2 ** 40}
value["name"] = "caf\\xe9"
cPickle.dump(value, open(sys.argv[1], "wb"), 2)
"""


def tensors(torch):
    """Tensors of every supported type, and all kinds of views that do not overlap."""
    torch.manual_seed(0)
    names = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
    types = [getattr(torch, name) for name in names]
    result = OrderedDict()
    for dtype in types:
        name = str(dtype).removeprefix("torch.")
        values = torch.randn(2, 3) * 10
        result[name] = (values.abs() if name == "uint8" else values).to(dtype)
        result[name + "_single"] = torch.tensor(1).to(dtype)
    result["bool"] = torch.tensor([[True, False, True], [False, False, True]])
    result["empty"] = torch.zeros(0, 4)
    result["part"] = torch.arange(48.0).reshape(6, 8)[1:5:2, 3::2]
    result["transposed"] = torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1)
    halves = torch.arange(20.0).reshape(4, 5)
    result["left"], result["right"] = halves[:, :2], halves[:, 2:]  # interleaved in one storage
    result["bfloat16_transposed"] = torch.randn(3, 4).to(torch.bfloat16).t()
    result["parameter"] = torch.nn.Parameter(torch.randn(3))
    result["tied"] = result["float32"]
    return result


def checkpoint(torch):
    """What a training script saves: the state after three steps, and the script's arguments."""
    torch.manual_seed(1)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 2)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 8, 8])
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 4, 4)).square().sum().backward()
        optimizer.step()
        schedule.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 3,
        "args": Namespace(lr=0.02, dataset="coco", output=None),
        "size": torch.Size([2, 3]),
    }


def flatten(value, name, arrays):
    """Collect the tensors in nested containers; each is stored under its path."""
    if hasattr(value, "detach"):
        value = value.detach()
        arrays[name] = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    elif isinstance(value, dict):
        for key, item in value.items():
            flatten(item, f"{name}/{key}", arrays)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            flatten(item, f"{name}/{index}", arrays)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--python2")
    python2 = parser.parse_args().python2
    FOLDER.mkdir(exist_ok=True)
    if python2:
        subprocess.run([python2, "-c", PYTHON2, str(FOLDER / "python2.pkl")], check=True)
        return
    import torch

    expected = {}
    for name, value in (("tensors", tensors(torch)), ("checkpoint", checkpoint(torch))):
        torch.save(value, FOLDER / f"{name}-zip.pth")
        torch.save(value, FOLDER / f"{name}-legacy.pth", _use_new_zipfile_serialization=False)
        flatten(value, name, expected)
    np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
