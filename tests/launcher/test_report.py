"""`report.md` says what the run folder holds, and no more."""

import html
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from trieline.common.errors import in_one_line
from trieline.common.text import visible
from trieline.config import load_config
from trieline.launcher.report import CAPTION, PICTURE, _markdown, write_report
from trieline.launcher.run_folder import RunFolder


def evaluation(success: float) -> dict[str, object]:
    def env(env_id: str, *, held_out: bool) -> dict[str, object]:
        return {
            "env_id": env_id,
            "episodes": 100,
            "held_out": held_out,
            "mean_return": success,
            "transcripts": [],
        }

    envs = [env("trieline/GuessNumber-v0", held_out=True), env("me/Echo-v0", held_out=False)]
    return {"temperature": 1.0, "envs": envs}


def test_a_report_names_what_is_not_held_out_and_stands_figures_that_are_not_finite(tmp_path: Path) -> None:
    folder = RunFolder.create(load_config(["tiny"], [f"run.folder={tmp_path}"]))
    step = {"step": 1, "time/step": 2.0, "tokens/sampled": 10, "reward/mean": 0.5}
    records = [step, step | {"step": 2, "reward/mean": None, "reward/trieline/GuessNumber-v0/mean": None}]
    folder.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    folder.evaluations.mkdir()
    for number, success in ((0, 0.25), (2, 0.75)):
        (folder.evaluations / f"step_{number}.json").write_text(json.dumps(evaluation(success)))
    write_report(folder)
    report = folder.report.read_text()
    assert "never trained on, but for me/Echo-v0, which has no held-out tasks; sampled" in report
    assert "| trieline/GuessNumber-v0 | 100 | 0.25 | 0.75 | +0.50 |" in report


HOSTILE = (
    "<script>alert(1)</script> <b>bold</b> *stars* _lines_ `code` ~~no~~ $x$ | cell \\ [a](http://b) "
    "![i](https://t/p.png) https://evil.example www.evil.example &amp; @me #1\x1b[2J\u202e\ud800\n"
    "# heading\n- item\n1. first\n===\n    <img src=x>\n> quote\n| a | b |\n|---|---|\n```\nfence\n"
    "<!-- details -->"
)


def hostile_evaluation() -> dict[str, object]:
    messages = [{"role": role, "content": HOSTILE} for role in ("system", "user", "assistant", "user")]
    transcript = {"messages": messages, "episode_return": 0.5}
    env = {
        "env_id": HOSTILE.split("\n", maxsplit=1)[0],
        "episodes": 1,
        "held_out": False,
        "mean_return": 0.5,
        "transcripts": [transcript],
    }
    return {"temperature": 0, "envs": [env]}


def test_what_strangers_wrote_is_shown_and_is_no_markdown_or_html(tmp_path: Path) -> None:
    folder = RunFolder.create(load_config(["tiny"], [f"run.folder={tmp_path}", "run.name=<i>[x](y)"]))
    folder.evaluations.mkdir()
    for number in (0, 2):
        (folder.evaluations / f"step_{number}.json").write_text(json.dumps(hostile_evaluation()))
    name = f"reward/{HOSTILE.split(chr(10), maxsplit=1)[0]}/mean"
    record = {"step": 1, "time/step": 2.0, "reward/mean": 0.5, name: 0.5}
    folder.metrics.write_text(json.dumps(record) + "\n")
    write_report(folder)
    report = folder.report.read_text(encoding="utf-8")
    assert report.split("<!-- details -->")[0].rstrip().endswith(CAPTION)
    assert not any(c in report for c in "\x1b\u202e")
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(report)
    tags = set(re.findall(r"<(\w+)[^>]*>", page))
    assert tags <= {
        *[
            "h1",
            "h2",
            "h3",
            "p",
            "img",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "strong",
            "code",
            "i",
            "br",
            "blockquote",
        ]
    }
    assert re.findall(r'<img src="([^"]*)"', page) == [PICTURE]
    assert page.count("<h1>") == 1
    assert page.count("<table>") == 3
    shown = html.unescape(re.sub(r"<br>|<[^>]*>", "", page))
    for line in HOSTILE.split("\n"):
        assert visible(line.strip()) in shown, line


def test_autolinks_of_github_find_nothing() -> None:
    escaped = _markdown("see https://a.example, www.a.example, Www.B.example or me@a.example")
    assert escaped == r"see https\://a.example, www\.a.example, Www\.B.example or me\@a.example"


@pytest.mark.parametrize("name", ["report", "config"])
def test_a_full_disk_names_the_file(tmp_path: Path, name: str) -> None:
    config = load_config(["tiny"], [f"run.folder={tmp_path}"])
    folder = RunFolder.create(config)
    path = getattr(folder, name)
    if name == "config":
        path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        folder.write(config) if name == "config" else write_report(folder)
    assert in_one_line(caught.value) == f"{path}: No space left on device"
