"""Stratified, repeatable, no picture in two splits. On manifests made here: splitting looks at no file."""

from pathlib import Path

import numpy as np
import pytest

from fromzero.data.columns import Texts, Words
from fromzero.data.manifest import NOWHERE, SPLIT_WORDS, Manifest, content_hash
from fromzero.data.split import divided, split
from fromzero.errors import DataError, UsageError


def manifest_of(counts, hashes=None, given=None, problems=()):
    """Classes of `counts` pictures; picture n of class c has the content "c-n" unless `hashes` says otherwise."""
    names = [f"{c}-{n}" for c, count in enumerate(counts) for n in range(count)]
    columns = {
        "path": Texts.of(names),
        "label": np.array([int(each.split("-")[0]) for each in names]),
        "hash": np.array([content_hash((hashes or {}).get(each, each).encode()) for each in names], dtype=np.uint64),
        "given": Words.of([(given or {}).get(each, "") for each in names], SPLIT_WORDS),
        "split": Words.of([""] * len(names), SPLIT_WORDS),
        "problem": Words.of(["image_empty" if each in problems else "" for each in names], [""]),
    }
    return Manifest(Path("x"), tuple(str(c) for c in range(len(counts))), columns)


def places(manifest):
    return dict(zip(manifest["path"].tolist(), manifest["split"].tolist(), strict=True))


def counts_of(manifest, label):
    return {part: int((manifest["label"][manifest.rows(part)] == label).sum()) for part in ("train", "val", "test")}


SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}


@pytest.mark.parametrize("counts", [(100, 100), (7, 13), (1000, 20, 33), (3, 50), tuple(range(3, 45))])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_is_within_one_sample_of_its_share(counts, seed):
    done = split(manifest_of(counts), seed=seed)
    for label, count in enumerate(counts):
        found = counts_of(done, label)
        assert sum(found.values()) == count
        for part, share in SHARES.items():
            assert abs(found[part] - share * count) <= 1


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.9, 0.1, 0.0), (0.34, 0.33, 0.33)])
def test_other_shares(shares):
    done = split(manifest_of((200, 77)), shares)
    for label, count in enumerate((200, 77)):
        for part, share in zip(SHARES, shares, strict=True):
            assert abs(counts_of(done, label)[part] - share * count) <= 1


def test_the_seed_decides():
    manifest = manifest_of((100, 100))
    assert places(split(manifest, seed=5)) == places(split(manifest, seed=5))
    assert places(split(manifest, seed=5)) != places(split(manifest, seed=6))


def test_where_a_file_lies_does_not_matter():
    """Renamed and reordered files keep their place: it hangs on their content."""
    manifest = manifest_of((60, 60))
    shuffled = np.random.default_rng(0).permutation(120)
    moved = Manifest(manifest.root, manifest.classes, {n: each[shuffled] for n, each in manifest.columns.items()})
    assert places(split(manifest)) == places(split(moved))


def test_added_pictures_hardly_move_the_others():
    before, after = places(split(manifest_of((400, 400)))), places(split(manifest_of((420, 400))))
    moved = [name for name, part in before.items() if after[name] != part]
    assert len(moved) <= 12  # a boundary moves by the share of what was added; 20 were added to 400
    assert all(name.startswith("0-") for name in moved)


def test_copies_stay_together():
    hashes = {f"0-{n}": f"content {n // 3}" for n in range(90)}
    done = places(split(manifest_of((90, 90), hashes)))
    for group in range(30):
        assert len({done[f"0-{3 * group + n}"] for n in range(3)}) == 1
    assert sorted(set(done.values())) == ["test", "train", "val"]


def test_copies_in_two_classes_stay_together_too():
    hashes = {f"1-{n}": f"0-{n}" for n in range(50)}
    done = places(split(manifest_of((50, 50), hashes)))
    assert all(done[f"0-{n}"] == done[f"1-{n}"] for n in range(50))


