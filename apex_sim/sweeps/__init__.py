"""Many simulations of one file: a design over settings, run in parallel, recorded so that nothing is lost."""
