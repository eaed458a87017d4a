"""Scripted machines: our own NVML library, compiled once a session, plays what a test writes down."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GTX_1080_TI = """
driver 535.183.01
gpu NVIDIA GeForce GTX 1080 Ti
cc 6.1
memory 11264
used 420
power 60000
limit 250000
default 250000
util 12
temp 51
sm 1480
mem 5505
throttle 0
width 16
widthmax 16
"""
TWO_CARDS = """
driver 580.95.05
gpu NVIDIA GeForce RTX 3090
cc 8.6
memory 24576
used 8000
power 340000
limit 350000
default 350000
util 97
temp 66
process 1 7000
width 16
widthmax 16
gpu NVIDIA GeForce RTX 4090
cc 8.9
memory 24564
used 300
power 30000
limit 450000
default 450000
util 0
temp 40
width 16
widthmax 16
"""
# WSL's driver leaves out much: power limits, clocks, the memory of a process.
WSL = """
driver 581.15
gpu NVIDIA GeForce RTX 4070
cc 8.9
memory 12282
used 1500
temp 45
process 1 0
"""
THROTTLING = """
driver 580.95.05
gpu NVIDIA GeForce RTX 3060
cc 8.6
memory 12288
used 9000
power 119000
limit 120000
default 170000
util 100
temp 88
sm 1200
throttle 0x24
width 8
widthmax 16
"""
MISMATCH = "driver 580.95.05\ninit 18\n"
NO_DRIVER = "init 9\n"


@pytest.fixture(scope="session")
def nvml_folder(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("stub")
    source = Path(__file__).with_name("nvml_stub.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


@pytest.fixture
def play(nvml_folder, tmp_path):
    """play(script, words of fromzero) or play(script, code=...): what a fresh process prints on that machine."""

    def run(script, *words, code=None, **environment):
        (tmp_path / "machine.txt").write_text(script)
        surroundings = {
            **os.environ,
            "LD_LIBRARY_PATH": str(nvml_folder),
            "NVML_SCRIPT": str(tmp_path / "machine.txt"),
            "FROMZERO_STATE": str(tmp_path / "state"),
            "FROMZERO_LANG": "en",
            **environment,
        }
        arguments = ["-c", code] if code else ["-m", "fromzero", *words]
        return subprocess.run([sys.executable, *arguments], env=surroundings, capture_output=True, text=True)

    return run


@pytest.fixture
def machines():
    return {
        "GTX_1080_TI": GTX_1080_TI,
        "TWO_CARDS": TWO_CARDS,
        "WSL": WSL,
        "THROTTLING": THROTTLING,
        "MISMATCH": MISMATCH,
        "NO_DRIVER": NO_DRIVER,
    }
