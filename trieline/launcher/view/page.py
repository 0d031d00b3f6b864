"""The page: one HTML file with its style, its program and its data, which asks nothing of any network.

Trees are written by models and sandboxes, so what they say is data at every step. In the file it is packed
(`shown_tree`), or JSON in which no `<` stands; the program writes it into the page as text and never as
markup; and the page's policy lets the browser run the one program whose hash it names, and load nothing.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from trieline.common.errors import about_file
from trieline.common.folders import whole_file
from trieline.common.text import visible
from trieline.config import Config
from trieline.launcher.recording import Recording
from trieline.launcher.token_texts import TokenTexts
from trieline.launcher.view.credit import Creditor
from trieline.launcher.view.selection import Chosen, Selection
from trieline.launcher.view.shown_tree import Fields, shown_tree

PROGRAM = ("scales.js", "data.js", "tasks.js", "drawing.js", "transcript.js", "page.js")
"""In the order in which one needs the other."""
# What could end the element that holds the data, or what JavaScript once took for a line's end.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def write_page(recording: Recording, selection: Selection, path: Path, *, model: str | None = None) -> Chosen:
    """Write the page of a recording at `path`, whole or not at all. Returns what was shown of it.

    Raises:
        ConfigError: nothing was asked for that is there.
        JournalError: a tree can't be read.
        ModelFolderError: `model` has no tokenizer.
        OSError: it can't be written.
    """
    chosen = Chosen(recording=recording, selection=selection)
    texts = recording.token_texts(model)
    creditor = creditor_of(config := recording.config())
    trees = [shown_tree(d, number, texts=texts, creditor=creditor) for number, d in chosen]
    facts = page_facts(recording, config, texts, creditor) | {"left_out": chosen.note()}
    with about_file(path), whole_file(path) as scratch:
        scratch.write_text(page(facts, trees), encoding="utf-8")
    return chosen


def creditor_of(config: Config | None) -> Creditor:
    """That of a run's objective."""
    return Creditor(config.learner.objective if config else None)


def page_facts(
    recording: Recording, config: Config | None, texts: TokenTexts | None, creditor: Creditor
) -> Fields:
    """What the page says of the recording as a whole."""
    where = recording.run_dir or recording.path
    return {
        "title": visible(where.resolve().name),
        "run": visible(config.run.name) if config else "",
        "model": visible(config.model.path) if config else "",
        "has_text": texts is not None,
        "advantage": creditor.note,
        "left_out": "",
        "live": False,
    }


def page(facts: Fields, trees: Iterable[Fields]) -> str:
    """The whole file."""
    style, program = _part("page.css"), "\n".join(_part(name) for name in PROGRAM)
    parts = {
        "POLICY": _policy([style], [program], live=facts["live"]),
        "TITLE": html.escape(facts["title"]),
        "STYLE": style,
        "DATA": safe_json({**facts, "trees": list(trees)}),
        "PROGRAM": program,
    }
    before, *rest = _part("page.html").split("%%")
    # Names and what stands between them, in turn: what was put in is not looked at again.
    return before + "".join(parts[text] if n % 2 == 0 else text for n, text in enumerate(rest))


def safe_json(value: Any) -> str:
    """JSON that ends no element of HTML, whatever the texts in it."""
    return msgspec.json.encode(value).decode("utf-8").translate(_ESCAPES)


@cache
def _part(name: str) -> str:
    return (files("trieline.launcher.view") / name).read_text("utf-8")


def _policy(styles: Sequence[str], programs: Sequence[str], *, live: bool) -> str:
    """What the page may do: run and use these texts, and where it is served ask its own server."""
    allowed = {
        "default-src": "'none'",
        "script-src": _hashes(programs),
        "style-src": _hashes(styles),
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{what} {where}" for what, where in allowed.items())


def _hashes(texts: Sequence[str]) -> str:
    digests = (hashlib.sha256(text.encode("utf-8")).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)
