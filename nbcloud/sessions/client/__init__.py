"""In a notebook or a shell: the link to a cluster, and sessions as one notebook sees them."""
