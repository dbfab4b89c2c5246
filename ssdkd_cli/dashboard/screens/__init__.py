"""Whole screens: the run, help, comparison, questions."""
