"""On the scheduler: who is connected, which sessions and runs there are, and all that runs have said."""
