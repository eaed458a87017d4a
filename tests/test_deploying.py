"""What `deploy` writes, judged by the systems' own checkers, and run as far as it runs here."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent import futures
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from fromzero import deployments
from fromzero.cli import main
from fromzero.deploying import Deployment, deploy, requirements
from fromzero.deployments import Service, Tensor, docker, kubernetes, ray, systemd, triton
from fromzero.errors import RunError, UnknownName, UsageError

PICTURES = Service(
    name="cats",
    model=Path("model.onnx"),
    model_bytes=45_000_000,
    labels=("小 狗", 'a "quoted" cat', "two\nlines"),
    input=Tensor("pixels", "uint8", (224, 224, 3)),
    output=Tensor("scores", "float32", (3,)),
    python="3.11",
    onnxruntime="1.31",
)
SERVICES = {
    "pictures": PICTURES,
    "card": dataclasses.replace(PICTURES, gpu=True, port=9000, replicas=3, image="registry.example/team/cats:2"),
    "texts": dataclasses.replace(PICTURES, input=Tensor("tokens", "int64", (128,))),
    "sequences": dataclasses.replace(PICTURES, input=Tensor("rows", "float32", (16, 9))),
}


@pytest.fixture(params=SERVICES.values(), ids=SERVICES)
def service(request):
    return request.param


def checked(name, *arguments, **more):
    """The exit status of a checker, installed beside this interpreter or on the machine, and all that it said."""
    beside = Path(sys.executable).parent / name
    command = [beside if beside.is_file() else name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **more)
    return done.returncode, done.stdout + done.stderr


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", deployments.known())
def test_every_target_keeps_the_contract(name, service):
    target = deployments.target(name)
    assert isinstance(target.PACKAGED, bool)
    written = target.files(service)
    assert written and written == target.files(service)
    for path, content in written.items():
        assert not Path(path).is_absolute() and ".." not in Path(path).parts
        assert isinstance(content, Path) or content.endswith("\n")
    commands = target.after(service)
    assert commands and all(each and "\n" not in each for each in commands)
    texts = "".join(each for each in written.values() if isinstance(each, str))
    assert service.name in texts + "".join(commands)
    said = texts + "".join(commands)
    assert name == "triton" or str(service.port) in said


def test_the_targets_are_the_files_of_the_folder():
    assert deployments.known() == ["docker", "kubernetes", "ray", "systemd", "triton"]


# --- docker -----------------------------------------------------------------------------------------------------------


def hadolint(text, folder):
    (folder / "Dockerfile").write_text(text)
    return checked("hadolint", folder / "Dockerfile")


def test_hadolint_finds_nothing(service, tmp_path):
    assert hadolint(docker.files(service)["Dockerfile"], tmp_path) == (0, "")


def test_hadolint_would_find_something(tmp_path):
    text = docker.files(PICTURES)["Dockerfile"]
    assert hadolint(text.replace("--no-cache-dir ", ""), tmp_path)[0] != 0
    assert hadolint(text.replace("EXPOSE 8000", "EXPOSE 8000 AND"), tmp_path)[0] != 0


def test_a_card_gets_the_other_onnx_runtime():
    assert "onnxruntime-gpu" not in docker.files(PICTURES)["Dockerfile"]
    text = docker.files(SERVICES["card"])["Dockerfile"]
    assert "pip uninstall --yes onnxruntime" in text and '"onnxruntime-gpu[cuda,cudnn]~=1.31.0"' in text
    assert "--gpus all" in docker.after(SERVICES["card"])[1]


# --- systemd ----------------------------------------------------------------------------------------------------------

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze on this machine")


def unit(service, folder, **changed):
    """The unit in a folder of the test's own instead of /opt, with a program where it expects one."""
    program = folder / "opt" / service.name / "venv/bin/fromzero"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = systemd.files(service)[f"{service.name}.service"].replace("/opt/fromzero", str(folder / "opt"))
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{service.name}.service"
    path.write_text(text)
    return path


@needs_systemd
def test_systemd_accepts_the_unit(service, tmp_path):
    assert checked("systemd-analyze", "verify", unit(service, tmp_path)) == (0, "")


@needs_systemd
def test_systemd_would_refuse_a_unit(tmp_path):
    status, said = checked("systemd-analyze", "verify", unit(PICTURES, tmp_path, Restart="Restarts"))
    assert "Restarts" in said, status


