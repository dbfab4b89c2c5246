"""One file per command: parse, call the stages, print."""