def test_the_official_test_set_is_kept():
    given = {f"{c}-{n}": "test" if n < 10 else "train" for c in range(2) for n in range(50)}
    done = split(manifest_of((50, 50), given=given))
    after = places(done)
    assert {name for name, part in after.items() if part == "test"} == {n for n, g in given.items() if g == "test"}
    for label in range(2):
        found = counts_of(done, label)
        assert found["test"] == 10 and abs(found["val"] - 40 * 0.15 / 0.85) <= 1


def test_a_copy_of_an_official_test_picture_neither_trains_nor_counts_twice():
    given = {f"{c}-{n}": "test" if n < 10 else "train" for c in range(2) for n in range(50)}
    done = split(manifest_of((50, 50), {"0-30": "0-3", "1-40": "0-4"}, given))
    after = places(done)
    assert after["0-30"] == after["1-40"] == NOWHERE
    assert len(done.rows("test")) == 20
    assert len(done.rows("train")) + len(done.rows("val")) == 78


def test_all_given_splits_are_kept():
    parts = ("train", "val", "test")
    given = {f"{c}-{n}": parts[n % 3] for c in range(2) for n in range(30)}
    assert places(split(manifest_of((30, 30), given=given))) == given


def test_only_train_given():
    given = {f"{c}-{n}": "train" for c in range(2) for n in range(40)}
    done = split(manifest_of((40, 40), given=given))
    assert [len(done.rows(part)) for part in ("train", "val", "test")] == [56, 12, 12]


def test_bad_pictures_take_no_place():
    bad = {f"0-{n}" for n in range(40)}
    done = split(manifest_of((100, 100), problems=bad))
    assert abs(counts_of(done, 0)["test"] - 9) <= 1
    assert "" not in done["split"].tolist()


@pytest.mark.parametrize("how", ["stratified", "random"])
def test_a_large_group_of_copies_empties_no_part(how):
    hashes = {f"0-{n}": "one content" for n in range(9)}
    for seed in range(20):
        done = split(manifest_of((17, 16), hashes), seed=seed, how=how)
        assert all(len(done.rows(part)) for part in ("train", "val", "test"))
        assert len({places(done)[name] for name in hashes}) == 1


def test_many_small_classes_leave_no_part_empty():
    done = split(manifest_of((3,) * 60))
    assert [len(done.rows(part)) for part in ("train", "val", "test")] == pytest.approx([126, 27, 27], abs=3)


def test_another_way_goes_by_another_column():
    groups = np.arange(200) // 4
    done = split(manifest_of((100, 100)), how="grouped", by="patient", values=groups)
    assert done.rule.by == "patient"
    assert split(done, how="random").rule.by == ""
    assert split(done, values=groups).rule.by == "patient"


def test_folds_of_data_with_their_own_validation_are_refused():
    given = {f"{c}-{n}": "val" if n < 10 else "train" for c in range(2) for n in range(50)}
    with pytest.raises(UsageError) as caught:
        split(manifest_of((50, 50), given=given), how="kfold")
    assert caught.value.code == "kfold_given"


def test_a_content_that_came_to_lie_in_two_parts_is_noticed():
    done = split(manifest_of((40, 40)))
    assert not divided(done)
    hashes = done["hash"].copy()
    hashes[done.rows("train")[0]] = hashes[done.rows("test")[0]]
    assert divided(done.with_column("hash", hashes))


def test_groups_stay_whole_and_shares_are_near():
    groups = np.arange(300) // 3
    done = split(manifest_of((150, 150)), how="grouped", values=groups)
    parts = np.array(done["split"].tolist())
    assert all(len(set(parts[groups == group])) == 1 for group in range(100))
    assert [abs((parts == name).mean() - share) <= 0.01 for name, share in SHARES.items()] == [True] * 3


