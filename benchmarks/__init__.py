"""Side-by-side comparisons with peers; see README.md."""
