"""Reports hold no people and no secrets."""

import pytest

from fromzero.machine import privacy
from fromzero.machine.privacy import private

HELD_BACK = [
    ('File "/home/wang/project/train.py", line 3', "wang"),
    ("C:\\Users\\Li Na\\x.py", "C:\\Users\\Li "),
    ("C:\\\\Users\\\\lina\\\\x.py", "lina"),
    ("/mnt/c/Users/zhang/a", "zhang"),
    ("login with hf_abcdefghijklmnop", "hf_abc"),
    ("ghp_0123456789abcdef0123", "ghp_0123"),
    ("OPENAI_API_KEY=sk-abc123def456", "abc123"),
    ("WANDB_API_KEY: 0a1b2c3d4e5f", "0a1b2c"),
    ('{"password": "hunter2secret"}', "hunter2"),
    ("Authorization: Bearer abcdef123456", "abcdef"),
    ("--index-url https://me:pass1234@mirror.example/whl", "pass1234"),
    ("https://token1234@mirror.example/whl", "token1234"),
    ("wang@gpu01:~/code$ python train.py", "gpu01"),
    ("mail wang.li@corp.example.com", "wang"),
]
KEPT = [
    "torch 2.14.1+cu130, driver 580.95.05, NVIDIA GeForce RTX 3090",
    "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    "tokenizers==0.20.1 installed; 100 tokens per second",
    'File "train.py", line 12, in <module>',
    "https://download.pytorch.org/whl/cu126",
]


@pytest.mark.parametrize(("text", "secret"), HELD_BACK)
def test_held_back(text, secret):
    assert secret not in private(text)


@pytest.mark.parametrize("text", KEPT)
def test_facts_are_kept(text):
    assert private(text) == text


def test_this_user_is_held_back(monkeypatch, tmp_path):
    home = tmp_path / "data1" / "xiaoming"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("USER", "xiaoming")
    privacy._self.cache_clear()
    try:
        assert private(f"open {home}/x failed for xiaoming, not xiaoming2") == "open ~/x failed for user, not xiaoming2"
    finally:
        privacy._self.cache_clear()
