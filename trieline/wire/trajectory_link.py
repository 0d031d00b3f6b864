"""Both ends of the trajectory link, actor (DEALER) to learner (ROUTER).

Delivery is at least once, with repeats removed: exactly once, over restarts of either end.
"""

from trieline.wire.actor_register import ActorStatus
from trieline.wire.tree_receiver import TreeReceiver
from trieline.wire.tree_sender import Stopped, TreeSender

__all__ = ["ActorStatus", "Stopped", "TreeReceiver", "TreeSender"]
