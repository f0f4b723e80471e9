"""A small continuous-batching engine that really runs: the simulator's batching policy, books and tables of results around
PyTorch kernels, random weights and a wall clock."""
