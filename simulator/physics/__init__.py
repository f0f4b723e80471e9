"""Physics: seconds and joules of a batch; pure functions, no requests, no clock."""
