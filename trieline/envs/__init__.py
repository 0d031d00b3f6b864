"""Environments: programs with which an agent talks in text. Nothing here knows of tokens.

Importing this registers ours with Gymnasium, as `trieline/<Name>-v<N>`, without importing them.
"""

from trieline.envs.registry import list_environments, make_env, register_own

__all__ = ["list_environments", "make_env"]

register_own()
