"""The benchmark of clients, with those that are installed with the tests."""

import asyncio
import os
from pathlib import Path

import pytest

from benchmarks.gateway_clients import folder_of, is_installed, play
from benchmarks.gateway_harnesses import APART, CLIENTS, HERE

INSTALLED = os.environ.get("TRIELINE_CLIENTS", "")
"""Where `make test` has put clients."""


@pytest.mark.parametrize("name", HERE)
def test_a_session_of_a_real_client_is_one_tree_with_all_that_was_sampled(name: str) -> None:
    pytest.importorskip(CLIENTS[name].pip[0])
    report = asyncio.run(play(CLIENTS[name], None))
    assert report["finished"], report
    assert report["each_once"]
    assert (report["requests"], report["sequences"], report["branches"]) == (3, 1, {})
    assert report["sampled_in_tree"] == report["sampled_by_policy"] > 0
    assert report["tokens_in_tree"] == report["every_sequence_a_row"] < report["every_turn_a_row"]


@pytest.mark.parametrize("name", APART)
def test_a_harness_as_it_is_plays_one_tree_with_all_that_was_sampled(name: str) -> None:
    client = CLIENTS[name]
    folder = folder_of(client, Path(INSTALLED))
    if not INSTALLED or not is_installed(client, folder):
        pytest.skip(f"TRIELINE_CLIENTS has no {name}")
    report = asyncio.run(play(client, folder))
    assert report["finished"], report
    assert report["each_once"]
    assert report["sessions"] == 1
    assert report["sampled_in_tree"] == report["sampled_by_policy"] > 0
    assert report["tokens_in_tree"] <= report["every_sequence_a_row"] < report["every_turn_a_row"]
