"""Kernel-runner: times a small set of kernels on the device at hand and turns the points into a hardware profile.

``backend`` says what a device must offer; ``numpy_backend`` and ``torch_backend`` offer it. ``suites`` lists shapes,
``measure`` times them, ``points`` keeps them, ``fits`` and ``profile`` turn them into a profile, ``runner`` does it all.
"""
