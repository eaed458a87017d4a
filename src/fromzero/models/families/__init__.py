"""One file a model family, found by this folder. Each has:

PREFIX          what a model name of this family starts with ("torchvision:"), or "" for plain names
names()         every name it knows (may be empty for families that take a path)
takes(name)     whether it builds this name; cheap, imports nothing heavy where it can
task(name)      the file of `tasks/` that knows its batches and loss
build(name, classes, channels, size) -> torch.nn.Module    freshly initialised, logits of shape (N, classes); families
                of texts and tables also take `vocabulary` and `categories`, see Workload, and `channels` is the
                length of a text or the count of a table's numbers
normalisation(name) -> dict | None    mean, std, crop and size its published weights expect, None without any
"""
