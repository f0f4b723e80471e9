"""Every step of a run, kept on demand, and its Chrome trace."""
