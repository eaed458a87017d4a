"""Fashion-MNIST (70,000 grey pictures of clothes): the project's own network from scratch, on two CPU cores.

    fromzero data get fashion-mnist
    python examples/fashion_mnist.py

The official 10,000 test pictures are seen once, after the best epoch was chosen on a validation part of the rest.
Beside it, on the same pixels and the same split: a linear classifier (logistic regression), as the least to beat.
"""

import argparse
import time

import numpy as np
from sklearn.linear_model import LogisticRegression

import fromzero
from fromzero.preparing import prepare
from fromzero.terminal import Terminal

words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
words.add_argument("data", nargs="?", default="data/fashion-mnist")
words.add_argument("--output", default="runs/fashion-mnist")
words.add_argument("--epochs", type=int, default=16)
words.add_argument("--seed", type=int, default=0)
asked = words.parse_args()

started = time.monotonic()
run = fromzero.train(
    asked.data,
    model="cnn",
    output=asked.output,
    device="cpu",
    epochs=asked.epochs,
    batch=128,
    lr=4e-3,
    label_smoothing=0.05,
    ema=0.995,
    seed=asked.seed,
    console=Terminal(),
)
minutes = (time.monotonic() - started) / 60
found = fromzero.evaluate(run.path, "test")

manifest = prepare(asked.data)
from fromzero.tasks import image  # noqa: E402 - torch is loaded by now

samples = image.samples(manifest, run.preprocessing())
parts = {}
for part in ("train", "test"):
    inputs, truth = samples.batch([(row, 0) for row in samples.rows(part)])
    parts[part] = inputs.reshape(len(truth), -1).astype(np.float32) / 255, truth
linear = LogisticRegression(max_iter=100).fit(*parts["train"]).score(*parts["test"])

low, high = found.interval
print(
    f"cnn, {asked.epochs} epochs, seed {asked.seed}: {found.accuracy:.2%} ({low:.2%} to {high:.2%}), {minutes:.1f} min"
)
print(f"logistic regression on the pixels: {linear:.2%}")
