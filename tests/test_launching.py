"""Job files: what the queue's own readers make of them, and what they refuse."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fromzero import launching
from fromzero.cli import main
from fromzero.errors import UsageError
from fromzero.launching import FORMATS, STORE, Job
from fromzero.records import Recipe

WORDS = ("data/photos of cats", "--model", "resnet50", "--epochs", "3")
TWO = Job(
    words=WORDS, run="runs/cats", name="cats", nodes=2, cards=8, hours=1.5, partition="gpu", image="r/fz:1", claim="c"
)
ONE = Job(words=WORDS, run="runs/cats", name="cats", cards=4, image="r/fz:1", claim="c")


def bash(script: str, tmp_path: Path, **words: str) -> list[list[str]]:
    """What a script runs, in order, with programs that only write down how they were called."""
    called = tmp_path / "called"
    called.write_text("")
    for name in ("python", "srun", "scontrol", "hostname", "env"):
        (tmp_path / name).write_text(
            f'#!/bin/bash\nprintf "%s\\0" {name} "$@" >> {called}; echo >> {called}; echo host1\n'
        )
        (tmp_path / name).chmod(0o755)
    keys = {"PATH": f"{tmp_path}:/usr/bin:/bin", **words}
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=keys, check=True, capture_output=True, timeout=20)
    return [line.rstrip("\0").split("\0") for line in called.read_text().splitlines()]


def ran(calls: list[list[str]], *start: str) -> list[str]:
    return next(each for each in calls if tuple(each[: len(start)]) == start)


@pytest.mark.parametrize("name", ["torchrun", "slurm"])
@pytest.mark.parametrize("job", [ONE, TWO])
def test_bash_reads_the_scripts(name, job):
    assert subprocess.run(["bash", "-n"], input=FORMATS[name](job), text=True, check=True).returncode == 0


def test_bash_would_notice():
    assert subprocess.run(["bash", "-n"], input="if [ x ]; then", text=True, capture_output=True).returncode != 0


def test_slurm_asks_for_the_machines(tmp_path):
    script = FORMATS["slurm"](TWO)
    wishes = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2] for line in script.splitlines() if "SBATCH" in line
    )
    assert wishes["nodes"] == "2" and wishes["ntasks-per-node"] == "1" and wishes["gpus-per-node"] == "4"
    assert wishes["time"] == "01:30:00" and wishes["partition"] == "gpu" and "requeue" in wishes
    calls = bash(script, tmp_path, SLURM_JOB_NODELIST="host[1-2]")
    planned, started = ran(calls, "python"), ran(calls, "srun")
    assert planned[1:6] == ["-m", "fromzero", "train", *WORDS[:2]]  # the space in the folder's name is kept
    assert planned[-6:] == ["--cards", "8", "--nodes", "2", "--output", "runs/cats"]
    assert started[1:3] == ["env", f"{STORE}=1"] and "--rdzv-endpoint=host1:29500" in started
    assert "--nnodes=2" in started and "--nproc-per-node=4" in started
    assert started[-6:] == ["-m", "fromzero", "train", "--resume", "runs/cats"][-6:] or started[-1] == "runs/cats"


def test_the_same_file_continues_a_run(tmp_path):
    (tmp_path / "runs" / "cats").mkdir(parents=True)
    (tmp_path / "runs" / "cats" / "run.json").write_text("{}")
    again = bash(FORMATS["slurm"](TWO), tmp_path, SLURM_JOB_NODELIST="host[1-2]")
    assert not [each for each in again if each[0] == "python"] and ran(again, "srun")
    assert bash(FORMATS["slurm"](ONE), tmp_path) == [["python", "-m", "fromzero", "train", "--resume", "runs/cats"]]


def test_one_machine_needs_no_torchrun_of_its_own(tmp_path):
    """`fromzero train --cards 4` starts its processes itself."""
    (called,) = bash(FORMATS["slurm"](ONE), tmp_path)
    assert called[-6:] == ["--cards", "4", "--nodes", "1", "--output", "runs/cats"]
    assert "#SBATCH --signal=B:TERM@" in FORMATS["slurm"](ONE)  # to the script itself, which becomes the training


@pytest.mark.parametrize("host, plans", [("host1", True), ("elsewhere", False)])
def test_only_the_first_machine_plans(tmp_path, host, plans):
    if not plans:  # the others wait for it
        (tmp_path / "runs" / "cats").mkdir(parents=True)
        (tmp_path / "runs" / "cats" / "run.json").write_text("{}")
    calls = bash(FORMATS["torchrun"](TWO).replace("${1:-$(hostname)}", host), tmp_path)
    assert any(each[0] == "python" for each in calls) == plans
    assert f"--rdzv-endpoint={host}:29500" in ran(calls, "env")


def test_words_of_a_cpu_job():
    job = Job(words=("data", "--device", "cpu"), run="r", cards=2, image="i", claim="c")
    assert "--cpus-per-task=2" in FORMATS["slurm"](job) and "gpus" not in FORMATS["slurm"](job)
    assert "nvidia.com" not in FORMATS["kubernetes"](job)


def documents(job: Job) -> list[dict]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(FORMATS["kubernetes"](job)))


def test_kubernetes_has_a_pod_for_each_machine(tmp_path):
    service, job = documents(TWO)
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 2
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    # the pods find the first by the service's name: its selector is the label that a Job gives its pods
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": "cats"}
    assert pod["subdomain"] == service["metadata"]["name"] == job["metadata"]["name"]
    first = bash(container["command"][-1], tmp_path, JOB_COMPLETION_INDEX="0")
    assert ran(first, "python")[4] == WORDS[0]
    assert "--rdzv-endpoint=cats-0.cats:29500" in ran(first, "env")
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_kubernetes_schemas_accept_the_file():
    """The schemas of Kubernetes itself, where the package that carries them is installed."""
    schemas = pytest.importorskip("kubernetes_validate")
    for each in documents(TWO):
        schemas.validate(each, schemas.latest_version(), strict=True)
    broken = documents(TWO)[1]
    broken["spec"]["completion"] = 2
    with pytest.raises(schemas.ValidationError):
        schemas.validate(broken, schemas.latest_version(), strict=True)


def test_launch_writes_the_file(tmp_path, capsys):
    path = tmp_path / "job.sh"
    words = ["launch", "--to", "slurm", "--nodes", "2", "--cards", "4", "-o", str(path), "--", "train", "data/x"]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert "--nproc-per-node=2" in path.read_text()


@pytest.mark.parametrize(
    "words, code",
    [
        (["--to", "slurm", "--", "plan", "x"], "launch_train"),
        (["--to", "slurm"], "launch_train"),
        (["--to", "slurm", "--nodes", "2", "--cards", "3", "--", "train", "x"], "cards_over_nodes"),
        (["--to", "slurm", "--", "train", "x", "--cards", "2"], "launch_own_words"),
        (["--to", "slurm", "--", "train", "x", "--output=y"], "launch_own_words"),
        (["--to", "slurm", "--", "train", "x", "--bogus", "3"], "unknown_flag"),
        (["--to", "slurm", "--name", "a b", "--", "train", "x"], "not_a_job_name"),
        (["--to", "kubernetes", "--", "train", "x"], "image_and_claim"),
    ],
)
def test_what_launch_refuses(words, code, capsys):
    assert main(["launch", *words]) == 2
    assert f"fromzero: {code}:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, code",
    [
        ({"cards": 3, "nodes": 2}, "cards_over_nodes"),
        ({"cards": 1000}, "cards_missing"),
        ({"cards": 2, "ema": 0.99, "parallel": "fsdp"}, "not_together"),
        ({"cards": 2, "freeze": "gradual", "parallel": "fsdp"}, "not_together"),
        ({"cards": 2, "precision": "amp-fp16", "parallel": "pipeline"}, "not_together"),
        ({"cards": 2, "linear_probe": True, "parallel": "fsdp"}, "not_together"),
    ],
)
def test_what_cannot_be_started(words, code):
    with pytest.raises(UsageError) as error:
        launching.check(words, "cpu")
    assert error.value.code == code
    launching.check({"cards": 2, "ema": 0.99}, "cpu")


def test_only_a_process_of_its_own_starts_others(monkeypatch):
    assert launching.wanted(Recipe(cards=2)) and not launching.wanted(Recipe())
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launching.wanted(Recipe(cards=2))


def test_json_of_a_plan_names_the_machines(capsys):
    words = ["resnet18", "--card", "RTX 3090", "--batch", "8", "--cards", "4", "--samples", "1000", "--json"]
    assert main(["plan", *words]) == 0
    one = json.loads(capsys.readouterr().out)
    assert main(["plan", *words, "--nodes", "2"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert main(["plan", *words, "--nodes", "2", "--network", "100"]) == 0
    fast = json.loads(capsys.readouterr().out)
    assert two["recipe"]["nodes"] == 2 and "network" in {each["code"] for each in two["advice"]}
    assert one["time"]["step"] < fast["time"]["step"] < two["time"]["step"]
