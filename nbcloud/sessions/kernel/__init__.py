"""In a session's process: an IPython kernel that binds what a cell needs and gathers what it left."""
