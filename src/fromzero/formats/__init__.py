"""One file an export format, found by this folder. Each has:

EXTRA                                         the optional dependencies it needs
write(module, how, labels, folder) -> str     writes the `models.deploy.Deployed` module into a folder, gives the file
                                              name; the artifact's `format` is the name of the Python file
"""
