"""What to do about it: planners that ask the simulator."""
