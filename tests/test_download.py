"""Downloads from a local server: what is downloaded, what is kept, and what the messages say if it fails."""

import argparse
import errno
import hashlib
import os
import signal
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minimask.errors import InputError
from minimask.weights import download as module
from minimask.weights.download import WEIGHTS, Weights, download

DATA = bytes(range(256)) * 1000  # 256,000 bytes
DIGITS = hashlib.sha256(DATA).hexdigest()[:8]


class Server(ThreadingHTTPServer):
    """Serves DATA at every path. The attributes say what goes wrong. `log` contains (Range or None, bytes sent)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.ranges, self.cut, self.status, self.redirect = DATA, True, None, None, None
        self.log, self.after_cut = [], None

    def table(self, file=f"net-{DIGITS}.pth", scheme="http"):
        return {"net": Weights(f"{scheme}://127.0.0.1:{self.server_port}/models/{file}", 256_000, 0, "boxes")}

    def handle_error(self, request, client_address):
        pass  # a client that disconnects is not worth a message


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers["Range"]
        assert self.headers["User-Agent"].startswith("minimask/")
        start = int(wanted[len("bytes=") : -1]) if wanted and server.ranges else 0
        if server.redirect or server.status or start >= len(server.data):
            server.log.append((wanted, 0))  # before the client can go on
        if server.redirect:
            self.reply(302, {"Location": server.redirect})
        elif server.status:
            self.reply(server.status, {"Content-Length": 0})
        elif start >= len(server.data):
            self.reply(416, {"Content-Range": f"bytes */{len(server.data)}", "Content-Length": 0})
        else:
            body = server.data[start:]
            headers = {"Content-Length": len(body)}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(server.data) - 1}/{len(server.data)}"
            self.reply(206 if start else 200, headers)
            sent = body if server.cut is None else body[: server.cut]
            server.log.append((wanted, len(sent)))
            self.wfile.write(sent)
            if server.after_cut:
                server.after_cut()

    def reply(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def fetch(server, folder, **table):
    return download("net", folder, progress=False, table=server.table(**table))


def fails(server, folder, **table):
    with pytest.raises(InputError) as caught:
        fetch(server, folder, **table)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(folder):
    """The bytes of all files in the folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WHOLE = {f"net-{DIGITS}.pth": DATA}
PARTIAL = f"net-{DIGITS}.pth.partial"


# --------------------------------------------------------------------------------------------------- it works, or again


def test_whole_file_into_a_new_folder_and_not_a_second_time(server, tmp_path):
    assert fetch(server, tmp_path / "a" / "b") == tmp_path / "a" / "b" / f"net-{DIGITS}.pth"
    assert content(tmp_path / "a" / "b") == WHOLE
    assert server.log == [(None, 256_000)]
    fetch(server, tmp_path / "a" / "b")
    assert server.log == [(None, 256_000)]


def test_broken_download_goes_on_in_the_middle(server, tmp_path):
    server.cut = 100_000
    message = fails(server, tmp_path)
    assert "it stopped after 0.1 of 0.3 MB" in message and "0.1 MB are kept" in message
    assert content(tmp_path) == {PARTIAL: DATA[:100_000]}
    server.cut = 50_000
    fails(server, tmp_path)
    assert content(tmp_path) == {PARTIAL: DATA[:150_000]}
    server.cut = None
    fetch(server, tmp_path)
    assert content(tmp_path) == WHOLE
    assert server.log == [(None, 100_000), ("bytes=100000-", 50_000), ("bytes=150000-", 106_000)]


def test_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / PARTIAL).write_bytes(b"?" * 100_000)
    fetch(server, tmp_path)
    assert content(tmp_path) == WHOLE
    assert server.log == [("bytes=100000-", 256_000)]


def test_partial_longer_than_the_file_starts_over(server, tmp_path):
    (tmp_path / PARTIAL).write_bytes(DATA + b"!")
    fetch(server, tmp_path)
    assert content(tmp_path) == WHOLE
    assert server.log == [("bytes=256001-", 0), (None, 256_000)]


def test_partial_that_is_whole_is_only_checked_and_renamed(server, tmp_path):
    (tmp_path / PARTIAL).write_bytes(DATA)
    fetch(server, tmp_path)
    assert content(tmp_path) == WHOLE
    assert server.log == [("bytes=256000-", 0)]


def test_md5_for_detectron2_files(server, tmp_path):
    digits = hashlib.md5(DATA).hexdigest()[:6]
    assert fetch(server, tmp_path, file=f"model_final_{digits}.pkl").read_bytes() == DATA
    assert "its MD5 begins with " + digits + ", not 000000" in fails(server, tmp_path, file="model_final_000000.pkl")


# ----------------------------------------------------------------------------------------------- not the published file


