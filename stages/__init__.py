"""What a distillation run does: from a preset and a teacher to a student. Knows torch, never a terminal."""
