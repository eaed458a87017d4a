"""The contact sheet: every class in turn, the first column as evaluation sees it, the same for the same seed."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fromzero import pictures
from fromzero.cli import main
from fromzero.data.augment import AFTER_CROP, ON_ARRAYS
from fromzero.data.folder import scan
from fromzero.data.images import prepared
from fromzero.data.mix import KINDS
from fromzero.data.opening import open_data
from fromzero.data.preview import sheet
from fromzero.errors import DataError, UnknownName, UsageError
from fromzero.preparing import prepare
from fromzero.records import POLICIES, Preprocessing
from fromzero.tasks import image


def test_every_policy_that_can_be_named_is_there():
    assert sorted(POLICIES) == sorted((*ON_ARRAYS, *AFTER_CROP, *KINDS))


def test_the_plain_column_is_what_training_sees(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(10):
            array = np.random.default_rng((number, ord(name))).integers(0, 256, (30, 46), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / name / f"{number}.png")
    manifest = prepare(tmp_path)
    how = image.preprocessing(manifest, "cnn", {})
    made = sheet(manifest, ["none"], rows=2, variants=1)
    inputs = [prepared(path.read_bytes(), how).tobytes() for path in sorted(tmp_path.rglob("*.png"))]
    assert all(row[0].tobytes() in inputs for row in made.pictures)


def test_classes_in_turn_and_the_first_column_is_plain(tiny_data):
    manifest = scan(tiny_data)
    made = sheet(manifest, ["shift-flip"], rows=7, variants=3)
    assert made.pictures.shape == (7, 4, 24, 24, 3) and made.pictures.dtype == np.uint8
    assert made.policies == ["", "shift-flip", "shift-flip", "shift-flip"]
    counts = {name: made.labels.count(name) for name in manifest.classes}
    assert sorted(counts.values()) == [2, 2, 3]
    assert made.labels == sorted(made.labels, key=manifest.classes.index)
    how = Preprocessing(size=24, channels=3, crop=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    plain = {
        prepared(tiny_data / manifest["path"][row], how).tobytes(): int(manifest["label"][row])
        for row in range(len(manifest))
    }
    for label, tile in zip(made.labels, made.pictures[:, 0], strict=True):
        assert manifest.classes[plain[tile.tobytes()]] == label


@pytest.mark.parametrize("policy", POLICIES)
def test_the_seed_decides(tiny_data, policy):
    manifest = scan(tiny_data)
    one, two, other = (sheet(manifest, [policy], rows=4, seed=seed).pictures for seed in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    assert (np.array_equal(one[:, 0], one[:, 1])) == (policy == "none")


def test_only_some_classes(tiny_data, tmp_path):
    manifest = scan(shutil.copytree(tiny_data, tmp_path / "data"))  # nobody has split it
    assert set(sheet(manifest, classes=["猫"], rows=5).labels) == {"猫"}
    assert len(sheet(manifest, rows=1000, variants=1).labels) == 60
    with pytest.raises(UnknownName):
        sheet(manifest, classes=["狼"])
    with pytest.raises(UnknownName):
        sheet(manifest, ["turn"])


def test_grey_pictures_stay_grey(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30).astype(np.uint8)).save(
            tmp_path / name / "0.png"
        )
    made = sheet(scan(tmp_path), list(POLICIES), rows=2, variants=1)
    assert made.pictures.shape == (2, 1 + len(POLICIES), 32, 32, 1)
    assert pictures.contact_sheet(made.labels, made.policies, made.pictures).startswith(b"\x89PNG")


def test_nothing_to_show(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no picture"):
        sheet(scan(tmp_path))
    file = tmp_path / "texts.csv"
    file.write_text("text,label\nx,1\ny,0\n")
    with pytest.raises(UsageError, match="no pictures"):
        sheet(open_data(file))


def test_the_command_draws(tiny_data, tmp_path, capsys):
    target = tmp_path / "图" / "sheet.png"
    target.parent.mkdir()
    call = ["data", "preview", str(tiny_data), "--policy", "colour", "erase", "--rows", "3", "-o", str(target)]
    assert main([*call, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["path"] == str(target)
    assert answer["policies"] == ["", *["colour"] * 3, *["erase"] * 3]
    drawn = Image.open(io.BytesIO(target.read_bytes()))
    assert drawn.width > drawn.height > 100
    assert main(["data", "preview", str(tiny_data), "--policy", "turn"]) == 2
    assert main(["data", "preview", str(tiny_data), "-o", str(tmp_path / "nowhere" / "x.png")]) == 1


def test_padding_is_shown_as_training_sees_it(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.new("RGB", (60, 20), (0, 0, 40 * number)).save(tmp_path / label / f"{number}.png")
    cropped, padded = (sheet(open_data(tmp_path), size=24, resize=each).pictures[:, 0] for each in ("crop", "pad"))
    assert (cropped < 200).any(axis=-1).all()  # nothing but picture
    assert (padded[:, 0] == 255).all() and (padded[:, 12, :, 0] < 200).all()
