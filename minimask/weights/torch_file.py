"""Read PyTorch weight files (.pth, .pt) and pickles of NumPy arrays (.pkl), safely and without PyTorch.

Published weights come in three formats:

    zip       `torch.save` since 1.6: an uncompressed zip archive of NAME/data.pkl, which is a pickle that describes the
              tensors, and NAME/data/0, NAME/data/1, ..., their storages as raw numbers
    legacy    `torch.save` before: pickles of a magic number, a version, facts about the machine, the object and the
              list of storages, then for each storage the number of its elements and the elements
    pickle    one pickle with the arrays inside, as Detectron2's model zoo has them

A pickle is never executed (see `pickle_reader.py`). A file may contain tensors, arrays and plain containers (see
`torch_objects.py`); with anything else it is refused.
"""

import mmap
import os
import struct
import zlib
from pathlib import Path

from minimask.errors import InputError
from minimask.weights.pickle_reader import Bytes, read_pickle, show
from minimask.weights.torch_objects import Builder

MAX_ENTRIES = 100_000

# ---------------------------------------------------------------------------------------------------------- the file


def read(path):
    """Read a file of weights.

    Every tensor and array becomes a read-only NumPy array of the same shape and element type, except that bfloat16
    becomes float32. If possible it is a memory-mapped view of the file, which must not change while the array is used.

    Returns nested dicts, lists, tuples, strings, bytes, numbers, bools and None.
    Raises InputError that names the file and what in it is missing, damaged, or not allowed.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError("not a file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise InputError("the file is empty")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _read(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise InputError(f"{path}: too large for the memory of this machine") from error


def _read(data):
    start = data[:512]
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(data)
    if start[257:262] == b"ustar":
        raise InputError("PyTorch's TAR format from before 2017 cannot be read; save it again with a newer PyTorch")
    if not start.startswith(b"\x80"):
        raise InputError(f"neither a PyTorch file nor a pickle (it begins with {start[:8]})")
    magic = start.find(_MAGIC, 0, 32)
    if magic >= 0:
        return _read_legacy(data, Bytes(data, magic + len(_MAGIC), len(data)))
    builder = Builder(data)
    return builder.plain(_read_whole(Bytes(data, 0, len(data)), builder))


def _read_whole(file, builder):
    """The value of a pickle that nothing follows."""
    value = read_pickle(file, builder)
    _expect_end(file)
    return value


def _expect_end(file):
    if file.position != file.end:
        raise InputError(f"{file.end - file.position} bytes follow byte {file.position}, where it should end")


# --------------------------------------------------------------------------------------------------------------- zip

_ZIP_END = struct.Struct("<4s4H2IH")
_ZIP_ENTRY = struct.Struct("<4s6H3I5H2I")
_ZIP_LOCAL = struct.Struct("<4s5H3I2H")


def _read_zip(data):
    entries = _zip_entries(data)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError("a zip file, but not one of torch.save: it has no NAME/data.pkl, or several")
    folder = pickles[0].removesuffix("data.pkl")
    order = b"little"  # old files do not say
    if folder + "byteorder" in entries:
        start, end = entries[folder + "byteorder"]
        order = data[start : min(end, start + 10)]
    if order not in (b"little", b"big"):
        raise InputError(f"the byte order {order} is neither little nor big")

    def locate(key):
        if f"{folder}data/{key}" not in entries:
            raise InputError(f"the storage {show(key)} is missing")
        return entries[f"{folder}data/{key}"]

    builder = Builder(data, locate, ">" if order == b"big" else "<")
    return builder.plain(_read_whole(Bytes(data, *entries[pickles[0]]), builder))


def _zip_entries(data):
    """Where the content of each entry is: a dict from the name to (first byte, end).

    Raises InputError if an entry is compressed, damaged, or overlaps another. This does not use Python's `zipfile`,
    which would decompress, and which reads a table of contents of any size.
    """
    try:
        signature, _, _, _, count, size, table, comment = _ZIP_END.unpack_from(data, len(data) - _ZIP_END.size)
        if signature != b"PK\x05\x06" or comment:
            raise InputError("cut off: the zip archive's table of contents is not at the end of the file")
        if count > MAX_ENTRIES or table + size > len(data):
            raise InputError(f"the zip archive's table of contents is damaged ({count} entries, {size} bytes)")
        entries, position = [], table
        for _ in range(count):
            position, entry = _zip_entry(data, position)
            entries.append(entry)
    except (struct.error, UnicodeDecodeError) as error:
        raise InputError(f"the zip archive's table of contents is damaged ({error})") from error
    places, last_end = {}, 0
    for header, start, end, checksum, name in sorted(entries):
        if name in places:
            raise InputError(f"the zip archive has two entries {show(name)}")
        if header < last_end or end > table:
            raise InputError(f"the zip archive's entry {show(name)} overlaps another, or ends after the file")
        # PyTorch can leave out the checksums; then they are 0.
        if checksum and zlib.crc32(memoryview(data)[start:end]) != checksum:
            raise InputError(f"the zip archive's entry {show(name)} is damaged (its checksum is wrong)")
        places[name], last_end = (start, end), end
    return places


def _zip_entry(data, position):
    """Parse an entry of the table of contents. Returns (position of the next one, (header, start, end, crc, name))."""
    fields = _ZIP_ENTRY.unpack_from(data, position)
    signature, _, _, flags, method, _, _, checksum, packed, size, name_size, extra_size, comment_size = fields[:13]
    header = fields[16]
    position += _ZIP_ENTRY.size
    name = data[position : position + name_size].decode()
    if 0xFFFFFFFF in (packed, size, header):
        raise InputError(f"the zip archive's entry {show(name)} is in the format of files beyond 4 GB")
    if method != 0 or flags & 1 or packed != size:
        raise InputError(
            f"the zip archive's entry {show(name)} is compressed or encrypted, which torch.save never does "
            "(is it a TorchScript program? Then save its state_dict() with torch.save)"
        )
    local_signature, *_, local_name_size, local_extra_size = _ZIP_LOCAL.unpack_from(data, header)
    if signature != b"PK\x01\x02" or local_signature != b"PK\x03\x04":
        raise InputError(f"the zip archive's entry {show(name)} is damaged")
    start = header + _ZIP_LOCAL.size + local_name_size + local_extra_size
    return position + name_size + extra_size + comment_size, (header, start, start + size, checksum, name)


# ------------------------------------------------------------------------------------------------------------ legacy

_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # push the number 0x1950a86a20f9469cfc6c, stop
_LEGACY_VERSION = 1001


def _read_legacy(data, file):
    builder = Builder(data, locate=lambda key: None)  # the places of the storages are known only after the pickles
    version = read_pickle(file, builder)
    if version != _LEGACY_VERSION:
        raise InputError(
            f"version {show(version)} of PyTorch's older format; only version {_LEGACY_VERSION} can be read"
        )
    read_pickle(file, builder)  # facts about the machine; storages are little-endian on all machines
    value = read_pickle(file, builder)
    keys = read_pickle(file, builder)
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise InputError("the list of storages is damaged")
    if sorted(keys) != sorted(builder.storages):
        raise InputError("the storages in the file are not those of the tensors")
    for key in keys:
        storage = builder.storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count:
            raise InputError(f"the storage {show(key)} has {count} elements, but its tensors expect {storage.count}")
        storage.start = file.position
        file.skip(count * storage.itemsize)
    _expect_end(file)
    return builder.plain(value)
