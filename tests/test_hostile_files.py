"""Malicious and damaged weight files: nothing in them runs, time and memory are limited, and each gets one message."""

import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimask.errors import InputError
from minimask.weights.torch_file import read
from tests.torch_files import (
    GOLDEN,
    GOLDEN_FILES,
    KINDS,
    TWELVE,
    call,
    is_plain,
    name,
    piece,
    refused,
    storage,
    tensor,
    write,
    write_legacy,
    write_zip,
)

# --------------------------------------------------------------------------------------------- nothing in a file is run


class Evil:
    """Its pickle calls a function when `pickle.load` reads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(marker):
    """Pickles that create the file `marker` through many kinds of calls, or that would create foreign objects."""
    command = f"touch {marker}"
    program = f"open({str(marker)!r}, 'w').close()"
    evil = [
        Evil(os.system, command),
        Evil(subprocess.check_call, ["touch", str(marker)]),
        Evil(subprocess.Popen, ["touch", str(marker)]),
        Evil(eval, program),
        Evil(exec, program),
        Evil(__import__, "os"),
        Evil(getattr, "x", "upper"),
        Evil(open, str(marker), "w"),
        Evil(Path, str(marker)),
        Evil(pickle.loads, pickle.dumps(Evil(os.system, command))),
        Evil(np.load, str(marker)),
        Evil(np.ones, (3,)),
        Evil(bytearray, b"x"),
        {"model": OrderedDict(a=Evil(os.system, command))},
        Counter,
        np.float32,
        {1, 2},
        frozenset([1]),
        range(3),
        1 + 2j,
        Ellipsis,
        slice(3),
        np.random.default_rng(0),
        np.ma.array([1]),
    ]
    bodies = [pickle.dumps(value, protocol)[2:-1] for value in evil for protocol in (2, 3, 4, 5)]
    system, text = name("os.system"), piece(command)
    bodies += [
        name("posix.system") + b"(" + text + b"tR",
        name("nt.system") + b"(" + text + b"tR",
        name("builtins.eval") + b"(" + piece(program) + b"tR",
        name("__builtin__.eval") + b"(" + piece(program) + b"tR",
        b"(" + text + b"ios\nsystem\n",  # INST
        b"(" + system + text + b"o",  # OBJ
        system + b"(" + text + b"t\x81",  # NEWOBJ
        system + b"(" + text + b"t}\x92",  # NEWOBJ_EX
        name("copyreg._reconstructor") + b"(" + name("os._wrap_close") + name("builtins.object") + b"NtR",
        piece("os") + piece("system") + b"\x93(" + text + b"tR",  # STACK_GLOBAL
        piece("torch._utils _rebuild_tensor_v2") + piece("x") + b"\x93)R",
        piece("os") + text + b"0" + piece(1),
        b"\x82\x01)R",  # EXT1
        b"\x97",  # NEXT_BUFFER
        system,
        b"}" + system + text + b"s",
        b"}" + text + system + b"s",
        text + text + b"tR",
        text + b"(" + text + b"tR",  # calls a string
        piece(7) + b")R",
        piece([]) + b")R",
        name("collections.OrderedDict") + text + b"R",
        name("collections.OrderedDict") + b"(" + system + b"tR",
        call("collections.OrderedDict") + system + b"b",
        piece([]) + piece({"append": 1}) + b"b",
        piece({}) + piece({"x": 1}) + b"b",
        name("torch.Size") + piece({"x": 1}) + b"b",
        call("torch._utils._rebuild_parameter", text, piece(True), piece({})),
        call("numpy.core.multiarray._reconstruct", name("os.system"), piece((0,)), piece("b")),
        call("numpy.core.multiarray._reconstruct", name("numpy.dtype"), piece((0,)), piece("b")),
        call("numpy.core.multiarray.scalar", call("numpy.dtype", piece("O8"), piece(False), piece(True)), text),
        call("_codecs.encode", text, piece("rot13")),
        call("_codecs.encode", text, piece("idna")),
        call("_codecs.decode", text, piece("hex")),
        call("torch.load", text),
        call("torch.storage._load_from_bytes", text),
        call("torch.hub.load", text),
        call("torch._utils._rebuild_tensor_v2.__globals__.get", text),
        call("collections.OrderedDict.fromkeys", text),
        call("numpy.ndarray", piece((3,))),
        call("numpy.core.multiarray.fromfile", text),
        text + b"Q",
        b"P" + command.encode() + b"\n",  # PERSID
    ]
    return bodies


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_refused_and_not_made(kind, tmp_path):
    marker = tmp_path / "marker"
    bodies = attacks(marker)
    assert len(bodies) > 120
    for body in bodies:
        write(kind, tmp_path / "x", body)
        refused(tmp_path / "x")
        assert not marker.exists(), body


def test_what_is_refused_is_named(tmp_path):
    write("pickle", tmp_path / "x", piece(Evil(os.system, "true")))
    refused(tmp_path / "x", f"asks for {os.name}.system, which is not one of the few names that weights need")
    write("zip", tmp_path / "x", b"(" + piece("true") + b"ios\nsystem\n")
    refused(tmp_path / "x", "instruction INST")
    write("legacy", tmp_path / "x", call("_codecs.encode", piece("a"), piece("rot13")))
    refused(tmp_path / "x", "a call of _codecs.encode with ('a', 'rot13'), which cannot be read")


WATCH = """
import json, sys
from pathlib import Path
from minimask.errors import InputError
from minimask.weights.torch_file import read
read(sys.argv[1])  # once, so that everything is imported
events = []
sys.addaudithook(lambda event, arguments: events.append(event) if events is not None else None)
for path in sorted(Path(sys.argv[2]).iterdir()):
    try:
        read(path)
        raise SystemExit(f"{path} was read")
    except InputError:
        pass
