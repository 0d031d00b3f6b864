"""Trees become tries and packs: numpy, no torch."""
