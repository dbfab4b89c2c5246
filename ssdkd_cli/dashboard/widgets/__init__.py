"""What the screens are made of: each file one widget that draws part of a `RunView`."""
