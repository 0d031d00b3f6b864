"""`GET /v1/models` and `/v1/models/NAME`: the names under which a policy can be asked, in both forms."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def for_anthropic(headers: Mapping[str, str]) -> bool:
    """Does an Anthropic client ask? It says which version it speaks."""
    return any(name.lower() == "anthropic-version" for name in headers)


def openai_model(name: str, created: int) -> dict[str, Any]:
    """One; `created` in seconds since 1970."""
    return {"id": name, "object": "model", "created": created, "owned_by": "trieline"}


def openai_models(names: Sequence[str], created: int) -> dict[str, Any]:
    """All of them."""
    return {"object": "list", "data": [openai_model(name, created) for name in names]}


def anthropic_model(name: str, created: int) -> dict[str, Any]:
    """One; `created` in seconds since 1970."""
    since = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": since}


def anthropic_models(names: Sequence[str], created: int) -> dict[str, Any]:
    """All of them."""
    return {
        "data": [anthropic_model(name, created) for name in names],
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }
