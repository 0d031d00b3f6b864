"""The processes that run math-verify."""

from typing import ClassVar

from trieline.envs.helper_process import HelperPool, NoReply


class GradingPool(HelperPool):
    """Compares answers by value."""

    module: ClassVar[str] = "trieline.envs.math.grading_worker"

    def verify(self, gold: str, answer: str) -> str:
        """`equal`, `different`, `error` or `timeout`. Raises GraderError if no worker can be had."""
        try:
            line = self.ask([gold, answer])
        except NoReply as reason:
            return str(reason)
        return line if line in ("equal", "different") else "error"
