"""The engine on a GPU. It runs on any device of torch, so that a CPU can test it."""
