"""Download published weights by name, and check them.

    python -m minimask download                          list what there is
    python -m minimask download maskrcnn_resnet50_fpn    download it into data/

A file is downloaded as NAME.partial, and an interrupted download continues where it stopped. Only a file with the
right size and hash gets its final name. No list of hashes is needed: the name of a published file ends with the first
digits of its hash, SHA-256 for torchvision (as `torch.hub` checks them) and MD5 for Detectron2 (see its MODEL_ZOO.md).
"""

import contextlib
import difflib
import errno
import hashlib
import os
import re
import shlex
import socket
import ssl
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from minimask import __version__
from minimask.errors import InputError
from minimask.run.files import can_write, put_in_place

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20


class Weights(NamedTuple):
    """A published file: its address, its size in bytes (within +-`within`), and what it is for."""

    url: str
    size: int
    within: int
    use: str

    @property
    def file(self):
        return self.url.rpartition("/")[2]

    @property
    def hash(self):
        """The name of the hash function and the first digits of the hash, taken from the file's name."""
        stem, ending = os.path.splitext(self.file)
        return "md5" if ending == ".pkl" else "sha256", re.split("[-_]", stem)[-1]


def _torchvision(file, mebibytes, use):
    """Weights of torchvision. The size is their `_file_size`, in MiB with three decimals."""
    return Weights(f"https://download.pytorch.org/models/{file}", round(mebibytes * 2**20), 525, use)


def _detectron2(path, size, within, use):
    return Weights(f"https://dl.fbaipublicfiles.com/detectron2/COCO-{path}", size, within, use)


