"""Fields without an effect and refused ones: each is in the docs, none in two tables."""

from pathlib import Path

import pytest

from trieline.actors.gateway.apis import anthropic_request, chat_request, responses_request
from trieline.actors.gateway.apis.fields import Refused

DOCS = (Path(__file__).parents[3] / "docs" / "gateway_clients.md").read_text()
TABLES: dict[str, tuple[dict[str, str], Refused]] = {
    "chat": (chat_request.WITHOUT_EFFECT, chat_request.REFUSED),
    "responses": (responses_request.WITHOUT_EFFECT, responses_request.REFUSED),
    "messages": (anthropic_request.WITHOUT_EFFECT, anthropic_request.REFUSED),
}


@pytest.mark.parametrize("api", TABLES)
def test_the_docs_name_every_field_that_is_not_read(api: str) -> None:
    without_effect, refused = TABLES[api]
    assert without_effect.keys().isdisjoint(refused.neutral)
    assert [name for name in (*without_effect, *refused.neutral) if f"`{name}`" not in DOCS] == []
    assert all(without_effect.values())
