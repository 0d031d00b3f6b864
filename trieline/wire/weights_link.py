"""Both ends of the weights link, learner (ROUTER) to policy servers (DEALER).

A policy server always serves one whole version, the newest that it has completely.
"""

from trieline.wire.weights_publisher import WeightsPublisher
from trieline.wire.weights_subscriber import WeightsSubscriber

__all__ = ["WeightsPublisher", "WeightsSubscriber"]
