"""What duplicates do to the figure that a text classifier is judged by.

    python benchmarks/duplicates.py reviews.csv [--label COLUMN] [--text COLUMN] [--json]

takes a file of rows with texts and labels, and measures one model (TF-IDF of characters and pairs of characters, or of
words, and a linear classifier) three times on one quarter of the rows, five seeds each:

    naive       rows drawn by lot: copies of a training text are in the test part
    exact       a text and its exact copies on one side
    honest      and near copies too, as `fromzero data split` does; texts under two labels left out
    once        honest, and each text counted once

Nothing is fetched; the measured corpus is named in the documentation.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

SEEDS, SHARE = 5, 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--label")
    parser.add_argument("--text")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measured(options.file, options.label, options.text)
    if options.json:
        json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
        return 0
    print(f"{result['texts']} texts, {result['different']} different, {result['near']} in clusters of near copies,")
    print(f"{result['conflicting']} different texts under several labels")
    for name, each in result["accuracy"].items():
        print(f"{name:8} {each['mean']:.1%}  ({each['least']:.1%} to {each['most']:.1%} over {SEEDS} seeds)")
    return 0


def measured(file: Path, label: str | None = None, text: str | None = None) -> dict:
    from fromzero.data.checks.copies import groups
    from fromzero.data.opening import open_data
    from fromzero.data.rows import grams, near_texts
    from fromzero.data.rows.content import texts

    manifest = near_texts.mark(open_data(file, label=label, text=text))
    good = manifest.good()
    _, content = np.unique(manifest["hash"][good], return_inverse=True)
    cluster = manifest["cluster"][good]
    near = np.where(cluster >= 0, content.max() + 1 + cluster, content)
    labels = manifest["label"][good]
    several = [each for each in groups(content, np.arange(len(good))) if len(set(labels[each].tolist())) > 1]
    agreed = np.ones(len(good), bool)
    for each in several:
        agreed[each] = False
    features = grams.tfidf(texts(manifest), good)
    every = np.arange(len(good))
    once = np.sort(np.unique(content, return_index=True)[1])
    ways = {
        "naive": (every, every),
        "exact": (every, content),
        "honest": (every[agreed], near[agreed]),
        "once": (once[agreed[once]], near[once][agreed[once]]),
    }
    return {
        "texts": len(good),
        "different": int(content.max()) + 1,
        "near": len(np.unique(content[cluster >= 0])),
        "conflicting": len(several),
        "accuracy": {name: _accuracy(features[some], labels[some], units) for name, (some, units) in ways.items()},
    }


def _accuracy(features: object, labels: np.ndarray, units: np.ndarray) -> dict[str, float]:
    """Mean, least and most accuracy; rows of a unit are on one side."""
    from sklearn.svm import LinearSVC

    found = []
    for seed in range(SEEDS):
        different, place = np.unique(units, return_inverse=True)
        test = (np.random.default_rng(seed).random(len(different)) < SHARE)[place]
        model = LinearSVC(C=0.5).fit(features[~test], labels[~test])  # type: ignore[index]
        found.append(float((model.predict(features[test]) == labels[test]).mean()))  # type: ignore[index]
    return {"mean": float(np.mean(found)), "least": min(found), "most": max(found)}


if __name__ == "__main__":
    sys.exit(main())
