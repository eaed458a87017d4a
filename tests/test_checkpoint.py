"""A checkpoint is the previous one or the new one, whole, whatever happens while it is written."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from fromzero import checkpoint
from fromzero.engine import packed, unpack
from fromzero.errors import DiskError, RunError


def tensors(seed, size=1000):
    generator = torch.Generator().manual_seed(seed)
    return {"model": {"weight": torch.randn(size, generator=generator), "step": torch.tensor(seed)}}


def seen(folder):
    """Which of `tensors` lies there; an error if it is none of them to the bit."""
    loaded, state = checkpoint.load(folder)
    wanted = tensors(state["seed"], len(loaded["model"]["weight"]))
    assert all(torch.equal(each, wanted["model"][name]) for name, each in loaded["model"].items())
    return state["seed"]


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tmp_path / "run" / "last", tensors(1), {"seed": 1})
    return tmp_path / "run" / "last"


def test_what_was_saved_is_loaded(tmp_path):
    groups = {
        "model": {"中": torch.arange(6).reshape(2, 3), "half": torch.randn(4).bfloat16(), "one": torch.tensor(2.5)},
        "optimizer": {"0.step": torch.tensor(7.0)},
        "nothing": {},
    }
    checkpoint.save(tmp_path / "c", groups, {"step": 3, "history": [{"loss": 0.1}]})
    loaded, state = checkpoint.load(tmp_path / "c")
    assert {name: set(group) for name, group in loaded.items()} == {n: set(g) for n, g in groups.items()}
    for name, group in groups.items():
        for key, value in group.items():
            assert torch.equal(loaded[name][key], value) and loaded[name][key].dtype == value.dtype
    assert state["step"] == 3 and state["history"] == [{"loss": 0.1}]
    assert sorted(each.name for each in (tmp_path / "c").iterdir()) == [
        "model.safetensors",
        "nothing.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


def test_only_the_groups_asked_for(tmp_path):
    checkpoint.save(tmp_path / "c", {"model": {"a": torch.ones(1)}, "optimizer": {"b": torch.ones(1)}}, {})
    assert set(checkpoint.load(tmp_path / "c", "model")[0]) == {"model"}


def test_shared_and_strided_tensors(tmp_path):
    shared = torch.arange(12.0).reshape(3, 4)
    group = {"a": shared, "b": shared, "turned": shared.t(), "last": torch.randn(2, 3, 4, 4)}
    group["last"] = group["last"].contiguous(memory_format=torch.channels_last)
    checkpoint.save(tmp_path / "c", {"model": group}, {})
    loaded = checkpoint.load(tmp_path / "c")[0]["model"]
    assert all(torch.equal(loaded[name], value) for name, value in group.items())


def test_each_takes_the_place_of_the_last(folder):
    for seed in (2, 3):
        checkpoint.save(folder, tensors(seed), {"seed": seed})
        assert seen(folder) == seed
    assert [each.name for each in folder.parent.iterdir()] == ["last"]


def test_none_there(tmp_path):
    assert not checkpoint.exists(tmp_path / "last")
    with pytest.raises(RunError) as caught:
        checkpoint.load(tmp_path / "last")
    assert caught.value.code == "no_checkpoint"


# --- damage -------------------------------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, os.remove])
def test_damaged_weights_are_an_error(folder, damage):
    damage(folder / "model.safetensors")
    with pytest.raises(RunError) as caught:
        checkpoint.load(folder)
    assert caught.value.code == "checkpoint_damaged" and "model.safetensors" in caught.value.cause


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"step": 3}', '{"sha256": 1}', None])
def test_a_damaged_state_is_an_error_and_not_a_fresh_start(folder, content):
    if content is None:
        (folder / "state.json").unlink()
    else:
        (folder / "state.json").write_text(content)
    assert checkpoint.exists(folder)
    with pytest.raises(RunError) as caught:
        checkpoint.load(folder)
    assert caught.value.code == "checkpoint_damaged"


def test_a_group_that_is_not_there(folder):
    with pytest.raises(RunError):
        checkpoint.load(folder, "optimizer")


# --- a swap that was cut off --------------------------------------------------------------------------------------


def beside(folder, suffix):
    return folder.with_name(folder.name + suffix)


def make(folder, seed):
    checkpoint.save(folder, tensors(seed), {"seed": seed})


def test_cut_off_between_its_renames_the_new_one_is_used(folder):
    os.replace(folder, beside(folder, ".old"))
    make(beside(folder, ".new"), 2)
    assert checkpoint.exists(folder) and seen(folder) == 2
    make(folder, 3)
    assert seen(folder) == 3
    assert [each.name for each in folder.parent.iterdir()] == ["last"]


def test_where_the_new_one_is_incomplete_the_old_one_is_used(folder):
    os.replace(folder, beside(folder, ".old"))
    make(beside(folder, ".new"), 2)
    cut(beside(folder, ".new") / "model.safetensors")
    assert checkpoint.exists(folder) and seen(folder) == 1
    make(folder, 3)
    assert seen(folder) == 3
    assert [each.name for each in folder.parent.iterdir()] == ["last"]


def test_a_first_save_that_was_cut_off_left_nothing(tmp_path):
    folder = tmp_path / "last"
    beside(folder, ".new").mkdir()
    (beside(folder, ".new") / "model.safetensors").write_bytes(b"half")
    assert not checkpoint.exists(folder)
    make(folder, 1)
    assert seen(folder) == 1


def test_leftovers_do_not_come_before_what_is_in_place(folder):
    make(beside(folder, ".new"), 2)
    make(beside(folder, ".old"), 0)
    assert seen(folder) == 1
    make(folder, 3)
    assert [each.name for each in folder.parent.iterdir()] == ["last"]


def test_reading_disturbs_no_process_that_writes(folder):
    """`evaluate` may look at a run that is being trained: what the trainer is writing must stay."""
    beside(folder, ".new").mkdir()
    (beside(folder, ".new") / "model.safetensors").write_bytes(b"half")
    assert checkpoint.exists(folder) and seen(folder) == 1
    assert (beside(folder, ".new") / "model.safetensors").is_file()
    os.replace(folder, beside(folder, ".old"))
    shutil.rmtree(beside(folder, ".new"))
    make(beside(folder, ".new"), 2)
    assert seen(folder) == 2
    assert beside(folder, ".new").is_dir() and not folder.exists()


# --- killed, and out of space -------------------------------------------------------------------------------------

PREAMBLE = """
    import os, pathlib, resource, signal, sys, time
    import torch
    from fromzero import checkpoint
    from fromzero.errors import DiskError

    torch.set_num_threads(1)
    folder = pathlib.Path(sys.argv[1])

    def save(seed):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(1_000_000, generator=generator)
        checkpoint.save(folder, {"model": {"weight": weight, "step": torch.tensor(seed)}}, {"seed": seed})
