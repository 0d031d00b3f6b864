"""What a policy server asks a cluster for."""

from typing import Any

import pytest

from trieline.launcher.server_gpus import gpus_of_server
from trieline.learner.policy_server.config import EngineConfig, PolicyServerConfig


@pytest.mark.parametrize(
    ("settings", "there", "servers", "expected"),
    [
        ({}, 0, 1, 0),
        ({}, 4, 2, 1),
        ({}, 1, 2, 0.5),
        ({}, 1, 3, 0.3333),
        ({"device": "cpu"}, 4, 1, 0),
        ({"device": "cuda"}, 0, 1, 1),
        ({"backend": "vllm"}, 0, 1, 0),
        ({"backend": "vllm"}, 1, 2, 1),
        ({"backend": "vllm", "arguments": ["--tensor-parallel-size", "2", "--seed", "7"]}, 4, 1, 2),
        ({"backend": "vllm", "arguments": ["--tensor-parallel-size=2", "-pp", "3"]}, 8, 1, 6),
        ({"backend": "vllm", "arguments": ["--tensor-parallel-size", "many"]}, 8, 1, 1),
        ({"backend": "sglang", "arguments": ["--tp", "4"]}, 8, 1, 4),
        ({"backend": "sglang", "command": ["run", "--dp", "2"], "arguments": ["--tp=4"]}, 8, 1, 8),
        (
            {"backend": "vllm", "command": ["vllm", "-tp", "2"], "arguments": ["-dp", "3", "-tp", "1"]},
            8,
            1,
            3,
        ),
        ({"backend": "vllm", "urls": ("http://127.0.0.1:8000",)}, 4, 1, 0),
    ],
)
def test_a_server_gets_the_gpus_that_it_uses(
    settings: dict[str, Any], there: int, servers: int, expected: float
) -> None:
    engine = EngineConfig(
        command=settings.pop("command", []),
        arguments=settings.pop("arguments", []),
        urls=settings.pop("urls", ()),
    )
    server = PolicyServerConfig(engine=engine, **settings)
    assert gpus_of_server(server, there=there, servers=servers) == expected
