"""Why a classifier gave its answer: what of a picture, a text or a row of a table speaks for a class.

hiding.py     parts are hidden, and the class's probability drops    any Classifier, an exported one too; no torch
gradients.py  Grad-CAM, integrated gradients                         a run
telling.py    explain(): chooses, and draws                          both
"""

from fromzero.explaining.hiding import hidden_columns, hidden_words, occlusion, scaled

__all__ = ["hidden_columns", "hidden_words", "occlusion", "scaled"]
