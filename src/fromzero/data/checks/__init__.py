"""What is looked for in a data set, a module a kind of data: `findings(manifest, console)` of each."""