# The first size of Detectron2's files is known exactly. The others are four bytes per number in the model plus the
# 44 kB that the first file has on top of that. This agrees with the 167 MB and 237 MB that are known for two of them.
WEIGHTS = {
    "maskrcnn_resnet50_fpn": _torchvision("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 169.840, "boxes, masks"),
    "fasterrcnn_resnet50_fpn": _torchvision("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 159.743, "boxes"),
    "keypointrcnn_resnet50_fpn": _torchvision("keypointrcnn_resnet50_fpn_coco-fc266e95.pth", 226.054, "keypoints"),
    "resnet18": _torchvision("resnet18-f37072fd.pth", 44.661, "backbone"),
    "resnet34": _torchvision("resnet34-b627a593.pth", 83.275, "backbone"),
    "resnet50": _torchvision("resnet50-0676ba61.pth", 97.781, "backbone"),
    "resnet101": _torchvision("resnet101-63fe2227.pth", 170.511, "backbone"),
    "resnext50_32x4d": _torchvision("resnext50_32x4d-7cdf4587.pth", 95.789, "backbone"),
    "resnext101_32x8d": _torchvision("resnext101_32x8d-8ba56ff5.pth", 339.586, "backbone"),
    "mask_rcnn_R_50_FPN_3x": _detectron2(
        "InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl", 177841981, 0, "boxes, masks"
    ),
    "mask_rcnn_R_50_C4_3x": _detectron2(
        "InstanceSegmentation/mask_rcnn_R_50_C4_3x/137849525/model_final_4ce675.pkl",
        144100000,
        5 * 10**5,
        "boxes, masks",
    ),
    "faster_rcnn_R_50_FPN_3x": _detectron2(
        "Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl", 167270000, 5 * 10**5, "boxes"
    ),
    "keypoint_rcnn_R_50_FPN_3x": _detectron2(
        "Keypoints/keypoint_rcnn_R_50_FPN_3x/137849621/model_final_a6e10b.pkl", 237000000, 5 * 10**5, "keypoints"
    ),
}

NOTES = """\
Detectors find COCO's 80 kinds of object (those with keypoints: only people). Backbones were trained on ImageNet.
License: Detectron2's files (.pkl) are CC BY-SA 3.0, according to its MODEL_ZOO.md. torchvision (.pth) states no license
for its files; its code is BSD 3-clause, and it refers to the terms of the data that the models were trained on."""


# ----------------------------------------------------------------------------------------------------- the command line


def add_arguments(parser):
    """Add the arguments of `python -m minimask download` to its parser."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the weights (default: list all)")
    parser.add_argument("--list", action="store_true", help="list all weights")
    parser.add_argument("--output", metavar="DIR", help="folder (default: data/ of the checkout, or ./data)")


def main(args, table=WEIGHTS):
    """Run the command. Returns the exit status 0. Raises InputError like `download`."""
    if args.list or not args.name:
        print(listing(table))
        return 0
    weights = find(args.name, table)
    folder = Path(args.output) if args.output else default_folder(weights.file)
    there = (folder / weights.file).exists()
    path = download(args.name, folder, table=table)
    here = shlex.quote(os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path))
    kind, digits = weights.hash
    print(f"weights: {here}{' (already downloaded)' if there else ''}")
    print(f"checked: {path.stat().st_size:,} bytes, {kind.upper()} begins with {digits}, as the name says")
    task = "predict PHOTO.jpg"
    if weights.use == "backbone":
        task = f"train --images DIR --annotations FILE.json --preset resnet50_fpn --set backbone={args.name}"
    print(f"next:    python -m minimask {task} --weights {here}")
    return 0


def listing(table=WEIGHTS):
    """The table of all weights, as text."""
    lines = [f"{'name':27}{'MB':>5}  {'for':14}file"]
    lines += [f"{name:27}{w.size / 1e6:5.0f}  {w.use:14}{w.file}" for name, w in table.items()]
    return "\n".join([*lines, "", NOTES])


def default_folder(file):
    """`data/` of the checkout if it holds the file or can be written to, otherwise `data/` in the current folder."""
    root = Path(__file__).resolve().parents[2]
    data, checkout = root / "data", (root / "pyproject.toml").is_file()
    return data if checkout and ((data / file).exists() or can_write(data)) else Path("data")


# ------------------------------------------------------------------------------------------------------------- download


def find(name, table=WEIGHTS):
    """The Weights with this name. Raises InputError with similar names if there are none."""
    if name in table:
        return table[name]
    lower = {known.lower(): known for known in table}
    near = [lower[known] for known in difflib.get_close_matches(name.lower(), lower, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"download: there are no weights called {name!r}; {hint}`python -m minimask download` lists all")


def download(name, folder, progress=True, table=WEIGHTS):
    """Download weights into a folder, unless they are already there, and check their size and hash.

    name: a key of `table`.
    folder: where the file goes; it is created if necessary.
    progress: whether to show a progress bar.
    Returns the Path of the file.
    Raises InputError that names the cause (network, disk, a file that is not the published one) and what to do.
    """
    weights = find(name, table)
    path = Path(folder) / weights.file
    partial = path.with_name(path.name + ".partial")
    try:
        if path.exists():
            problem = _problem(path, weights)
            if problem:
                raise InputError(f"{path}: exists but is not the published file: {problem}; delete it")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(partial):
            _complete(weights, partial, path, progress)
    except (URLError, HTTPException) as error:
        raise InputError(
            f"{weights.url}: not downloaded: {_cause(error)}{_proxy(weights.url)}.{_kept(partial)} Without a network, "
            f"download that address elsewhere (with a browser, for example) and put the file here: {path}"
        ) from error
    except OSError as error:
        where = error.filename or partial
        raise InputError(f"{where}: cannot be written or read ({error.strerror or error}).{_kept(partial)}") from error
    except KeyboardInterrupt:
        print(f"{weights.file}: not complete.{_kept(partial)}", file=sys.stderr)
        raise
    return path


def _complete(weights, partial, path, progress):
    """Download what `partial` lacks, check it, and rename it. A wrong file is deleted, an incomplete one kept."""
    try:
        _fetch(weights, partial, progress)
        problem = _problem(partial, weights)
        if problem:
            partial.unlink()
            raise InputError(
                f"{weights.url}: the downloaded file is not the published one: {problem}; it was deleted, try again"
            )
        put_in_place(partial, path)
    finally:
        if partial.exists() and partial.stat().st_size == 0:
            partial.unlink()


def _fetch(weights, partial, progress):
    """Append to `partial` what it lacks, or start over if the server cannot send a part of a file."""
    from tqdm.auto import tqdm

    start = partial.stat().st_size if partial.exists() else 0
    try:
        response = _open(weights.url, start)
    except HTTPError as error:
        if not (start and error.code == 416):  # 416: the file has no bytes after `start`
            raise
        if _total(error.headers) == start:
            return
        response = _open(weights.url, 0)  # `partial` is longer than the file
    with response:
        total = _total(response.headers)
        if total is not None and abs(total - weights.size) > weights.within:  # for example a network's login page
            raise InputError(f"{weights.url}: the server offers {_wrong_size(total, weights)}; nothing was downloaded")
        resumed = response.status == 206
        bar = tqdm(
            desc=weights.file,
            total=total,
            initial=start if resumed else 0,
            unit="B",
            unit_scale=True,
            disable=not progress,
            dynamic_ncols=True,
            leave=False,
        )
        with bar, open(partial, "ab" if resumed else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    size = partial.stat().st_size
    if total is not None and size < total:
        raise URLError(f"it stopped after {size / 1e6:.1f} of {total / 1e6:.1f} MB")


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, response, code, message, headers, url):
        _check_address(url)
        return super().redirect_request(request, response, code, message, headers, url)


def _check_address(url):
    parts = urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) != ("http", "127.0.0.1"):
        raise InputError(f"{url}: not downloaded: the address must begin with https://")


def _open(url, start):
    """Request the bytes from `start` on. Returns the server's response."""
    _check_address(url)
    headers = {"User-Agent": f"minimask/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    opener = urllib.request.build_opener(_OnlyHttps)  # respects https_proxy and no_proxy
    with _network():
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)


def _read(response):
    """The next bytes as they arrive, so that none are lost if the connection breaks."""
    with _network():
        return response.read1(CHUNK)


@contextlib.contextmanager
def _network():
    """Turn every error of the connection into a URLError, to distinguish them from errors of the disk."""
    try:
        yield
    except URLError:
        raise
    except OSError as error:
        raise URLError(error) from error


def _total(headers):
    """The size of the whole file, from `Content-Range: bytes 5-9/TOTAL` or Content-Length. None if neither is sent."""
    text = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


@contextlib.contextmanager
def _alone(partial):
    """Prevent a second download of the same file. Windows has no such lock; there a mixed-up file fails its hash."""
    if fcntl is None:
        yield
        return
    with open(partial, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{partial}: another download of this file is running") from error
        yield


# --------------------------------------------------------------------------------------------------- checks and reasons


def _problem(path, weights):
    """Why `path` is not the published file, or "" if its size and hash are right."""
    size = path.stat().st_size
    if abs(size - weights.size) > weights.within:
        return f"it has {_wrong_size(size, weights)}"
    kind, digits = weights.hash
    hasher = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    found = hasher.hexdigest()[: len(digits)]
    return "" if found == digits else f"its {kind.upper()} begins with {found}, not {digits}"


def _wrong_size(size, weights):
    about = "about " if weights.within else ""
    return f"{size:,} bytes, not {about}{weights.size:,}"


def _cause(error):
    """Why the network failed, in a few words."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(error, HTTPError):
        return f"the server answered with HTTP status {error.code} ({reason})"
    if isinstance(reason, socket.gaierror):
        return "the server's name was not found (DNS)"
    if isinstance(reason, ssl.SSLError):
        return f"no secure connection (TLS: {getattr(reason, 'verify_message', '') or reason})"
    if isinstance(reason, TimeoutError):
        return f"no answer for {TIMEOUT} seconds"
    if isinstance(reason, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(reason, OSError) and reason.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
        return "there is no route to the server"
    return f"the connection failed ({reason})"


def _proxy(url):
    """The proxy that was used, without its password."""
    proxy = urllib.request.getproxies().get(urlsplit(url).scheme)
    if not proxy or urllib.request.proxy_bypass(urlsplit(url).hostname):
        return ""
    return f" (through the proxy {proxy.rpartition('@')[2]})"


def _kept(partial):
    """A sentence about what is left of an interrupted download, or ""."""
    size = partial.stat().st_size if partial.is_file() else 0
    return f" {size / 1e6:.1f} MB are kept in {partial}; the same command continues from there." if size else ""
