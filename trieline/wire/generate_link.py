"""Both ends of the generate link, actor (DEALER) to policy server (ROUTER): one reply to each request."""

from trieline.wire.generate_server import GenerateServer
from trieline.wire.policy_client import PolicyClient, RefusedError

__all__ = ["GenerateServer", "PolicyClient", "RefusedError"]
