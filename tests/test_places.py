"""Every command works where neither the package nor the home nor the current folder can be written to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minimask.errors import InputError
from minimask.machine import cache_folders, warmup
from minimask.run.files import can_write, check_writable, check_writable_file
from tests.helpers import square_photos

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    *("--preset", "toy", "--batch-size", "2", "--min-size", "64", "--steps", "2", "--toy-size", "64"),
    *("--set", "backbone.channels=[8, 8, 16, 16]", "--set", "backbone.fpn_channels=16", "--set", "heads.box_width=32"),
    *("--set", "heads.mask_channels=[16]", "--set", "heads.mask_width=16"),
]
WITHOUT_RIGHTS = []
if os.name != "nt" and os.geteuid() == 0:  # root may write everywhere, unless it gives this right away
    lost = "-dac_override,-dac_read_search"
    WITHOUT_RIGHTS = ["setpriv", f"--bounding-set={lost}", f"--inh-caps={lost}"]

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="permissions as on Unix"),
    pytest.mark.skipif(
        bool(WITHOUT_RIGHTS) and shutil.which("setpriv") is None, reason="root needs setpriv to lose its rights"
    ),
]


class Closed:
    """A copy of the package, a home and a current folder, all without the right to write; `out` can be written to."""

    def __init__(self, folder):
        from numba.core.caching import _CacheLocator

        self.package, self.home, self.here = folder / "package", folder / "home", folder / "here"
        self.out, self.temporary = folder / "out", folder / "temporary"
        for name in ("minimask", "kernels", "notebooks", "data"):
            shutil.copytree(ROOT / name, self.package / name, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
        for place in (self.home, self.here, self.out, self.temporary):
            place.mkdir()
        # What the commands would compile first, which takes half a minute: it stands where they will look for it.
        kernels = self.temporary / f"minimask-kernels-{os.getuid()}"
        kernels.mkdir(mode=0o700)
        name = _CacheLocator.get_suitable_cache_subpath(str(self.package / "kernels" / "nms.py"))
        shutil.copytree(warmup._cache_folder(), kernels / name)
        self.data = square_photos(folder / "photos", 4)
        self.places = [self.package, *self.package.rglob("*"), self.home, self.here]
        for place in self.places:
            if not place.is_symlink():
                place.chmod(place.stat().st_mode & ~0o222)

    def open(self):
        """Give the rights back, so that the folder can be deleted."""
        for place in self.places:
            if not place.is_symlink():
                place.chmod(place.stat().st_mode | 0o200)

    def run(self, *words):
        unset = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "IPYTHONDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        environment |= {"HOME": str(self.home), "TMPDIR": str(self.temporary), "PYTHONPATH": str(self.package)}
        return subprocess.run(
            [*WITHOUT_RIGHTS, sys.executable, "-m", "minimask", *map(str, words)],
            cwd=self.here, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    closed = Closed(tmp_path_factory.mktemp("closed"))
    yield closed
    closed.open()


def test_it_is_closed(closed):
    process = subprocess.run([*WITHOUT_RIGHTS, "touch", str(closed.package / "minimask" / "x")], capture_output=True)
    assert process.returncode != 0


def succeed(closed, *words):
    """Run a command that must succeed, without a warning of any library. Returns what it printed."""
    process = closed.run(*words)
    assert process.returncode == 0, process.stderr
    noise = ("Traceback", "Warning", "Matplotlib", "mkdir -p failed", "not a writable")
    assert not [line for line in process.stderr.splitlines() if any(word in line for word in noise)]
    return process.stdout


def test_train_evaluate_predict_inspect_convert(closed):
    succeed(closed, "train", "--output", closed.out / "run", *SMALL, *closed.data)
    assert (closed.out / "run" / "losses.png").stat().st_size > 1000
    succeed(closed, "evaluate", "--weights", closed.out / "run", *closed.data)
    assert (closed.out / "run" / "evaluation" / "report.html").exists()
    photo = Path(closed.data[1], "1.png")
    succeed(closed, "predict", photo, "--weights", closed.out / "run", "--output", closed.out / "found")
    assert (closed.out / "found" / "1.json").exists()
    assert "finished after 2 steps" in succeed(closed, "inspect", closed.out / "run")
    succeed(closed, "convert", closed.out / "run", "--output", closed.out / "mine.safetensors")
    assert (closed.out / "mine.safetensors").exists()


def test_commands_about_data(closed):
    succeed(closed, "inspect", *closed.data, "--output", closed.out / "pictures")
    assert (closed.out / "pictures" / "histograms.png").stat().st_size > 1000
    succeed(closed, "split", closed.data[3], "--output", closed.out)
    assert (closed.out / "a_val.json").exists()


@pytest.mark.parametrize("words", [("download",), ("compile",), ("check", "--list"), ("inspect", "toy"), ()])
def test_commands_that_write_nothing(closed, words):
    assert succeed(closed, *words)


def test_tools_of_the_course(closed):
    pytest.importorskip("nbgrader", reason="the course's tools need nbgrader, jupytext and nbconvert")
    pytest.importorskip("jupytext", reason="the course's tools need nbgrader, jupytext and nbconvert")
    succeed(closed, "exercises", closed.out / "students", "--only", "01")
    assert list((closed.out / "students").glob("01_*.ipynb"))


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["train", "--steps", "2"], "runs/train"),
        (["demo", "--steps", "2"], "runs/demo"),
        (["evaluate", "--weights", "toy"], "evaluation"),
        (["predict", "PHOTO", "--weights", "toy"], "predictions"),
        (["predict", "PHOTO", "--weights", "toy", "--coco", "found.json"], "found.json"),
        (["inspect", "--images", "PHOTOS", "--annotations", "PHOTOS/a.json"], "runs/inspect"),
        (["import", "PHOTOS", "--output", "a.json"], "a.json"),
        (["benchmark", "--growth", "growth.png"], "growth.png"),
        (["notebooks", "00"], "00_start_here.ipynb"),
        (["exercises", "students"], "students"),
        (["slides", "lectures"], "lectures"),
        (["book", "pages"], "pages"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_said_before_the_work(closed, words, place):
    for module in {"notebooks": ["jupytext"], "slides": ["nbconvert"], "book": ["sphinx", "myst_nb"]}.get(words[0], ()):
        pytest.importorskip(module, reason="the course's tools need it")
    photos = Path(closed.data[1])
    words = [word.replace("PHOTOS", str(photos)).replace("PHOTO", str(photos / "1.png")) for word in words]
    process = closed.run(*words)
    assert process.returncode == 2, process.stderr
    *before, message = process.stderr.strip().splitlines()
    assert (
        place in message and "Permission denied" in message and not [line for line in before if "kernels" not in line]
    )
    assert not [line for line in process.stdout.splitlines() if not line.startswith("1. ")]


# ------------------------------------------------------------------------------------------------------- the functions


def test_checking_a_place_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable_file(tmp_path / "a" / "b.json")
    assert not list(tmp_path.iterdir()) and can_write(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    for check, path in (
        (check_writable, tmp_path / "file"),
        (check_writable, tmp_path / "file" / "sub"),
        (check_writable_file, tmp_path),
        (check_writable_file, tmp_path / "file" / "sub"),
    ):
        with pytest.raises(InputError, match=f"{path}: cannot be written to"):
            check(path)


def test_folders_that_can_be_written_to_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MPLCONFIGDIR", "IPYTHONDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    cache_folders.choose_settings_folders()
    assert "MPLCONFIGDIR" not in os.environ and "IPYTHONDIR" not in os.environ
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "mine"))
    cache_folders.choose_settings_folders()
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "mine") and not list(tmp_path.iterdir())


def test_a_home_that_is_missing_gets_one_fixed_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_folders.tempfile, "gettempdir", lambda: str(tmp_path))
    chosen = []
    for _ in range(2):
        monkeypatch.setenv("HOME", "/dev/null/home")
        for name in ("MPLCONFIGDIR", "IPYTHONDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        cache_folders.choose_settings_folders()
        chosen.append((os.environ["MPLCONFIGDIR"], os.environ["IPYTHONDIR"]))
    assert chosen[0] == chosen[1] and all(Path(folder).parent == tmp_path for folder in chosen[0])