@needs_systemd
def test_the_unit_may_do_little(service, tmp_path):
    """systemd's own measure, from 10 (may do everything) to 0; most services of a distribution are above 9."""
    path = unit(service, tmp_path)
    status, said = checked("systemd-analyze", "security", "--offline=true", "--threshold=20", path)
    assert status == 0, said.splitlines()[-1]


def test_shellcheck_finds_nothing(service, tmp_path):
    (tmp_path / "install.sh").write_text(systemd.files(service)["install.sh"])
    assert checked("shellcheck", tmp_path / "install.sh") == (0, "")
    (tmp_path / "install.sh").write_text("#!/bin/sh\ncd $1\n")
    assert checked("shellcheck", tmp_path / "install.sh")[0] == 1


# --- kubernetes -------------------------------------------------------------------------------------------------------


def test_kubernetes_schemas_accept_the_manifest(service):
    documents = list(yaml.safe_load_all(kubernetes.files(service)["kubernetes.yaml"]))
    assert [each["kind"] for each in documents] == ["Service", "Deployment"]
    for each in documents:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    documents[1]["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(documents[1], kubernetes_validate.latest_version(), strict=True)


def test_the_manifest_fits_together(service):
    front, back = yaml.safe_load_all(kubernetes.files(service)["kubernetes.yaml"])
    pod = back["spec"]["template"]
    assert front["spec"]["selector"] == back["spec"]["selector"]["matchLabels"]
    assert front["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    assert container["image"] == service.tag and back["spec"]["replicas"] == service.replicas
    assert container["ports"][0] == {"name": "http", "containerPort": service.port}
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == service.gpu
    assert f"USER {pod['spec']['securityContext']['runAsUser']}\n" in docker.files(service)["Dockerfile"]


# --- triton -----------------------------------------------------------------------------------------------------------


def config_of(text):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_triton_reads_the_configuration(service):
    config = config_of(triton.files(service)["repository/cats/config.pbtxt"])
    assert (config.name, config.platform) == ("cats", "onnxruntime_onnx")
    assert config.max_batch_size > 1 and config.HasField("dynamic_batching")
    assert tuple(config.input[0].dims) == service.input.shape and tuple(config.output[0].dims) == (3,)
    assert config.instance_group[0].count == service.replicas
    assert triton.files(service)["repository/cats/labels.txt"].count("\n") == len(service.labels)


def test_triton_would_refuse_a_configuration():
    from google.protobuf import text_format

    with pytest.raises(text_format.ParseError):
        config_of(triton.files(PICTURES)["repository/cats/config.pbtxt"].replace("TYPE_UINT8", "TYPE_BYTE"))


def test_the_client_gets_its_answer(tiny_artifact, tiny_data, tmp_path):
    """Through Triton's own protocol, to a server of it that runs the repository's file with ONNX Runtime: what is not
    tried here is Triton's own program."""
    import grpc
    import numpy as np
    import onnxruntime
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    deploy(tiny_artifact, "triton", tmp_path / "out", name="tiny")
    repository = tmp_path / "out/repository/tiny"
    config = config_of((repository / "config.pbtxt").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(repository / "1/model.onnx"))
    (given,), (scores,) = session.get_inputs(), session.get_outputs()
    assert (config.input[0].name, tuple(config.input[0].dims)) == (given.name, tuple(given.shape[1:]))
    assert (config.output[0].name, config.output[0].dims[0]) == (scores.name, 3)

    class Infer(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelInfer(self, request, context):  # noqa: N802
            assert request.model_name == config.name
            (sent,) = request.inputs
            assert f"TYPE_{sent.datatype}" == "TYPE_UINT8" and list(sent.shape[1:]) == list(config.input[0].dims)
            batch = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(sent.shape)
            answer = session.run([scores.name], {sent.name: batch})[0]
            made = service_pb2.ModelInferResponse(model_name=request.model_name, raw_output_contents=[answer.tobytes()])
            made.outputs.add(name=scores.name, datatype="FP32", shape=answer.shape)
            return made

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Infer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = tmp_path / "out/client.py"
    client.write_text(client.read_text(encoding="utf-8").replace("localhost:8001", f"127.0.0.1:{port}"), "utf-8")
    picture = next((tiny_data / "猫").glob("*.png"))
    status, said = checked(sys.executable, client, picture, env={**os.environ, "PYTHONUTF8": "1"})
    server.stop(None)
    from fromzero.predicting import predict

    best = predict(tiny_artifact, [picture])[0][0]
    assert (status, said.strip()) == (0, f"{picture}: {best.label} {best.score:.1%}")


# --- ray --------------------------------------------------------------------------------------------------------------


def test_ray_application_and_configuration(service):
    written = ray.files(service)
    compile(written["application.py"], "application.py", "exec")
    config = yaml.safe_load(written["serve.yaml"])
    (application,) = config["applications"]
    assert application["import_path"] == "application:app"
    actor = application["deployments"][0]["ray_actor_options"]
    assert actor == {"num_cpus": 1, **({"num_gpus": 1} if service.gpu else {})}


def test_ray_reads_the_configuration(service):
    schema = pytest.importorskip("ray.serve.schema", reason="ray[serve] is not installed: half a gigabyte")
    schema.ServeDeploySchema.model_validate(yaml.safe_load(ray.files(service)["serve.yaml"]))


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tiny_artifact, tmp_path_factory):
    """The docker target with a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return deploy(tiny_artifact, "docker", tmp_path_factory.mktemp("deploy") / "图 像", name="tiny", port=port)


def test_the_folder_holds_what_its_dockerfile_copies(folder):
    assert isinstance(folder, Deployment) and folder.target == "docker"
    assert {"Dockerfile", ".dockerignore", "requirements.txt", "model/artifact.json", "model/model.onnx"} <= set(
        folder.files
    )
    kept = (folder.path / ".dockerignore").read_text().split()
    assert kept[0] == "*"
    for line in (folder.path / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            for pattern in line.split()[1:-1]:
                assert list(folder.path.glob(pattern)), pattern
                assert f"!{pattern}" in kept


def command_of(dockerfile, word):
    """The JSON list behind the last CMD, which may stand on a line of its own under HEALTHCHECK."""
    lines = [each.strip() for each in dockerfile.read_text().splitlines()]
    found = [each.removeprefix("CMD ") for each in lines if each.startswith("CMD [")]
    return json.loads(found[0] if word == "HEALTHCHECK" else found[-1])


def serves(folder, run, picture):
    """Start what the Dockerfile starts, ask what its HEALTHCHECK asks until it agrees, then classify a picture."""
    dockerfile = folder.path / "Dockerfile"
    start = [each.replace("/app", str(folder.path)) for each in command_of(dockerfile, "CMD")]
    assert start[0] == "fromzero" and start[-2] == "--port"
    server = run(start)
    try:
        health = [sys.executable, *command_of(dockerfile, "HEALTHCHECK")[1:]]
        deadline = time.monotonic() + 60
        while subprocess.run(health, capture_output=True).returncode:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + picture.read_bytes()
        request = urllib.request.Request(f"http://127.0.0.1:{start[-1]}/predict", body + b"\r\n--x--\r\n")
        request.add_header("content-type", "multipart/form-data; boundary=x")
        return json.load(urllib.request.urlopen(request, timeout=10))["predictions"]
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def answers(artifact, picture):
    from fromzero.predicting import predict

    return [each.label for each in predict(artifact, [picture])[0]]


def test_the_packed_wheel_is_what_runs_here(folder, tiny_artifact, tiny_data, tmp_path):
    """pip installs it without an index, and what it installed serves the artifact."""
    (wheel,) = folder.path.glob("*.whl")
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, wheel]
    assert checked(*pip)[0] == 0
    installed = {each.relative_to(target / "fromzero") for each in (target / "fromzero").rglob("*") if each.is_file()}
    import fromzero

    here = Path(fromzero.__file__).parent
    wanted = {each.relative_to(here) for each in here.rglob("*") if each.is_file() and each.suffix != ".pyc"}
    assert {each for each in installed if each.suffix != ".pyc"} == wanted
    environment = {**os.environ, "PYTHONPATH": str(target)}
    where = checked(sys.executable, "-P", "-c", "import fromzero; print(fromzero.__file__)", env=environment)
    assert str(target) in where[1]

    def run(start):
        return subprocess.Popen([sys.executable, "-P", "-m", *start], env=environment)

    picture = next((tiny_data / "猫").glob("*.png"))
    assert [each["label"] for each in serves(folder, run, picture)] == answers(tiny_artifact, picture)


@pytest.mark.slow
def test_the_dockerfiles_pip_line_in_a_fresh_environment(folder, tiny_artifact, tiny_data, tmp_path):
    """A container in all but the container: an empty virtual environment, the RUN line, the CMD line."""
    fresh = tmp_path / "venv"
    assert checked(sys.executable, "-m", "venv", fresh)[0] == 0
    pip = fresh / "bin" / "pip"
    if checked(pip, "download", "--quiet", "--no-deps", "--dest", tmp_path / "probe", "idna")[0]:
        pytest.skip("no package index in reach")
    (line,) = [
        each for each in (folder.path / "Dockerfile").read_text().splitlines() if each.startswith("RUN pip install")
    ]
    status, said = checked(pip, *line.split()[2:], cwd=folder.path)
    assert status == 0, said
    assert checked(pip, "check") == (0, "No broken requirements found.\n")

    def run(start):
        return subprocess.Popen([fresh / "bin" / start[0], *start[1:]], env={"PATH": "/usr/bin:/bin"})

    picture = next((tiny_data / "猫").glob("*.png"))
    assert [each["label"] for each in serves(folder, run, picture)] == answers(tiny_artifact, picture)


def test_requirements_are_whole_and_pinned():
    first, *pins = requirements("fromzero-1-py3-none-any.whl").splitlines()
    assert first == "./fromzero-1-py3-none-any.whl[serve]"
    names = [each.split("==")[0] for each in pins]
    assert names == sorted(set(names)) and all("==" in each for each in pins)
    assert {"starlette", "uvicorn", "onnxruntime", "numpy", "pillow", "anyio", "rich"} <= set(names)
    assert not {"torch", "timm", "fromzero"} & set(names)


# --- wrong use --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_deployed(tiny_run, tiny_artifact, tmp_path):
    with pytest.raises(UnknownName, match="docker") as error:
        deploy(tiny_artifact, "doker", tmp_path / "out")
    assert error.value.near == ["docker"]
    with pytest.raises(RunError, match="ONNX"):
        deploy(tiny_run.path, "docker", tmp_path / "out")
    with pytest.raises(UsageError, match="letters"):
        deploy(tiny_artifact, "docker", tmp_path / "out", name="Cats_1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="holds something"):
        deploy(tiny_artifact, "docker", tmp_path / "full")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_artifact, broken)
    (broken / "model.onnx").write_bytes(b"x")
    with pytest.raises(RunError, match="checksum"):
        deploy(broken, "docker", tmp_path / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["broken", "full"]
    assert (tmp_path / "full/mine.txt").read_text() == "kept"


def test_only_what_the_artifact_names_is_carried_away(tiny_artifact, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(tiny_artifact, mine)
    (mine / "explained").mkdir()
    (mine / "explained" / "patient.png").write_bytes(b"private")
    deploy(mine, "docker", tmp_path / "out")
    named = {"artifact.json", *json.loads((tiny_artifact / "artifact.json").read_text())["sha256"]}
    assert {
        each.relative_to(tmp_path / "out/model").as_posix() for each in (tmp_path / "out/model").rglob("*")
    } == named


def test_what_was_asked_for_is_in_the_files_or_refused(tiny_artifact, tmp_path):
    def text(to, name, **settings):
        return (deploy(tiny_artifact, to, tmp_path / name, name="tiny", **settings).path / name).read_text()

    assert '"--port", "9000", "--workers", "3"]' in text("docker", "Dockerfile", replicas=3, port=9000)
    assert "--workers" not in (deploy(tiny_artifact, "docker", tmp_path / "one").path / "Dockerfile").read_text()
    unit = text("systemd", "tiny.service", replicas=2, port=80)
    assert "--port 80 --workers 2\n" in unit and "\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n" in unit
    assert '"--port", "9000"]' in text("kubernetes", "kubernetes.yaml", port=9000)
    for to, settings, code in (
        ("triton", {"port": 9000}, "setting_unused"),
        ("systemd", {"image": "cats:1"}, "setting_unused"),
        ("docker", {"image": "bad image; rm"}, "not_an_image"),
    ):
        with pytest.raises(UsageError) as error:
            deploy(tiny_artifact, to, tmp_path / "none", **settings)
        assert error.value.code == code and not (tmp_path / "none").exists()


def test_the_command(tiny_artifact, tmp_path, capsys):
    words = ["deploy", str(tiny_artifact), "--to", "kubernetes", "-o", str(tmp_path / "k8s"), "--name", "tiny"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "kubectl apply" in said and str(tmp_path / "k8s") in said
    assert main([*words[:5], str(tmp_path / "again"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == ["kubernetes.yaml"] and told["target"] == "kubernetes"
    assert main([*words, "--gpu"]) == 2 and "folder_not_empty" in capsys.readouterr().err
    assert main([*words[:3], "nomad"]) == 2 and "unknown_target" in capsys.readouterr().err
