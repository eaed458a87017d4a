"""One file a model family, found by this folder. Each has:

PREFIX          what a model name of this family starts with ("torchvision:"), or "" for plain names
names()         every name it knows (may be empty for families that take a path)
takes(name)     whether it builds this name; cheap, imports nothing heavy where it can
task(name)      the file of `tasks/` that knows its batches and loss
build(name, classes, channels, size) -> torch.nn.Module    freshly initialised, logits of shape (N, classes)
normalisation(name) -> dict | None    mean, std, crop and size its published weights expect, None without any
"""
