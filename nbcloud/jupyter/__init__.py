"""What a notebook shows and types: magics, outputs, completion."""
