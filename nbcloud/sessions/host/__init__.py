"""In a worker: sessions, each a kernel process, and the numbers of what their runs say."""
