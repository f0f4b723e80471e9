"""Which expert on which GPU: balanced load per layer, little traffic between consecutive layers (MoETuner)."""
