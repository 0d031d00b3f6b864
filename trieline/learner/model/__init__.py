"""The model on tries: forward, depth-first, values, what it can't do."""
