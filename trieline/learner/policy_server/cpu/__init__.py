"""The engine that samples on the CPU."""
