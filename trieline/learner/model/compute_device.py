"""What a program computes on."""

import torch

from trieline.learner.errors import LearnerError


def choose_device(name: str, *, setting: str = "learner.device") -> torch.device:
    """The device that `name` (`auto`, `cpu` or `cuda`), the value of `setting`, stands for on this machine.

    Raises:
        LearnerError: there is no GPU, and one is asked for by name.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        msg = f"expected a GPU for {setting} = 'cuda', torch {torch.__version__} finds none"
        raise LearnerError(msg)
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
