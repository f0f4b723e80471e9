"""Which mix of GPU types serves a workload at least cost (Mélange, arXiv 2404.14527v3), on simulated throughputs."""
