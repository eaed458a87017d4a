"""Data: from a folder of pictures to batches. sources -> manifest -> check, split -> load; images decodes."""
