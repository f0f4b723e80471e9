"""What must be served: models and request traces."""
