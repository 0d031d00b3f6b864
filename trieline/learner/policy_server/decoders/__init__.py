"""Models as an engine sees them: one forward over a packed step, whatever keeps the keys and values."""
