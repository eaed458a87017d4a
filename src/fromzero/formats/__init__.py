"""One file an export format, found by this folder; its name is the format's, with hyphens for underscores. Each has:

PACKAGES                                      the packages whose versions an artifact notes
TASKS                                         the tasks whose models it can hold
LIMITS                                        how far it may answer otherwise than the model: a row of exporting.LIMITS
write(module, how, labels, folder) -> str     writes the `models.deploy.Deployed` module into a folder, gives the name
                                              of the model's file. Raises FromzeroError("not_exportable") for a model
                                              that has no such form, with the reason
"""
