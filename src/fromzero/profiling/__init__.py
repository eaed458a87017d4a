"""Where a training step's time and memory go, on the run's own data.

profiles.py    profile(): the run -> Profile, and the files beside it; read this first
measuring.py   the run's own steps: their pace, their phases, what PyTorch's and Python's profilers see of them
events.py      a trace's events: operators, gaps, memory over time, stacks; no torch
judging.py     from those figures to the bottleneck
beside.py      operators: measured beside predicted
drawing.py     the flame graph and the pictures
nsight.py      the command lines that NVIDIA's profilers want
"""
