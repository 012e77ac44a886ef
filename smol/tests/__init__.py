"""What a notebook is no place for: every claim of the package, as a test that can fail."""
