"""The one road: a cell's text becomes a run on a cluster, with a record that outlives both."""
