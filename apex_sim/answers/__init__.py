"""What the planners' functions return: frames, figures and reports of an answer."""
