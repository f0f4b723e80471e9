"""Where tokens go in the layers of a mixture of experts: recorded or generated routing under a placement of the experts."""
