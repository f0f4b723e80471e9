"""Case studies: published figures of serving systems beside what the simulator says of the same set-up."""
