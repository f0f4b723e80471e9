"""Kernel-runner: times a small set of kernels on the device at hand and turns the points into a hardware profile."""
