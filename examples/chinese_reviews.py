"""Chinese reviews of books, hotels and computers (17,358 without their copies): a small network from scratch.

    fromzero data get chinese-reviews
    fromzero data clean data/chinese-reviews/chinese-reviews.csv --apply
    python examples/chinese_reviews.py

Half of the set are copies, which the cleaned file is without: else the test part would be learnt by heart. A tokenizer
and vectors of its tokens are made from the training part, without its labels. The test part is seen once, after the
best epoch was chosen on a validation part. Beside it, on the same training texts: one to three characters by TF-IDF
with a linear classifier.
"""

import argparse
import time

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

import fromzero
from fromzero.data.rows.content import texts
from fromzero.preparing import prepare
from fromzero.terminal import Terminal

words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
words.add_argument("data", nargs="?", default="data/chinese-reviews/chinese-reviews.cleaned.csv")
words.add_argument("--output", default="runs/chinese-reviews")
words.add_argument("--model", default="rnn-wide", help="rnn-wide, rnn, rnn-gru, rnn-plain or transformer")
words.add_argument("--epochs", type=int, default=5)
words.add_argument("--lr", type=float, default=2e-3)
words.add_argument("--dropout", type=float, default=0.5)
words.add_argument("--seed", type=int, default=0)
asked = words.parse_args()

started = time.monotonic()
run = fromzero.train(
    asked.data,
    model=asked.model,
    output=asked.output,
    device="cpu",
    epochs=asked.epochs,
    batch=64,
    lr=asked.lr,
    dropout=asked.dropout,
    label_smoothing=0.1,
    ema=0.99,
    seq=160,
    init="cooccurrence",
    augmentation="erase",
    seed=asked.seed,
    console=Terminal(),
)
minutes = (time.monotonic() - started) / 60
found = fromzero.evaluate(run.path, "test")

manifest = prepare(asked.data)
train, test = (
    (texts(manifest, rows).to_pylist(), manifest["label"][rows]) for rows in map(manifest.rows, ("train", "test"))
)
print("accuracy on the test part")
for name, linear in (("logistic regression", LogisticRegression(C=10, max_iter=1000)), ("linear SVM", LinearSVC())):
    pipeline = make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True), linear)
    print(f"TF-IDF + {name}: {pipeline.fit(*train).score(*test):.2%}")
low, high = found.interval
how = f"{asked.model}, {asked.epochs} epochs, seed {asked.seed}"
print(f"{how}: {found.accuracy:.2%} ({low:.2%} to {high:.2%}), {minutes:.1f} min")
