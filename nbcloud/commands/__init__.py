"""What can be typed, as ``%cloud VERB`` in a notebook and as ``nbcloud VERB`` in a shell."""
