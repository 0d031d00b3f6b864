"""What real clients sent, other people's texts left out: `client`, `path`, `headers` and `body` of each."""

import json
from pathlib import Path
from typing import Any

BODIES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "bodies").glob("*.json")
}
