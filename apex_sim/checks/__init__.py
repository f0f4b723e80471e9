"""Regression checks: predictions of a suite of cases beside a stored baseline (docs/checks.md)."""
