"""Files of rows - texts, dialogues, tables - as manifests: reading, rows by number, near copies of texts, scaling."""