found, events = sorted(set(events)), None
print(json.dumps(found))
"""


def test_python_sees_nothing_but_the_reading_of_a_file(tmp_path):
    """Checked with Python's audit events, which include imports, system calls and `pickle.find_class`."""
    (tmp_path / "files").mkdir()
    for index, body in enumerate(attacks(tmp_path / "marker")):
        write(KINDS[index % 3], tmp_path / "files" / f"{index:03d}", body)
    arguments = [sys.executable, "-c", WATCH, GOLDEN / "tensors-zip.pth", tmp_path / "files"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert set(json.loads(result.stdout)) <= {"open", "mmap.__new__", "os.listdir", "os.scandir"}
    assert not (tmp_path / "marker").exists()


# --------------------------------------------------------------------------------------- files made to use up a machine


def bombs():
    laughs = piece([0] * 10) + b"q\0"
    for level in range(1, 30):
        laughs += b"](" + b"h" + bytes([level - 1])
        laughs += (b"h" + bytes([level - 1])) * 9 + b"eq" + bytes([level])
    big = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b"q\x63"
    kind = call("numpy.dtype", piece("u1"), piece(False), piece(True)) + b"q\x64"
    array = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), piece((0,)), piece("b"))
    return {
        "lists in lists": (b"]" * 100_000 + b"a" * 99_999, "more than 100 levels deep"),
        "tuples in tuples": (b")" + b"\x85" * 100_000, "more than 100 levels deep"),
        "dicts in dicts": (b"}" + b"K\1}" * 20_000 + b"s" * 20_000, "more than 100 levels deep"),
        "a list in itself": (b"]q\0h\0a", "contains itself"),
        "a dict in itself": (b"}q\0K\1h\0s", "contains itself"),
        "a list twice in itself": (b"]q\0(h\0h\0e", "contains itself"),
        "ten to the thirty": (b"(" + laughs + b"t", "more than 1,000,000 values"),
        "a deep key": (b"}" + b")" + b"\x85" * 100_000 + b"K\1s", "the key of a dict"),
        "a list as key": (b"}]K\1s", "the key of a dict"),
        "marks": (b"(" * 250_000, "lacks"),
        "many dicts": (b"}" * 1_010_000, "instructions"),
        "a memo far away": (b"Nr\xff\xff\xff\xff" * 3 + b"\x87", None),
        "a memo of a large number": (b"Np" + b"9" * 200 + b"\n", ""),
        "a memo unset": (b"h\7", "lacks"),
        "memoized twice": (b"N\x94q\0\x94q\1h\0\x86", None),
        "a long integer": (b"\x8b" + struct.pack("<i", 500_000) + b"\x7f" * 500_000, "LONG4"),
        "a longer integer": (b"\x8a\xff" + b"\x7f" * 255, "an integer of 2039 bits"),
        "an integer as text": (b"I" + b"9" * 1_000_000 + b"\n", "has no end"),
        "a shorter integer as text": (b"I" + b"9" * 200 + b"\n", "bits"),
        "a long as text": (b"L" + b"9" * 1_000_000 + b"L\n", "has no end"),
        "a long name": (b"cos" + b"a" * 1_000_000 + b"\nsystem\n", "has no end"),
        "a long name on the stack": (big + piece("x") + b"\x93", "asks for"),
        "a text of 2**60 bytes": (b"\x8d" + struct.pack("<Q", 2**60) + b"abc", ""),
        "bytes of 2**63 bytes": (b"\x8e" + struct.pack("<Q", 2**63) + b"abc", ""),
        "a byte array of 2**60 bytes": (b"\x96" + struct.pack("<Q", 2**60) + b"abc", ""),
        "a negative length": (b"T" + struct.pack("<i", -5) + b"abc", ""),
        "no UTF-8": (b"X\2\0\0\0\xff\xff", "damaged"),
        "one text encoded often": (
            big + call("_codecs.encode", b"h\x63", piece("latin1")) * 1000 + b"\x87", "larger than the file"
        ),
        "one text in many arrays": (
            big + kind + (array + b"(K\1J" + struct.pack("<i", 1_000_000) + b"\x85h\x64\x89h\x63tb") * 1000 + b"\x87",
            "larger than the file",
        ),
        "one text many times": (big + b"0".join([b"h\x63"] * 3), "POP"),
        "an empty stack": (b"R", "lacks"),
        "an empty stack at the end": (b"", "lacks"),
        "no mark": (b"NNt", "lacks"),
        "an odd number of items": (b"}(NNNu", "lacks"),
        "items for a text": (piece("x") + b"(NNu", "is not a dict"),
        "items for a tuple": (b")(Ne", "is not a list"),
        "too much on the stack": (b"NN", "left over"),
    }  # fmt: skip


