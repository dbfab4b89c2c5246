"""What the screens are made of: panels that draw part of a `RunView`, and the lines that name views and keys."""
