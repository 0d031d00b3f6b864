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
        "hooks": {"authToken": "t", "run": "cd x && API_KEY='a b' TOKENS=3 agent --set=a.token=t"},
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
        "hooks": {"authToken": WITHHELD, "run": "cd x && API_KEY=*** TOKENS=3 agent --set=a.token=***"},
        "key": "",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("can't reach http://ada:p%40w@host:80/v1?x=1 now", "can't reach http://***@host:80/v1?x=1 now"),
        ("tcp://10.0.0.1:7701 and mail ada@host", "tcp://10.0.0.1:7701 and mail ada@host"),
        ("wss://h/ws?api_key=abc&seed=2", "wss://h/ws?api_key=***&seed=2"),
        ("http://h/?max_tokens=5&access_token=t", "http://h/?max_tokens=5&access_token=***"),
        ("http://h/?maxTokens=5&accessToken=t#end", "http://h/?maxTokens=5&accessToken=***#end"),
        ("http://ada:p@w@host/v1", "http://***@host/v1"),
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
    assert shown_command(["vllm", "serve", "--api-key", "k", "k2", "--seed", "1"]) == [
        "vllm", "serve", "--api-key", WITHHELD, WITHHELD, "--seed", "1"
    ]  # fmt: skip
    assert shown_command(["docker", "run", "-e", "HF_TOKEN=t", "-e", "N=2", "x"]) == [
        "docker", "run", "-e", "HF_TOKEN=***", "-e", "N=2", "x"
    ]  # fmt: skip
    assert shown_command(["curl", "-H", "X-Api-Key: k", "note: cookie: c", "the key: 5"]) == [
        "curl", "-H", "X-Api-Key: ***", "note: cookie: ***", "the key: 5"
    ]  # fmt: skip
