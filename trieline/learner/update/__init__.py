"""One gradient and one update."""