def test_wrong_hash_leaves_nothing(server, tmp_path):
    server.data = DATA[:-1] + b"?"
    found = hashlib.sha256(server.data).hexdigest()[:8]
    assert f"its SHA256 begins with {found}, not {DIGITS}; it was deleted, try again" in fails(server, tmp_path)
    assert content(tmp_path) == {}
    assert server.log == [(None, 256_000)]


def test_partial_of_another_file_is_found_out(server, tmp_path):
    (tmp_path / PARTIAL).write_bytes(b"?" * 100_000)
    assert "deleted, try again" in fails(server, tmp_path)
    assert content(tmp_path) == {}
    fetch(server, tmp_path)
    assert content(tmp_path) == WHOLE
    assert server.log == [("bytes=100000-", 156_000), (None, 256_000)]


def test_wrong_size_is_seen_before_anything_is_written(server, tmp_path):
    (tmp_path / PARTIAL).write_bytes(DATA[:1000])
    server.data, server.ranges = b"<html>please log in</html>" * 50, False
    assert "the server offers 1,300 bytes, not 256,000; nothing was downloaded" in fails(server, tmp_path)
    assert content(tmp_path) == {PARTIAL: DATA[:1000]}


def test_wrong_file_of_the_final_name_is_named_and_kept(server, tmp_path):
    path = tmp_path / f"net-{DIGITS}.pth"
    path.write_bytes(DATA[:-1])
    assert fails(server, tmp_path) == (
        f"{path}: exists but is not the published file: it has 255,999 bytes, not 256,000; delete it"
    )
    assert content(tmp_path) == {path.name: DATA[:-1]} and server.log == []


# ----------------------------------------------------------------------------------------------------- network and disk


def test_404_says_what_to_do(server, tmp_path):
    server.status = 404
    url, path = server.table()["net"].url, tmp_path / f"net-{DIGITS}.pth"
    assert fails(server, tmp_path) == (
        f"{url}: not downloaded: the server answered with HTTP status 404 (Not Found). Without a network, "
        f"download that address elsewhere (with a browser, for example) and put the file here: {path}"
    )
    assert content(tmp_path) == {}


