"""The sandbox of chat templates: its short way for common objects decides as jinja's own does."""

from typing import Any

import jinja2
import pytest
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from trieline.actors.chat_template import ChatTemplate, Sandbox
from trieline.actors.errors import ChatTemplateError
from trieline.common.message import Message

OBJECTS = (
    "text",
    LoopContext([1, 2], jinja2.Undefined),
    Namespace(last=0),
    [1],
    {"a": 1},
    {1},
    str,
    "text".upper,
    lambda: None,
    (i for i in [1]),
)


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda o: type(o).__name__)
def test_an_attribute_is_safe_where_it_is_in_jinja_s_sandbox(obj: Any) -> None:
    names = {*object.__dir__(obj), *dir(type(obj)), "_private", "__mro__", "mro", "last", "format"}
    for name in names:
        found = Sandbox().is_safe_attribute(obj, name, None)
        assert found == ImmutableSandboxedEnvironment().is_safe_attribute(obj, name, None), name


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{% for m in messages %}{{ loop.__class__.__mro__ }}{% endfor %}",
        "{% for m in messages %}{{ loop._iterable[0] }}{% endfor %}",
        "{% set ns = namespace(a=1) %}{{ ns.__class__.__mro__ }}",
        "{{ messages.clear() }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
    ],
)
def test_a_template_sees_no_internals(template: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate({"default": template}, {}, {}).render([Message(role="user")], add_generation_prompt=True)
