"""A trained classifier behind an HTTP API and an upload page."""
