"""Trieline: reinforcement learning of language-model agents on tree-shaped trajectories.

Text lives in `envs`, tokens start in `actors`, tensors start in `learner`, and `kernels` knows
nothing but tensors.
"""

__version__ = "0.1.0"