"""


def run(code, folder):
    """A process of its own, for what a test cannot do to itself; the lines it printed."""
    program = textwrap.dedent(PREAMBLE) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_killed_at_any_moment(tmp_path):
    """Eight kills spread over saves of four megabytes that follow each other without a pause."""
    lines = run(
        """
        seed = 0
        for kill in range(8):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                while True:
                    seed += 1
                    save(seed)
                    os.write(writing, b"%d\\n" % seed)
            os.close(writing)
            said = os.read(reading, 100)
            time.sleep(0.006 * kill)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            while more := os.read(reading, 100):
                said += more
            os.close(reading)
            saved = int(said.split()[-1])
            loaded, state = checkpoint.load(folder)
            wanted = torch.randn(1_000_000, generator=torch.Generator().manual_seed(state["seed"]))
            print(saved, state["seed"], torch.equal(loaded["model"]["weight"], wanted))
            seed = state["seed"]
        """,
        tmp_path / "last",
    )
    assert len(lines) == 8
    for line in lines:
        saved, found, same = line.split()
        assert same == "True"
        assert int(found) in (int(saved), int(saved) + 1)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
@pytest.mark.parametrize("cut_swap", [False, True])
def test_a_full_disk_keeps_the_previous_one(folder, cut_swap):
    """A limit on the size of files stands for the full disk: the system's answer comes in the same place. Also when
    the only checkpoint still lies where a crash left it."""
    if cut_swap:
        os.replace(folder, beside(folder, ".old"))
    lines = run(
        """
        for limit in (0, 100, 50_000, 2_000_000, 3_999_999):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                save(2)
            except DiskError as error:
                os.write(1, f"{error.code} {checkpoint.load(folder)[1]['seed']}\\n".encode())
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        """,
        folder,
    )
    assert lines == ["disk 1"] * 5
    assert seen(folder) == 1
    assert [each.name for each in folder.parent.iterdir()] == ["last"]


def test_a_really_full_disk(tmp_path):
    """On a tiny file system of its own, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("may not mount")
    try:
        folder = disk / "last"
        checkpoint.save(folder, tensors(1, 400_000), {"seed": 1})
        with pytest.raises(DiskError) as caught:
            checkpoint.save(folder, tensors(2, 400_000), {"seed": 2})
        assert "0.00 GiB" in caught.value.cause
        assert seen(folder) == 1
        assert [each.name for each in disk.iterdir()] == ["last"]
        checkpoint.save(folder, tensors(3, 1000), {"seed": 3})
        assert seen(folder) == 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- optimizers ---------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, 1e-2),
    "sgd-momentum": lambda groups: torch.optim.SGD(groups, 1e-2, momentum=0.9),
    "sgd": lambda groups: torch.optim.SGD(groups, 1e-2),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, 1e-2),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, 1e-2),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, 1e-2),
}


def learner(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 36, 4))
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.dim() > 1]}, {"params": [p for p in parameters if p.dim() <= 1]}]
    return model, OPTIMIZERS[name](groups)


def learn(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(4, 1, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_packed_and_unpacked_an_optimizer_goes_on_to_the_same_bits(tmp_path, name):
    model, optimizer = learner(name)
    learn(model, optimizer, 3)
    groups = {"model": model.state_dict(), "optimizer": packed(optimizer, model)}
    checkpoint.save(tmp_path / "c", groups, {})
    learn(model, optimizer, 3, start=3)

    loaded, _ = checkpoint.load(tmp_path / "c")
    again, other = learner(name)
    again.load_state_dict(loaded["model"])
    unpack(other, again, loaded["optimizer"])
    learn(again, other, 3, start=3)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    one, two = packed(optimizer, model), packed(other, again)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) and one[key].dtype == two[key].dtype for key in one)


def test_an_optimizer_before_its_first_step(tmp_path):
    model, optimizer = learner("adamw")
    checkpoint.save(tmp_path / "c", {"optimizer": packed(optimizer, model)}, {})
    again, other = learner("adamw")
    unpack(other, again, checkpoint.load(tmp_path / "c")[0]["optimizer"])
    assert packed(other, again) == {}
