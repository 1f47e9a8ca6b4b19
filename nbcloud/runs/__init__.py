"""Records of runs: what a run is, how its outputs are composed, and the store that keeps them."""
