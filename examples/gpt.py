"""Moby-Dick (Herman Melville, 1851; 1.2 million characters): a small GPT from scratch, and what it writes.

    fromzero data get moby-dick
    python examples/gpt.py

Whole chapters are held out. A tokenizer is trained on the others. Beside the network, on the same tokens: a trigram
model, whose probabilities are mixed with those of pairs and single tokens (Jelinek and Mercer 1980), the weights of
the mixture chosen on the validation part.
"""

import argparse
import math
import time
from collections import Counter

import fromzero
from fromzero.preparing import prepare
from fromzero.tasks import lm
from fromzero.terminal import Terminal

words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
words.add_argument("data", nargs="?", default="data/moby-dick/moby-dick.csv")
words.add_argument("--output", default="runs/moby-dick")
words.add_argument("--epochs", type=int, default=20)
words.add_argument("--lr", type=float, default=2e-3)
words.add_argument("--seed", type=int, default=0)
asked = words.parse_args()

started = time.monotonic()
run = fromzero.train(
    asked.data,
    model="gpt",
    output=asked.output,
    device="cpu",
    epochs=asked.epochs,
    batch=16,
    lr=asked.lr,
    seq=128,
    dropout=0.2,
    seed=asked.seed,
    console=Terminal(),
)
minutes = (time.monotonic() - started) / 60
found = fromzero.evaluate(run.path, "test")

how = run.preprocessing()
samples = lm.samples(prepare(asked.data), how)
blocks = {
    part: samples.batch([(row, 0) for row in samples.rows(part)])[1].tolist() for part in ("train", "val", "test")
}


def grams(part, size):
    """The last `size` tokens up to each that the network has to tell."""
    for block in blocks[part]:
        yield from (tuple(block[max(0, at - size + 1) : at + 1]) for at in range(1, len(block)) if block[at] >= 0)


counts = Counter(gram for size in (1, 2, 3) for gram in grams("train", size))
counts[()] = sum(count for gram, count in counts.items() if len(gram) == 1)


def share(gram, weights):
    """The probability of a gram's last token after the others."""
    if not gram:
        return 1 / how.vocabulary
    known, shorter = counts[gram[:-1]], share(gram[1:], weights)
    weight = weights[len(gram) - 1]
    return weight * counts[gram] / known + (1 - weight) * shorter if known else shorter


def perplexity(part, weights):
    nats = [-math.log(share(gram, weights)) for gram in grams(part, 3)]
    return math.exp(sum(nats) / len(nats))


tried = [(0.99, pairs / 10, triples / 10) for pairs in range(3, 9) for triples in range(1, 7)]
weights = min(tried, key=lambda each: perplexity("val", each))
print(f"perplexity of the test chapters, {how.vocabulary} tokens")
print(f"trigrams (weights {weights})   {perplexity('test', weights):.1f}")
print(f"gpt, {asked.epochs} epochs, seed {asked.seed}   {found.perplexity:.1f} ({minutes:.1f} min)")
print("The whale" + fromzero.generate(run.path, "The whale", tokens=80, temperature=0.8, top_p=0.95, seed=asked.seed))
