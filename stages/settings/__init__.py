"""Settings: from presets and overrides to values that are checked, and what is said of them."""
