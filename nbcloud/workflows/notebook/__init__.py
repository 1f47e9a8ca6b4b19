"""One notebook from a file: in a session of a cluster, by papermill; its file is whole at any moment."""
