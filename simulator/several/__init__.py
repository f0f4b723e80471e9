"""Several models on one cluster: who is in memory, who runs when, and cascades from one to another."""