@pytest.mark.parametrize("index, bomb", list(enumerate(bombs())))
def test_bombs(index, bomb, tmp_path):
    body, message = bombs()[bomb]
    path = tmp_path / "x"
    write(KINDS[index % 3], path, body)
    if message is None:
        read(path)
    else:
        refused(path, message)


@pytest.mark.parametrize(
    "bomb",
    [
        "ten to the thirty", "a list twice in itself", "a memo far away", "a long name on the stack", "lists in lists",
        "a text of 2**60 bytes", "a byte array of 2**60 bytes", "one text encoded often", "one text in many arrays",
    ],
)  # fmt: skip
def test_bombs_take_little_memory(bomb, tmp_path):
    path = tmp_path / "x"
    write("pickle", path, bombs()[bomb][0])
    tracemalloc.start()
    try:
        read(path)
    except InputError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (20_000_000 if bomb == "ten to the thirty" else 12_000_000)


# --------------------------------------------------------------------------------------------------------- zip archives


def plain_zip(path, **arguments):
    write_zip(path, tensor(storage()), {"0": TWELVE}, **arguments)
    return bytearray(path.read_bytes())


def entry(data, file_name):
    """The positions of an entry in the table of contents and of its header."""
    position = 0
    while (position := data.find(b"PK\1\2", position)) >= 0:
        size = struct.unpack_from("<H", data, position + 28)[0]
        if data[position + 46 : position + 46 + size] == file_name:
            return position, struct.unpack_from("<I", data, position + 42)[0]
        position += 4
    raise KeyError(file_name)


def test_the_zip_by_hand_is_read(tmp_path):
    plain_zip(tmp_path / "x")
    assert read(tmp_path / "x").tolist() == list(range(12))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_entries_are_refused(method, tmp_path):
    path = tmp_path / "x"
    write_zip(path, tensor(storage(count=8_000_000), 0, (8_000_000,)), {"0": bytes(32_000_000)}, compression=method)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    refused(path, "is compressed or encrypted")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "field, code, value, message",
    [
        (8, "<H", 1, "compressed or encrypted"),
        (10, "<H", 8, "compressed or encrypted"),
        (20, "<I", 47, "compressed or encrypted"),  # bytes in the archive, bytes in all
        (16, "<I", 0x12345678, "checksum"),
        (24, "<II", (10**6, 10**6), None),
        (20, "<II", (10**9, 10**9), "overlaps another, or ends after"),
        (20, "<II", (0xFFFFFFFF, 0xFFFFFFFF), "4 GB"),
        (20, "<II", (44, 44), ""),
        (42, "<I", 10**6, "damaged"),
        (42, "<I", 0, ""),
        (42, "<I", 0xFFFFFFFF, "4 GB"),
        (28, "<H", 60_000, "damaged"),
        (30, "<H", 60_000, "damaged"),
        (0, "<I", 0, "damaged"),
    ],
)
def test_damaged_tables_of_contents(field, code, value, message, tmp_path):
    data = plain_zip(tmp_path / "x")
    position, _ = entry(data, b"archive/data/0")
    struct.pack_into(code, data, position + field, *(value if isinstance(value, tuple) else (value,)))
    (tmp_path / "x").write_bytes(data)
    refused(tmp_path / "x", message or "")


