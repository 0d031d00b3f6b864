"""Games of several players as tables: PettingZoo's AEC interface, in text."""