def test_connection_refused_and_proxy_without_its_password(server, tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening
        port = closed.getsockname()[1]
        table = {"net": server.table()["net"]._replace(url=f"http://127.0.0.1:{port}/net-{DIGITS}.pth")}
        with pytest.raises(InputError, match=r"not downloaded: the connection was refused\. Without"):
            download("net", tmp_path, progress=False, table=table)
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{port}")
        message = fails(server, tmp_path)
    assert f"the connection was refused (through the proxy 127.0.0.1:{port})." in message and "secret" not in message
    assert content(tmp_path) == {} and server.log == []


def test_answer_that_never_comes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        table = {
            "net": server.table()["net"]._replace(url=f"http://127.0.0.1:{silent.getsockname()[1]}/a-{DIGITS}.pth")
        }
        with pytest.raises(InputError, match=r"not downloaded: no answer for 0\.2 seconds"):
            download("net", tmp_path, progress=False, table=table)


def test_stall_in_the_middle_keeps_what_came(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    end = threading.Event()
    server.cut, server.after_cut = 70_000, end.wait
    message = fails(server, tmp_path)
    end.set()
    assert "no answer for 0.2 seconds" in message and "0.1 MB are kept" in message
    assert content(tmp_path) == {PARTIAL: DATA[:70_000]}


@pytest.mark.parametrize(
    "error, said",
    [
        (socket.gaierror(-2, "Name or service not known"), "the server's name was not found (DNS)"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "there is no route to the server"),
    ],
)
def test_no_network(server, tmp_path, monkeypatch, error, said):
    def connect(*args, **kwargs):
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    assert f"not downloaded: {said}. Without" in fails(server, tmp_path)


def test_tls(server, tmp_path):
    """A server without TLS, and a certificate that does not fit."""
    assert "no secure connection (TLS: " in fails(server, tmp_path, scheme="https")
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_message = "certificate has expired"
    assert module._cause(module.URLError(error)) == "no secure connection (TLS: certificate has expired)"


def test_only_https_also_after_a_redirect(server, tmp_path):
    server.redirect = "http://example.org/net.pth"
    assert "http://example.org/net.pth: not downloaded: the address must begin with https://" in fails(server, tmp_path)
    server.redirect = None
    assert all(weights.url.startswith("https://") for weights in WEIGHTS.values())


def test_full_disk_keeps_what_came(server, tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    server.cut = 100_000
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        message = fails(server, tmp_path)
    assert message == (
        f"{tmp_path / PARTIAL}: cannot be written or read (No space left on device). 0.1 MB are kept in "
        f"{tmp_path / PARTIAL}; the same command continues from there."
    )
    assert content(tmp_path) == {PARTIAL: DATA[:100_000]}


def test_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "data").write_text("")
    assert f"{tmp_path / 'data'}" in fails(server, tmp_path / "data")
    assert server.log == []


# -------------------------------------------------------------------------------------------------- two at once, Ctrl-C


@pytest.mark.skipif(module.fcntl is None, reason="no such locks on Windows")
def test_second_download_of_the_same_file_is_refused(server, tmp_path):
    reached, go_on = threading.Event(), threading.Event()
    server.after_cut = lambda: (reached.set(), go_on.wait(5))
    server.cut = 100_000
    first = threading.Thread(target=lambda: pytest.raises(InputError, fetch, server, tmp_path))
    first.start()
    assert reached.wait(5)
    assert "another download of this file is running" in fails(server, tmp_path)
    go_on.set()
    first.join()
    server.cut = server.after_cut = None
    fetch(server, tmp_path)
    assert content(tmp_path) == WHOLE
    assert server.log == [(None, 100_000), ("bytes=100000-", 156_000)]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system sends signals to processes alone")
def test_control_c_keeps_what_came_and_says_so(server, tmp_path, capsys):
    end = threading.Event()

    def interrupt():
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # no other thread may take it
        end.wait(5)

    server.cut, server.after_cut = 150_000, interrupt
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background shells let it be ignored
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path)
    signal.signal(signal.SIGINT, before)
    end.set()
    assert capsys.readouterr().err == (
        f"net-{DIGITS}.pth: not complete. 0.1 MB are kept in {tmp_path / PARTIAL}; "
        "the same command continues from there.\n"
    )
    assert content(tmp_path) == {PARTIAL: DATA[:150_000]}
    server.cut = server.after_cut = None
    fetch(server, tmp_path)
    assert content(tmp_path) == WHOLE and server.log[1:] == [("bytes=150000-", 106_000)]


# ----------------------------------------------------------------------------------------------------- the command line


def run(table, *argv):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.main(parser.parse_args([str(a) for a in argv]), table)


def test_command_prints_path_size_hash_and_next(server, tmp_path, capsys):
    path = tmp_path / f"net-{DIGITS}.pth"
    assert run(server.table(), "net", "--output", tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"weights: {path}",
        f"checked: 256,000 bytes, SHA256 begins with {DIGITS}, as the name says",
        f"next:    python -m minimask predict PHOTO.jpg --weights {path}",
    ]
    backbone = {"net": server.table()["net"]._replace(use="backbone")}
    assert run(backbone, "net", "--output", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"weights: {path} (already downloaded)" and " --set backbone=net --weights " in lines[2]
    assert len(server.log) == 1


@pytest.mark.parametrize("argv", [[], ["--list"], ["resnet50", "--list"]])
def test_list(argv, capsys):
    assert run(WEIGHTS, *argv) == 0
    out = capsys.readouterr().out
    for name, weights in WEIGHTS.items():
        assert f"\n{name} " in out and weights.file in out
    assert "resnet50                     103  backbone      resnet50-0676ba61.pth\n" in out


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match="no weights called 'MaskRCNN_resnet50'; did you mean maskrcnn_resnet50_fpn"):
        download("MaskRCNN_resnet50", "nowhere")
    with pytest.raises(InputError, match="no weights called 'zzz'; `python -m minimask download` lists all"):
        download("zzz", "nowhere")


def test_published_files_are_those_of_torchvision():
    """Addresses and sizes are those of the installed torchvision, for the first version of its COCO files."""
    models = pytest.importorskip("torchvision.models")
    for name, weights in WEIGHTS.items():
        if weights.file.endswith(".pth"):
            enum = models.get_model_weights(name)
            theirs = enum["COCO_V1" if "rcnn" in name else "IMAGENET1K_V1"]
            assert weights.url == theirs.url
            assert abs(weights.size - theirs.meta["_file_size"] * 2**20) < 1
            assert weights.hash == ("sha256", theirs.url[-12:-4])


def test_hashes_of_detectron2_files():
    digits = {name: w.hash for name, w in WEIGHTS.items() if w.file.endswith(".pkl")}
    assert digits == {
        "mask_rcnn_R_50_FPN_3x": ("md5", "f10217"),
        "mask_rcnn_R_50_C4_3x": ("md5", "4ce675"),
        "faster_rcnn_R_50_FPN_3x": ("md5", "280758"),
        "keypoint_rcnn_R_50_FPN_3x": ("md5", "a6e10b"),
    }


def test_default_folder(tmp_path, monkeypatch):
    root = module.Path(module.__file__).resolve().parents[2]
    assert module.default_folder("weights.pth") == root / "data"
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site-packages" / "minimask" / "weights/download.py"))
    assert module.default_folder("weights.pth") == module.Path("data")


def test_the_folder_of_a_checkout_that_cannot_be_written_to(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "here.pth").write_bytes(b"")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "minimask" / "weights" / "download.py"))
    monkeypatch.setattr(module, "can_write", lambda folder: False)
    assert module.default_folder("here.pth") == data  # downloaded before, by whoever may write there
    assert module.default_folder("new.pth") == module.Path("data")
