"""Programs that try all kinds of models that a library has; they take minutes, and are run by hand."""
