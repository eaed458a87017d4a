"""Word vectors from the training texts themselves: which tokens stand near each other, brought to few dimensions.

A network that reads texts from scratch has to learn from a few thousand labels what its tokens mean. The texts tell
much of it without labels: here by the positive pointwise mutual information of tokens within a window, and its
truncated singular value decomposition (Levy, Goldberg and Dagan 2015), which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fromzero.errors import UsageError

WINDOW = 5  # tokens to each side; one at distance d counts 1 / d
SMOOTHING = 0.75  # power of a context's frequency: else rare tokens pass for telling (as in word2vec)


def fill(model: Any, texts: Sequence[np.ndarray]) -> None:
    """Give the embedding of `model` such vectors, as large as it was; tokens that occur in none of `texts` (ids, 1-D)
    keep theirs. Raises UsageError for a model without an embedding of tokens."""
    import torch

    table = _embedding(model)
    if table is None:
        raise UsageError("init_without_tokens", model=type(model).__name__)
    size, width = table.weight.shape
    found = word_vectors(texts, size, width)
    known: np.ndarray = np.abs(found).max(axis=1) > 0
    if table.padding_idx is not None:
        known[table.padding_idx] = False
    if not known.any():
        return
    scaled = torch.from_numpy(found[known] / found[known].std()).to(table.weight.dtype)
    with torch.no_grad():
        table.weight[torch.from_numpy(known)] = scaled * table.weight.std()


def word_vectors(texts: Sequence[np.ndarray], vocabulary: int, width: int) -> np.ndarray:
    """float64 (vocabulary, width); zeros for a token that stands beside no other."""
    from scipy.sparse import coo_matrix
    from sklearn.utils.extmath import randomized_svd

    shape = (vocabulary, vocabulary)
    counts = coo_matrix(shape).tocsr()
    for distance in range(1, WINDOW + 1):
        pairs = [(ids[:-distance], ids[distance:]) for ids in texts if len(ids) > distance]
        if pairs:
            left, right = (np.concatenate(each) for each in zip(*pairs, strict=True))
            counts += coo_matrix((np.full(len(left), 1 / distance), (left, right)), shape).tocsr()
    counts = counts + counts.T
    seen = np.asarray(counts.sum(axis=1)).ravel()
    if not seen.any():
        return np.zeros((vocabulary, width))
    contexts = seen**SMOOTHING / (seen**SMOOTHING).sum()
    near = counts.tocoo()
    information = np.log(near.data / (seen[near.row] * contexts[near.col]))
    kept = information > 0
    matrix = coo_matrix((information[kept], (near.row[kept], near.col[kept])), shape).tocsr()
    left, strength, _ = randomized_svd(matrix, min(width, vocabulary - 1), random_state=0)
    found = left * np.sqrt(strength)
    found[seen == 0] = 0  # the decomposition leaves dust there
    return np.pad(found, ((0, 0), (0, width - found.shape[1])))


def _embedding(model: Any) -> Any:
    """The module that looks tokens up, by transformers' name for it or by the project's own."""
    from torch import nn

    found = (
        model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else getattr(model, "embedding", None)
    )
    return found if isinstance(found, nn.Embedding) else None
