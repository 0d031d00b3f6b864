"""The wire: the trajectory tree, the messages, their codec, and every socket of Trieline."""
