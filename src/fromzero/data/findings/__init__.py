"""What becomes of findings: words, a page with the pictures, and cleaning that can be undone."""
