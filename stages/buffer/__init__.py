"""The replay buffer between inversion and distillation: its images, priorities, statistics and file."""
