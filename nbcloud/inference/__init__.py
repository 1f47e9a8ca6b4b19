"""Models that answer: in this process, on a device, behind a network address."""
