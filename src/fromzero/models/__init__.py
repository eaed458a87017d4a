"""Models: `families/` knows where each kind comes from, `build` picks one, `cnn` is the project's own."""
