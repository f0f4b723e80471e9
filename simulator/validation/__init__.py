"""Measured serving runs beside their simulation: reading them, replaying them, and the errors of the predictions."""