@pytest.mark.parametrize(
    "field, code, value", [(8, "<HH", (65000, 65000)), (10, "<H", 4), (12, "<I", 10**7), (16, "<I", 10**7)]
)
def test_damaged_ends_of_archives(field, code, value, tmp_path):
    data = plain_zip(tmp_path / "x")
    struct.pack_into(code, data, len(data) - 22 + field, *(value if isinstance(value, tuple) else (value,)))
    (tmp_path / "x").write_bytes(data)
    refused(tmp_path / "x")


def test_entries_that_are_one_in_another_are_refused(tmp_path):
    """Otherwise one kilobyte, listed as a thousand entries, would become a thousand kilobytes."""
    data = plain_zip(tmp_path / "x")
    first, _ = entry(data, b"archive/data/0")
    second, _ = entry(data, b"archive/version")
    data[second + 16 : second + 28] = data[first + 16 : first + 28]
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    (tmp_path / "x").write_bytes(data)
    refused(tmp_path / "x", "overlaps")


def test_one_bit_of_a_tensor_wrong_is_found(tmp_path):
    data = plain_zip(tmp_path / "x")
    data[data.find(TWELVE) + 5] ^= 1
    (tmp_path / "x").write_bytes(data)
    refused(tmp_path / "x", "'archive/data/0' is damaged (its checksum is wrong)")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_files_of_other_things(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones(3))
    refused(path, "not one of torch.save")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("b/data.pkl", b"\x80\x02N.")
    refused(path, "or several")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("a/data.pkl", b"\x80\x02N.")
    refused(path, "two entries 'a/data.pkl'")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.comment = b"a comment"
    refused(path, "cut off")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.rest")
    refused(path, "4 bytes follow")


# ---------------------------------------------------------------------------------------------------------- other files


def test_files_that_hold_no_weights(tmp_path):
    refused(tmp_path / "missing.pth", "No such file")
    refused(tmp_path, "not a file")
    path = tmp_path / "x.pth"
    for data, message in (
        (b"", "is empty"),
        (b"\x1f\x8b\x08\x00", "neither a PyTorch file nor a pickle"),
        (b"<html>", "it begins with b'<html>'"),
        (b"(dp0\n.", "neither"),  # protocol 0
        (b"\x80", "incomplete: there should be"),
        (b"\x80\x02", "incomplete: there should be"),
        (b"\x80\x02\xffN.", "damaged"),
        (b"\x80\x02N.N.", "2 bytes follow"),
        (b"storages" + bytes(249) + b"ustar" + bytes(300), "TAR format from before 2017"),
    ):
        path.write_bytes(data)
        refused(path, message)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs permissions that bind")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "x").write_bytes(b"\x80\x02N.")
    (tmp_path / "x").chmod(0)
    refused(tmp_path / "x", "cannot be read")


def test_parts_of_the_legacy_format(tmp_path):
    path = tmp_path / "x"
    for parts, message in (
        ([1000], "version 1000"),
        ([1001, {}], "incomplete: there should be"),
        ([1001, {}, {"a": 1}], "incomplete: there should be"),
        ([1001, {}, {"a": 1}, "0"], "list of storages is damaged"),
        ([1001, {}, {"a": 1}, [0]], "list of storages is damaged"),
        ([1001, {}, {"a": 1}, ["0"]], "not those of the tensors"),
        ([1001, {}, {"a": 1}, []], None),
    ):
        path.write_bytes(LEGACY_START + b"".join(pickle.dumps(part, 2) for part in parts))
        if message:
            refused(path, message)
        else:
            assert read(path) == {"a": 1}
    write_legacy(path, tensor(storage()), {"0": TWELVE, "1": TWELVE})
    refused(path, "not those of the tensors")
    write_legacy(path, tensor(storage()), {"0": TWELVE[:-4]})
    refused(path, "has 11 elements, but its tensors expect 12")
    write_legacy(path, tensor(storage()), {"0": TWELVE})
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    refused(path, "1 bytes follow")
    path.write_bytes(whole[:-1])
    refused(path, "incomplete: there should be")


