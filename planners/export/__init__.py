"""A plan as what starts it: servers, their commands, manifests, a benchmark, and the check that reads all of it back."""
