"""Both ends of the trajectory link, actor (DEALER) to learner (ROUTER).

Delivery is at least once, with repeats removed: exactly once, over restarts of either end.
"""

from trieline.wire.tree_receiver import ActorStatus, TreeReceiver
from trieline.wire.tree_sender import Stopped, TreeSender

__all__ = ["ActorStatus", "Stopped", "TreeReceiver", "TreeSender"]
