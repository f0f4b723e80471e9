"""Results of benchmark tools: one reader per format, each with what the tool means by its metrics (docs/checks.md)."""