def test_by_time_the_newest_are_held_out():
    when = np.random.default_rng(0).permutation(200)
    done = split(manifest_of((100, 100)), how="time", values=when)
    parts = np.array(done["split"].tolist())
    assert when[parts == "train"].max() < when[parts == "val"].min()
    assert when[parts == "val"].max() < when[parts == "test"].min()


def test_every_sample_validates_in_one_fold():
    manifest = manifest_of((50, 33), {f"0-{n}": "one content" for n in range(3)})
    seen = []
    for fold in range(5):
        done = split(manifest, how="kfold", folds=5, fold=fold)
        assert len(done.rows("test")) == 0
        assert abs(len(done.rows("val")) - 83 / 5) <= 3
        seen += done.rows("val").tolist()
    assert sorted(seen) == list(range(83))


def test_near_copies_stay_together():
    manifest = manifest_of((60, 60))
    cluster = np.full(120, -1, dtype=np.int32)
    cluster[[3, 70, 110]] = 0
    cluster[[5, 6]] = 1
    for seed in range(10):
        parts = split(manifest.with_column("cluster", cluster), seed=seed)["split"].tolist()
        assert len({parts[3], parts[70], parts[110]}) == len({parts[5], parts[6]}) == 1


@pytest.mark.parametrize("rule", [{"how": "grouped"}, {"how": "kfold", "fold": 5}, {"how": "at random"}])
def test_rules_that_are_none(rule):
    with pytest.raises(UsageError):
        split(manifest_of((50, 50)), **rule)


@pytest.mark.parametrize(
    "shares",
    [(0.7, 0.15, 0.2), (1.2, -0.1, -0.1), (0, 0.5, 0.5), (float("nan"), 0.5, 0.5), (float("inf"), 0, 0), (70, 15, 15)],
)
def test_shares_that_are_none(shares):
    with pytest.raises(UsageError) as caught:
        split(manifest_of((50, 50)), shares)
    assert caught.value.code == "bad_shares"


@pytest.mark.parametrize("counts", [(1, 1), (1, 2)])
def test_too_few_pictures_to_hold_any_out(counts):
    with pytest.raises(DataError) as caught:
        split(manifest_of(counts))
    assert caught.value.code == "empty_split"


def test_tiny_classes_beside_a_large_one():
    done = split(manifest_of((1, 2, 100)))
    assert counts_of(done, 0) == {"train": 1, "val": 0, "test": 0}
    assert counts_of(done, 1)["train"] >= 1
    assert sum(counts_of(done, 2).values()) == 100


def test_no_validation_wanted_is_refused():
    with pytest.raises(DataError) as caught:
        split(manifest_of((50, 50)), (0.8, 0.0, 0.2))
    assert caught.value.values["split"] == "val"


def test_shares_and_seed_hold_for_pictures_that_come_later(tmp_path):
    from PIL import Image

    from fromzero.data.folder import scan
    from fromzero.data.manifest import save
    from fromzero.preparing import prepare

    def add(first, last):
        for label in ("a", "b"):
            for number in range(first, last):
                (tmp_path / label).mkdir(exist_ok=True)
                Image.new("L", (12, 12), number * 2 + (label == "b")).save(tmp_path / label / f"{number}.png")

    add(0, 20)
    save(split(scan(tmp_path), (0.5, 0.25, 0.25), seed=4))
    add(20, 24)
    later = prepare(tmp_path)
    assert (later.rule.shares, later.rule.seed) == ((0.5, 0.25, 0.25), 4)
    assert [len(later.rows(part)) for part in ("train", "val", "test")] == [24, 12, 12]


def test_a_lone_train_folder_gives_all_three(tmp_path):
    from PIL import Image

    from fromzero.preparing import prepare

    for label in ("a", "b"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(20):
            Image.new("L", (12, 12), number * 2 + (label == "b")).save(tmp_path / "train" / label / f"{number}.png")
    made = prepare(tmp_path)
    assert [len(made.rows(part)) for part in ("train", "val", "test")] == [28, 6, 6]
