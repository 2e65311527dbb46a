"""inspect prints what is in a COCO file, names every problem, and draws pictures; --skip-bad leaves problems out."""

import json

import pytest
from PIL import Image

import minimask
from minimask.__main__ import main
from tests.coco_changes import IMAGES, keypoints, save, sound, spoiled


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(IMAGES):
        save(tmp_path, f"img{i}.png", i)
    return tmp_path


def test_all_25_defects_are_in_one_report_and_left_out_on_request(folder, capsys):
    content, bad = spoiled()
    (folder / "a.json").write_text(json.dumps(content))
    data = ["--images", str(folder / "images"), "--annotations", str(folder / "a.json")]
    assert main(["inspect", *data, "--output", str(folder / "seen")]) == 2
    told = capsys.readouterr()
    assert "25 problems" in told.out and "training refuses this file" in told.err
    for identity in bad:
        assert f"annotation {identity} (image " in told.out
    assert sorted(path.name for path in (folder / "seen").iterdir()) == ["histograms.png", "samples.png"]

    small = ["--preset", "toy", "--min-size", "64", "--batch-size", "1", "--steps", "1", "--threads", "1"]
    run = ["train", *data, *small, "--output", str(folder / "run")]
    assert main(run) == 2
    error = capsys.readouterr().err
    assert "25 problems" in error and "--skip-bad" in error and not (folder / "run").exists()
    assert main([*run, "--skip-bad"]) == 0
    assert "25 left out" in capsys.readouterr().err
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert log[0]["left_out"] == 25
    assert main(["evaluate", "--weights", str(folder / "run"), *data, "--skip-bad"]) == 0
    assert "25 left out" in capsys.readouterr().err
    assert main(["split", str(folder / "a.json"), "--skip-bad"]) == 0
    parts = [json.loads((folder / f"a_{name}.json").read_text()) for name in ("train", "val")]
    left = sum(len(part["annotations"]) for part in parts)
    assert left == len(content["annotations"]) - 22  # a split needs no masks, which three of the 25 lack


def test_inspect_of_a_sound_set(folder, capsys):
    content = sound()
    keypoints()(content)
    (folder / "a.json").write_text(json.dumps(content))
    words = ["--images", folder / "images", "--annotations", folder / "a.json", "--output", folder / "seen"]
    assert main(["inspect", *words]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "images: 6, 0 of them",
        "objects: 12, 0 of them crowds",
        "box 6",
        "keypoints: a, b 6 objects have some",
    ):
        assert words in out
    facts = minimask.inspect(images=folder / "images", annotations=folder / "a.json").facts
    assert (facts["images"], facts["objects"], facts["crowds"], facts["problems"]) == (6, 12, 0, {})
    assert facts["classes"]["box"] == 6 and sum(facts["classes"].values()) == 12
    assert facts["keypoints"] == ["a", "b"] and facts["objects_with_keypoints"] == 6
    for name in ("samples", "histograms"):
        assert min(Image.open(folder / "seen" / f"{name}.png").size) > 300


def test_inspect_compares_the_photos_with_the_file(folder, capsys):
    Image.new("RGB", (90, 60)).save(folder / "images" / "img2.png")
    (folder / "images" / "img4.png").write_text("no picture")
    (folder / "a.json").write_text(json.dumps(sound()))
    words = ["--images", folder / "images", "--annotations", folder / "a.json", "--output", folder / "seen"]
    assert main(["inspect", *words]) == 2
    out = capsys.readouterr().out
    assert "photo of another size than the file says: img2.png (image 3): 90 x 60, the file says 96 x 64" in out
    assert "photo that cannot be read: img4.png (image 5)" in out
