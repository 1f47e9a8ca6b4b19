"""A cell as text: the names that it reads and writes, and its values as bytes."""