@pytest.mark.parametrize("file", GOLDEN_FILES)
def test_cut_off_files(file, tmp_path):
    data = (GOLDEN / file).read_bytes()
    path = tmp_path / "x"
    ends = set(range(0, len(data), 29)) | set(range(40)) | set(range(len(data) - 40, len(data)))
    for end in sorted(ends):
        path.write_bytes(data[:end])
        refused(path)


# --------------------------------------------------------------------------------------------------------- random files


def examples(count):
    """The settings of hypothesis: the same examples in every run."""
    ignored = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=ignored)


LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
FRAGMENTS = [
    *(bytes([code]) for code in b"N\x88\x89]})(t\x85\x86\x87aesuRbQ\x81\x93\x9402"), b"q\0", b"q\1", b"h\0", b"h\1",
    b"K\0", b"K\3", b"J\xff\xff\xff\xff", b"I01\n",
    piece("storage"), piece("0"), piece("cpu"), piece("f4"), piece("latin1"), piece("\xe9"), piece((3,)), piece((1,)),
    piece((0,)), piece(2**40), piece(-(2**62)), piece(1.5), b"C\x0c" + TWELVE[:12], b"U\4abcd", b"\x95" + bytes(8),
    name("torch.FloatStorage"), name("torch.BoolStorage"), name("torch._utils._rebuild_tensor_v2"), name("os.system"),
    name("torch._utils._rebuild_tensor"), name("torch._utils._rebuild_parameter"), name("collections.OrderedDict"),
    name("collections.Counter"), name("argparse.Namespace"), name("torch.Size"), name("_codecs.encode"),
    name("numpy.dtype"), name("numpy.ndarray"), name("numpy.core.multiarray._reconstruct"), name("builtins.bytes"),
    name("numpy.core.multiarray.scalar"), name("numpy.core.numeric._frombuffer"), storage(), tensor(storage()),
    call("numpy.dtype", piece("f4"), piece(False), piece(True)), call("collections.OrderedDict"),
    call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), piece((0,)), piece("b")),
]  # fmt: skip


def read_or_refuse(path):
    """Reading either returns a value or raises InputError."""
    try:
        value = read(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ")
        return False
    assert is_plain(value)
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_random_instructions(kind, tmp_path):
    @examples(300)
    @given(st.lists(st.sampled_from(FRAGMENTS), max_size=30))
    def check(fragments):
        write(kind, tmp_path / "x", b"".join(fragments), {"0": TWELVE} if tensor(storage()) in fragments else None)
        read_or_refuse(tmp_path / "x")

    check()


def test_random_bytes(tmp_path):
    @examples(300)
    @given(st.sampled_from([b"\x80\x02", b"\x80\x04\x95", b"PK\3\4", LEGACY_START]), st.binary())
    def check(start, data):
        (tmp_path / "x").write_bytes(start + data)
        read_or_refuse(tmp_path / "x")

    check()


@pytest.mark.parametrize("file", GOLDEN_FILES)
def test_changed_bytes(file, tmp_path):
    """Up to four bytes of a real file are changed. The checksums of a zip file are set to 0 first."""
    original = bytearray((GOLDEN / file).read_bytes())
    if original.startswith(b"PK"):
        position = 0
        while (position := original.find(b"PK\1\2", position)) >= 0:
            original[position + 16 : position + 20] = bytes(4)
            position += 4
    outcomes = Counter()

    @examples(150)
    @given(st.lists(st.tuples(st.integers(0, len(original) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def check(changes):
        data = bytearray(original)
        for position, byte in changes:
            data[position] = byte
        (tmp_path / "x").write_bytes(data)
        outcomes[read_or_refuse(tmp_path / "x")] += 1

    check()
    assert outcomes[True] > 5 and outcomes[False] > 5  # both happen


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary(),
    st.builds(np.full, st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(0, 1), st.sampled_from("fl?eb")),
)  # fmt: skip


def nest(inner):
    return st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner)


def test_random_nests_of_arrays(tmp_path):
    @examples(100)
    @given(st.recursive(PLAIN, nest, max_leaves=20), st.integers(2, 5))
    def check(value, protocol):
        (tmp_path / "x").write_bytes(pickle.dumps(value, protocol))
        found = read(tmp_path / "x")
        assert is_plain(found)
        np.testing.assert_equal(found, value)

    check()
