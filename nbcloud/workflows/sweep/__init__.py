"""Many sets of parameters: who chooses them, who runs them, and the table of what they came to."""
