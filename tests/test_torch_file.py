"""PyTorch files and pickles of NumPy arrays: good ones give the right values, others one message."""

import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest

from minimask.weights.torch_file import read
from tests.torch_files import (
    FORMATS,
    GOLDEN,
    TWELVE,
    call,
    flatten,
    is_plain,
    list_of,
    name,
    peak_of_reading,
    piece,
    refused,
    same,
    storage,
    tensor,
    write,
    write_legacy,
    write_zip,
)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


# ----------------------------------------------------------------------------------------- files of the real torch.save


@pytest.mark.parametrize("content", ["tensors", "checkpoint"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_tensors_of_real_files_bit_for_bit(content, file_format):
    value = read(GOLDEN / f"{content}-{file_format}.pth")
    assert is_plain(value)
    found = flatten(value, content, {})
    with np.load(GOLDEN / "expected.npz") as file:
        expected = {key: file[key] for key in file.files if key.startswith(content + "/")}
    assert sorted(found) == sorted(expected) and len(found) > 10
    for key, array in found.items():
        assert same(array, expected[key]), key


@pytest.mark.parametrize("file_format", FORMATS)
def test_some_values_by_hand(file_format):
    value = read(GOLDEN / f"tensors-{file_format}.pth")
    assert value["part"].tolist() == [[11, 13, 15], [27, 29, 31]]
    assert value["transposed"].shape == (4, 2, 3) and value["transposed"][3].tolist() == [[3, 7, 11], [15, 19, 23]]
    assert value["right"].tolist() == [[2, 3, 4], [7, 8, 9], [12, 13, 14], [17, 18, 19]]
    assert value["bool"].tolist() == [[True, False, True], [False, False, True]]
    assert value["bfloat16_single"].shape == () and value["bfloat16_single"] == 1.0
    assert value["bfloat16"].dtype == np.float32 and not (value["bfloat16"].view(np.uint32) & 0xFFFF).any()
    assert value["float16"].dtype == np.float16 and value["int8"].dtype == np.int8
    assert value["empty"].shape == (0, 4)
    assert value["tied"] is value["float32"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_training_checkpoint_is_plain_containers(file_format):
    value = read(GOLDEN / f"checkpoint-{file_format}.pth")
    assert list(value) == ["model", "optimizer", "lr_scheduler", "epoch", "args", "size"]
    assert value["epoch"] == 3 and value["size"] == (2, 3)
    assert value["args"] == {"lr": 0.02, "dataset": "coco", "output": None}
    assert value["lr_scheduler"]["milestones"] == {2: 1, 8: 2}
    group = value["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(0.002) and group["momentum"] == 0.9 and group["params"] == [0, 1, 2, 3, 4, 5]
    assert "_metadata" not in value["model"] and value["model"]["1.num_batches_tracked"] == 3


def test_a_pickle_of_python_2():
    value = read(GOLDEN / "python2.pkl")
    assert is_plain(value)
    arrays = value["blobs"]
    assert list(arrays) == ["conv1_w", "conv1_b", "long", "fortran", "empty", "flag"]
    assert same(arrays["conv1_w"], np.arange(-6, 6, dtype=np.float32).reshape(2, 2, 3))
    assert same(arrays["conv1_b"], np.array([0.1, -0.2]))
    assert same(arrays["long"], np.arange(100, dtype=np.float32) * np.float32(2.5))
    assert same(arrays["fortran"], np.arange(6).reshape(2, 3))
    assert same(arrays["empty"], np.zeros((0, 4), np.float32))
    assert arrays["flag"].tolist() == [True, False]
    assert value["cfg"] == "NUM_CLASSES: 81\n" * 40 and value["name"] == "caf\xe9"
    assert value["lr"] == 0.5 and value["steps"] == 2**40


@pytest.mark.parametrize("file_format", FORMATS)
def test_random_state_dicts_come_back_as_torch_saved_them(torch, file_format, tmp_path):
    rng = np.random.default_rng(7)
    types = [torch.float32, torch.float16, torch.float64, torch.int64, torch.int16, torch.uint8, torch.bfloat16]
    for trial in range(15):
        state = OrderedDict()
        for index in range(rng.integers(1, 12)):
            shape = tuple(int(side) for side in rng.integers(0, 5, rng.integers(0, 5)))
            values = torch.tensor(rng.standard_normal(shape) * 50).abs().to(types[rng.integers(len(types))])
            if rng.random() < 0.5 and values.ndim:
                values = values.permute(*(int(side) for side in rng.permutation(len(shape))))
            if rng.random() < 0.3 and values.ndim:
                values = values[values.shape[0] // 2 :]
            state[f"layer{index}.weight"] = torch.nn.Parameter(values, requires_grad=False)
        path = tmp_path / f"{trial}.pth"
        torch.save(state, path, _use_new_zipfile_serialization=file_format == "zip", pickle_protocol=2 + trial % 4)
        found = read(path)
        assert list(found) == list(state)
        for key, value in state.items():
            value = value.detach()
            expected = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
            assert same(found[key], expected), (trial, key)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda torch: torch.ones(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
        (lambda torch: torch.ones(2, dtype=torch.float8_e4m3fn), "torch._utils._rebuild_tensor_v3"),
        (lambda torch: torch.ones(2, dtype=torch.uint16), "torch._utils._rebuild_tensor_v3"),
        (lambda torch: torch.eye(2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (lambda torch: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "torch._utils._rebuild_qtensor"),
        (lambda torch: torch._neg_view(torch.ones(2)), "_rebuild_tensor_v2 with"),
        (lambda torch: torch.float32, "torch.float32"),
        (lambda torch: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (lambda torch: torch.ones(3).expand(2, 3), "elements overlap"),
        (lambda torch: torch.arange(10).unfold(0, 3, 1), "elements overlap"),
        (lambda torch: (lambda x: [x, x[2:]])(torch.ones(9)), "shares elements"),
        (lambda torch: (lambda x: [x, x.t()])(torch.ones(2, 3)), "shares elements"),
    ],
)
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_other_tensors_are_refused_by_name(torch, file_format, make, message, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": make(torch)}, path, _use_new_zipfile_serialization=file_format == "zip")
    refused(path, message)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_refused(torch, tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "x.pt"))
    refused(tmp_path / "x.pt", "TorchScript")


# ---------------------------------------------------------------------------------------------------- pickles of arrays


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("numpy", ["numpy.core", "numpy._core"])
def test_detectron2s_pickles(protocol, numpy, tmp_path):
    rng = np.random.default_rng(protocol)
    arrays = {
        f"{code}{shape}": np.array(rng.standard_normal(shape) * 9).astype(code)
        for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1", ">f4", ">i8")
        for shape in ((), (3,), (2, 0), (4, 3, 2))
    }
    arrays["fortran"] = np.asfortranarray(rng.standard_normal((3, 4)).astype(np.float32))
    arrays["view"] = rng.standard_normal((6, 8)).astype(np.float32)[::2, 1:5]
    arrays["read-only"] = np.arange(3.0)
    arrays["read-only"].flags.writeable = False
    value = {"model": arrays, "__author__": "third party", "rate": np.float32(0.25), "step": np.int64(7), "on": True}
    data = pickle.dumps(value, protocol)
    for module in (b"numpy._core", b"numpy.core"):  # as both NumPy 2 and NumPy 1 name it
        for tail in (b".multiarray", b".numeric"):
            new = numpy.encode() + tail
            data = data.replace(b"c" + module + tail, b"c" + new)
            old = module + tail
            data = data.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
    if protocol > 3:  # the length of the frame, which is no longer right, is not used
        assert data[2] == 0x95
    path = tmp_path / "model.pkl"
    path.write_bytes(data)
    found = read(path)
    assert is_plain(found)
    assert found["__author__"] == "third party" and found["on"] is True
    assert (found["rate"], type(found["rate"]), found["step"], type(found["step"])) == (0.25, float, 7, int)
    assert list(found["model"]) == list(arrays)
    for key, array in arrays.items():
        assert same(found["model"][key], array.astype(array.dtype.newbyteorder("="))), key


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, "a", None], object), np.array(["text"]), np.array([b"text"]), np.ones(2, complex),
        np.zeros(2, [("a", "f4")]), np.array(["2020-01-01"], "M8[D]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_other_types_are_refused(array, protocol, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"model": array}, protocol))
    refused(path, "an array of NumPy's type")
    refused(path, repr(array.dtype.str[1:3])[:-1])


@pytest.mark.parametrize(
    "state, message",
    [
        (lambda kind: (1, (3,), kind, False, b"1234"), "shape (3,)"),
        (lambda kind: (1, (-1,), kind, False, b""), "tuple of non-negative integers"),
        (lambda kind: (1, (2**62,), kind, False, b""), "too large"),
        (lambda kind: (1, (1,) * 33, kind, False, b"1234"), "33 axes"),
        (lambda kind: (1, [1], kind, False, b"1234"), "must be a tuple"),
        (lambda kind: (1, (1,), kind, False, 7), "filled with 7"),
        (lambda kind: (1, (1,), "f4", False, b"1234"), "cannot be filled"),
    ],
)
def test_arrays_that_are_not_what_they_say(state, message, tmp_path):
    array = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), piece((0,)), piece("b"))
    kind = call("numpy.dtype", piece("f4"), piece(False), piece(True))
    pieces = [
        kind if part == "KIND" else b"C" + bytes([len(part)]) + part if isinstance(part, bytes) else piece(part)
        for part in state("KIND")
    ]
    path = tmp_path / "x.pkl"
    write("pickle", path, array + b"(" + b"".join(pieces) + b"tb")
    refused(path, message)
    write("pickle", path, array)
    refused(path, "NumpyArray")  # made and never filled
    whole = b"(" + piece(1) + piece((1,)) + kind + piece(False) + b"C\x04" + struct.pack("<f", 0.5) + b"tb"
    write("pickle", path, array + whole)
    assert read(path).tolist() == [0.5]
    write("pickle", path, array + whole + whole)
    refused(path, "cannot be filled")


# ------------------------------------------------------------------------------------------- tensors and their storages


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    "offset, shape, strides, expected",
    [
        (0, (12,), (1,), list(range(12))),
        (2, (2, 3), (4, 1), [[2, 3, 4], [6, 7, 8]]),
        (1, (3, 2), (1, 6), [[1, 7], [2, 8], [3, 9]]),
        (11, (), (), 11),
        (11, (1, 1), (999, 999), [[11]]),  # the stride of a side of 1 is never stepped
        (12, (0, 5), (5, 1), []),
        (99, (1, 0), (1, 1), [[]]),  # PyTorch leaves any offset in a view without elements
        (0, (13,), (1,), "ends after its storage"),
        (1, (12,), (1,), "ends after its storage"),
        (12, (), (), "ends after its storage"),
        (0, (2,), (12,), "ends after its storage"),
        (2**62, (1,), (1,), "ends after its storage"),
        (0, (2,), (2**63 - 1,), "ends after its storage"),
        (0, (2**40,), (1,), "ends after its storage"),
        (0, (2**60, 2**60), (1, 1), "too large"),
        (0, (3, 4), (0, 1), "elements overlap"),
        (0, (3,), (0,), "elements overlap"),
        (0, (2**47,), (0,), "elements overlap"),
        (0, (3, 3), (2, 1), "elements overlap"),
        (0, (2, 2), (3, 3), "elements overlap"),
        (11, (3,), (-1,), "non-negative integers"),
        (-1, (3,), (1,), "non-negative integers"),
        (0, (-3,), (1,), "tuple of non-negative integers"),
        (0, (-1, -12), (1, 1), "tuple of non-negative integers"),
        (0, (3,), (1, 1), "one for each axis"),
        (0, (3, 2), (1,), "one for each axis"),
        (0.0, (3,), (1,), "non-negative integers"),
        (0, (3.0,), (1,), "tuple of non-negative integers"),
        (0, ("3",), (1,), "tuple of non-negative integers"),
        (0, [3], (1,), "tuple of non-negative integers"),
        (0, (3,), None, "one for each axis"),
        (None, (3,), (1,), "non-negative integers"),
        (True, (3,), (1,), "non-negative integers"),
        (0, (1,) * 33, (1,) * 33, "33 axes"),
    ],
)
def test_views_of_a_storage(file_format, offset, shape, strides, expected, tmp_path):
    path = tmp_path / "x.pth"
    write(file_format, path, b"}" + piece("w") + tensor(storage(), offset, shape, strides) + b"s", {"0": TWELVE})
    if isinstance(expected, str):
        refused(path, expected)
        refused(path, "['w']: ")
    else:
        found = read(path)["w"]
        assert found.tolist() == expected and found.shape == shape and found.dtype == np.float32


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    "second, together",
    [
        ((0, (12,), (1,)), False),
        ((5, (1,), (1,)), False),
        ((0, (3, 2), (4, 1)), True),
        ((2, (3, 2), (4, 1)), None),
        ((0, (2, 3), (1, 4)), False),
        ((3, (3,), (4,)), None),
        ((1, (3,), (4,)), False),
        ((11, (), ()), None),
        ((6, (0,), (1,)), None),
    ],
)
def test_two_tensors_of_a_storage(file_format, second, together, tmp_path):
    """The first view has elements 0, 1, 4, 5, 8, 9. None: both are read. True: they are one array. False: refused."""
    path = tmp_path / "x.pth"
    write(file_format, path, list_of(tensor(storage(), 0, (3, 2), (4, 1)), tensor(storage(), *second)), {"0": TWELVE})
    if together is False:
        refused(path, "[1]: the tensor shares elements with another")
        return
    first, other = read(path)
    assert first.tolist() == [[0, 1], [4, 5], [8, 9]]
    assert (first is other) == bool(together)
    if other.ndim == 1 and other.size:
        assert other.tolist() == [3, 7, 11]


@pytest.mark.parametrize(
    "stored, message",
    [
        (storage(count=13), "expect"),
        (storage(count=11), "expect"),
        (storage(count=-1), "which is not a tensor's storage"),
        (storage(count=2**61), "expect"),
        (storage(kind="torch.DoubleStorage"), ""),
        (storage(kind="torch.QInt8Storage"), "torch.QInt8Storage"),
        (storage(kind="torch.Size"), "which is not a tensor's storage"),
        (storage(key="1"), ""),
        (storage(key="../0"), ""),
        (storage(key=0), "which is not a tensor's storage"),
        (storage(count=12.0), "which is not a tensor's storage"),
        (piece("storage") + b"Q", "which is not a tensor's storage"),
        (piece(("module", "x", "y", "z")) + b"Q", "which is not a tensor's storage"),
        (storage() + b"0" + storage(count=6), ""),  # POP is no instruction that is needed
        (b"(" + storage() + storage(count=6) + b"t", "two different descriptions"),
        (b"(" + storage() + storage(kind="torch.IntStorage") + b"t", "two different descriptions"),
        (storage(view=[piece(("v", 4, 9))]), "view beyond"),
        (storage(view=[piece(("v", -1, 3))]), "view beyond"),
        (storage(view=[piece(("v", 0, -3))]), "view beyond"),
        (storage(view=[piece(("v", 0))]), "view beyond"),
    ],
    ids=lambda value: "storage" if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("file_format", FORMATS)
def test_storages_that_are_not_what_they_say(file_format, stored, message, tmp_path):
    path = tmp_path / "x.pth"
    write(file_format, path, tensor(stored), {"0": TWELVE})
    refused(path, message)


def test_a_storage_seen_through_a_view(tmp_path):
    """PyTorch 0.x saved storages that are parts of others like this."""
    path = tmp_path / "x.pth"
    stored = storage(view=[piece(("v", 4, 6))])
    write_legacy(path, tensor(stored, 1, (2, 2), (2, 1)), {"0": TWELVE})
    assert read(path).tolist() == [[5, 6], [7, 8]]
    write_legacy(path, tensor(stored, 1, (3, 2), (2, 1)), {"0": TWELVE})
    refused(path, "ends after its storage of 6 elements")


@pytest.mark.parametrize(
    "kind, code", [("Float", "f4"), ("Double", "f8"), ("Half", "f2"), ("Long", "i8"), ("Short", "i2")]
)
def test_big_endian_files(kind, code, tmp_path):
    numbers = np.array([1, -2, 300, 12000])
    for order, byteorder in ((">", "big"), ("<", "little"), ("<", None)):
        stored = storage(count=4, kind=f"torch.{kind}Storage")
        write_zip(tmp_path / "x", tensor(stored, 0, (4,)), {"0": numbers.astype(order + code).tobytes()}, byteorder)
        assert same(read(tmp_path / "x"), numbers.astype(code))
    halves = storage(count=2, kind="torch.BFloat16Storage")
    write_zip(tmp_path / "x", tensor(halves, 0, (2,)), {"0": b"\x3f\x80\xc0\x40"}, "big")
    assert same(read(tmp_path / "x"), np.array([1, -3], np.float32))
    write_zip(tmp_path / "x", tensor(stored, 0, (4,)), {"0": numbers.astype(code).tobytes()}, "middle")
    refused(tmp_path / "x", "byte order b'middle'")


@pytest.mark.parametrize("file_format", FORMATS)
def test_booleans_are_0_or_1(file_format, tmp_path):
    stored = storage(count=3, kind="torch.BoolStorage")
    for data, message in ((b"\1\0\1", None), (b"\1\2\0", "bytes other than 0 and 1")):
        if file_format == "zip":
            write_zip(tmp_path / "x", tensor(stored, 0, (3,)), {"0": data})
        else:
            write_legacy(tmp_path / "x", tensor(stored, 0, (3,)), {"0": data}, itemsize=1)
        if message:
            refused(tmp_path / "x", message)
        else:
            assert read(tmp_path / "x").tolist() == [True, False, True]


def test_memory(tmp_path):
    """Arrays are views of the file if possible, otherwise one copy: a file of 178 MB must not be in memory twice."""
    data = np.arange(1_000_000, dtype=np.float32)
    value = tensor(storage(count=data.size), 0, data.shape)
    peaks = []
    for length in (1, 2, 3, 4):  # of a text, which moves what is behind it
        path = tmp_path / f"{length}"
        write_zip(path, list_of(piece("a" * length), value), {"0": data.tobytes()})
        peaks.append(peak_of_reading(path, data))
    assert sorted(peaks)[0] < 200_000  # one of the four is at a multiple of 4 bytes
    assert sorted(peaks)[1] > 4_000_000 and sorted(peaks)[3] < 4_200_000
    write_legacy(tmp_path / "x", value, {"0": data.tobytes()})
    assert peak_of_reading(tmp_path / "x", data) < 4_200_000
    for protocol in (3, 4):
        (tmp_path / "x").write_bytes(pickle.dumps(data, protocol))
        assert peak_of_reading(tmp_path / "x", data) < 4_200_000
    (tmp_path / "x").write_bytes(pickle.dumps(data, 5))
    assert peak_of_reading(tmp_path / "x", data) < 12_200_000  # a byte array is copied twice before it is an array
