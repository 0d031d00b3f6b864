"""Formats of JavaScript's runners that are read for their failures alone.

A line stands for itself here: a name of a browser that breaks off at the end of a line is none.
"""

import itertools
import re
from collections.abc import Iterator

from trieline.envs.swe.log_parsers.outcome import FAILED, LineEnds, Outcomes, lines_of
from trieline.envs.swe.log_parsers.suite_formats import ANSI


def _failed(names: Iterator[str]) -> Outcomes:
    return dict.fromkeys(names, FAILED)


def _plain(name: str) -> str:
    return " ".join(name.split())


_CHROME = re.compile(r"Chrome\s[\d.]+[^\S\r\n]\(")
_CHROME_SYSTEM_END = re.compile(r"\)[^\S\r\n]")


def chart_js(text: str) -> Outcomes:
    """Karma's `Chrome 90.0 (Linux x86_64) name FAILED`."""
    return _failed(_chart_js_names(ANSI.sub("", text)))


def _chart_js_names(text: str) -> Iterator[str]:
    for line in lines_of(text):
        browser = _CHROME.search(line) if line.endswith("FAILED") else None
        system = _CHROME_SYSTEM_END.search(line, browser.end() + 1) if browser else None
        if system and system.end() <= len(line) - len("FAILED"):
            yield line[system.end() : -len("FAILED")]


_BPMN_BROWSERS = (
    re.compile(r"2KPhantomJS\s[\d.]+\s\(Linux\s[\d.]+\)\s"),
    re.compile(r"2KPhantomJS\s[\d.]+\s\(Linux\sx86_64\)\s"),
    re.compile(r"HeadlessChrome\s[\d.]+\s\(Linux\s[\d.]+\)\s"),
)
_BPMN_CHROME = re.compile(r"Chrome\sHeadless\s")
_BPMN_SYSTEM = re.compile(r"\s\(Linux\sx86_64\)(?=\s)")


def bpmn_js(text: str) -> Outcomes:
    """Karma's `Chrome Headless 90.0 (Linux x86_64) name FAILED` and those of older browsers."""
    return _failed(_bpmn_names(text))


def _bpmn_names(text: str) -> Iterator[str]:
    for line, end in _failed_lines(text):
        starts = [browser.end() for pattern in _BPMN_BROWSERS if (browser := pattern.search(line))]
        if chrome := _BPMN_CHROME.search(line):
            systems = [match.end() + 1 for match in _BPMN_SYSTEM.finditer(line, chrome.end())]
            starts += [start for start in systems if start <= end][-1:]
        yield from (line[start:end] for start in starts if start <= end)


def _failed_lines(text: str) -> Iterator[tuple[str, int]]:
    """Whole lines that end with `FAILED`, and where that word begins."""
    end = text.rfind("\n")
    for line in lines_of(text[:end] if end >= 0 else ""):
        if line.endswith("FAILED"):
            yield line, len(line) - len("FAILED")


_OPENLAYERS_HEADLESS = re.compile(r"Chrome\sHeadless\s[\d.]+\s\(Linux\s\S+\)\s")
_OPENLAYERS_CHROME = re.compile(r"Chrome\s[\d.]+\s\(Linux\s\S+\)\s")
_OPENLAYERS_CASE = re.compile(r"^case\s(.*):\smismatch", re.MULTILINE)
_OPENLAYERS_NUMBER = re.compile(r"^\s{2}\d+\)", re.MULTILINE)


def openlayers(text: str) -> Outcomes:
    """Karma's lines, Mocha's list of failures and `case name: mismatch` of the rendering tests."""
    return _failed(_plain(name) for name in _openlayers_names(text))


def _openlayers_names(text: str) -> Iterator[str]:
    for line, end in _failed_lines(text):
        for pattern, last in ((_OPENLAYERS_HEADLESS, end - 1), (_OPENLAYERS_CHROME, end)):
            browser = pattern.search(line)
            if browser and browser.end() <= last and (last == end or line[last].isspace()):
                yield line[browser.end() : last]
    place = 0
    while (head := _OPENLAYERS_NUMBER.search(text, place)) and (end := text.find("Error:", head.end())) >= 0:
        yield text[head.end() : end]
        place = end + len("Error:")
    yield from (match[1] for match in _OPENLAYERS_CASE.finditer(text))


_ESLINT_NUMBER = re.compile(r"\s{2}\d+\)")
_BLANK = re.compile(r"\s")


def eslint(text: str) -> Outcomes:
    """Mocha's list of failures: a number, and the titles up to the line that names an error."""
    return _failed(_plain(name) for name in _eslint_names(text))


def _eslint_names(text: str) -> Iterator[str]:
    place, ends = 0, LineEnds(text)
    while head := _ESLINT_NUMBER.search(text, place):
        start = head.end()
        end = ends.after(start)
        error = text.rfind("Error", start, end)
        blank = _BLANK.search(text, start, error) if error >= 0 else None
        if blank:
            yield text[start : blank.start()]
        elif (error := text.find("Error", end)) >= 0:
            yield text[start : text.rfind("\n", start, error)]
            error = text.rfind("Error", error, ends.after(error))
        else:
            break
        place = error + len("Error")


def p5js(text: str) -> Outcomes:
    """Mocha's list of failures, whose titles stand each further in than the one above, up to a colon.

    What tests print is in the way: blocks of JSON and of XML go first.
    """
    return _failed(_p5js_names(_without_elements(_without_json(ANSI.sub("", text)))))


_P5JS_NUMBER = re.compile(r"^[^\S\n]*\d+\)", re.MULTILINE)
_P5JS_LONGEST = 1000


def _p5js_names(text: str) -> Iterator[str]:
    place, colon = 0, -1
    for head in _P5JS_NUMBER.finditer(text):
        if head.start() < place:
            continue
        if colon < head.end():
            colon = text.find(":", head.end())
            if colon < 0:
                return
        if colon - head.end() > _P5JS_LONGEST:
            continue
        titles = text[head.end() : colon].split("\n")
        place = colon + 1
        indents = [0, *(len(title) - len(title.lstrip()) for title in titles)]
        if all(below > above for above, below in itertools.pairwise(indents)):
            yield ":".join(title.strip() for title in titles)


def _without_json(text: str) -> str:
    """Without lines in brackets, and from a line that ends with an opening one to the closing one alone."""
    kept = []
    in_object = in_list = False
    for line in lines_of(text):
        bare = line.rstrip()
        if bare.endswith("{"):
            in_object = True
        elif bare.endswith("["):
            in_list = True
        elif bare == "}" and in_object:
            in_object = False
        elif bare == "]" and in_list:
            in_list = False
        elif not (in_object or in_list) and (bare[:1], bare[-1:]) not in {("{", "}"), ("[", "]")}:
            kept.append(line)
    return "\n".join(kept)


_TAG = re.compile(r"<(/?)(\w+)>")


def _without_elements(text: str) -> str:
    """Without each `<a>` and what follows up to the `</a>` that is its own; one without any stays."""
    last_closed = {tag[2]: tag.end() for tag in _TAG.finditer(text) if tag[1]}
    kept, place = [], 0
    inside, depth = "", 0
    for tag in _TAG.finditer(text):
        closes, name = bool(tag[1]), tag[2]
        if not inside and not closes and tag.end() < last_closed.get(name, 0):
            kept.append(text[place : tag.start()])
            inside, depth = name, 1
        elif name == inside:
            depth += -1 if closes else 1
            if closes:
                place = tag.end()
            if depth == 0 or place == last_closed[name]:
                kept.append(f"<{name}>" * depth)
                inside = ""
    return "".join([*kept, text[place:]])
