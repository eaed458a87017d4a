"""Facts: tables with a source in every row, and one reader each.

cards.csv     NVIDIA cards: base figures; cards.py derives the rates and finds a card by its name
wheels.csv    PyTorch's wheels by CUDA variant: what is compiled in, what they need; read by wheels.py
failures.json error messages and what they really mean; read by failures.py
"""
