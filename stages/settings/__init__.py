"""From presets and overrides to values, the schemas these are held against, and what is said of their keys."""
