"""Passwords, keys and tokens: withheld wherever they stand in settings, commands and addresses."""

import pytest

from trieline.common.credentials import WITHHELD, shown_command, without_credentials, without_secrets


def test_settings_keep_their_secrets_here() -> None:
    config = {
        "gateway": {"admin_key": "s3cret", "max_tokens": 5},
        "servers": [{"token": "t", "url": "https://ada:pw@host:1/v1"}],
        "engine": {
            "environment": {"HF_TOKEN": "t", "OMP_NUM_THREADS": "2", "EMPTY": ""},
            "arguments": ["--api-key", "k", "--port", "1", "--auth-token=k"],
            "urls": ("http://u@host",),
            "token_variable": "VLLM_API_KEY",
        },
        "kwargs": {"headers": {"Authorization": "Bearer t"}, "apiKey": "k", "db-password": "p", "n": 3},
        "key": "",
    }
    assert without_secrets(config) == {
        "gateway": {"admin_key": WITHHELD, "max_tokens": 5},
        "servers": [{"token": WITHHELD, "url": "https://***@host:1/v1"}],
        "engine": {
            "environment": {"HF_TOKEN": WITHHELD, "OMP_NUM_THREADS": WITHHELD, "EMPTY": ""},
            "arguments": ["--api-key", WITHHELD, "--port", "1", f"--auth-token={WITHHELD}"],
            "urls": ["http://***@host"],
            "token_variable": "VLLM_API_KEY",
        },
        "kwargs": {
            "headers": {"Authorization": WITHHELD},
            "apiKey": WITHHELD,
            "db-password": WITHHELD,
            "n": 3,
        },
        "key": "",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("can't reach http://ada:p%40w@host:80/v1?x=1 now", "can't reach http://***@host:80/v1?x=1 now"),
        ("tcp://10.0.0.1:7701 and mail ada@host", "tcp://10.0.0.1:7701 and mail ada@host"),
        ("wss://h/ws?api_key=abc&seed=2", "wss://h/ws?api_key=***&seed=2"),
        ("http://h/?max_tokens=5&access_token=t", "http://h/?max_tokens=5&access_token=***"),
        ("git@host:a/b", "git@host:a/b"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
    ],
)
def test_addresses_are_shown_without_credentials(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_commands_are_shown_without_keys() -> None:
    assert shown_command(["vllm", "--api-key", "k", "--seed", "1"]) == [
        "vllm", "--api-key", WITHHELD, "--seed", "1"
    ]  # fmt: skip
    assert shown_command(["run", "--token", "--verbose", "x"]) == ["run", "--token", "--verbose", "x"]
