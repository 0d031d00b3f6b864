"""Chat templates in the manners of the published ones, in their own words."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """A template and its special tokens, of which the second is the beginning of a text."""

    template: str
    special: Sequence[str]
    eos: str
    strips: Sequence[str] = ()


_GENERATE = "{% if add_generation_prompt %}"

# Contents trimmed, headers before the messages.
HEADERS = Style(
    template=(
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"
        "{% endfor %}" + _GENERATE + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    special=("<|end_of_text|>", "<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    eos="<|eot_id|>",
)
# The system message stands in the first message of the user, the assistant is called model.
MODEL_ROLE = Style(
    template=(
        "{{ bos_token }}{% set ns = namespace(first='') %}{% if messages[0].role == 'system' %}"
        "{% set ns.first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
        "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}"
        "{% endif %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n'"
        " + (ns.first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        + _GENERATE
        + "{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    special=("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    eos="<eos>",
)
# A space before the reply and one before its end; a refusal of everything out of turn.
INSTRUCT = Style(
    template=(
        "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content"
        " + '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}"
        "{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'user' %}"
        "{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    special=("<pad>", "<s>", "</s>"),
    eos="</s>",
)
# The system message moves along to the last message of the user.
SYSTEM_LAST = Style(
    template=(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
        "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if m.role == 'user' %}{{ '[INST] ' }}{% if loop.last and system is defined %}"
        "{{ system + '\n\n' }}{% endif %}{{ m.content + '[/INST]' }}{% else %}"
        "{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    special=("<pad>", "<s>", "</s>", "[INST]", "[/INST]"),
    eos="</s>",
)
# Special tokens that swallow the space after them.
SWALLOWING = Style(
    template=(
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}"
        "{% endfor %}" + _GENERATE + "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    special=("<|endoftext|>", "<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    eos="<|endoftext|>",
    strips=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
# Roles in plain text.
PLAIN_ROLES = Style(
    template=(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        + _GENERATE
        + "{{ '<|assistant|>\n' }}{% endif %}"
    ),
    special=("<unused>", "<s>", "</s>"),
    eos="</s>",
)
# Nothing closes a reply but the next message's role.
UNCLOSED = Style(
    template=(
        "{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
        "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + call.function.name + '</tool_call>' }}"
        "{% endfor %}{% endfor %}" + _GENERATE + "{{ '<|assistant|>\n' }}{% endif %}"
    ),
    special=("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>"),
    eos="<|endoftext|>",
)
# No special token at all but the one that ends the text.
ALPACA = Style(
    template=(
        "{% for m in messages %}{% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}"
        "{% elif m.role == 'assistant' %}{{ '### Response:\n' + m.content + '\n\n' }}{% else %}"
        "{{ m.content + '\n\n' }}{% endif %}{% endfor %}" + _GENERATE + "{{ '### Response:\n' }}{% endif %}"
    ),
    special=("</s>", "<s>"),
    eos="</s>",
)
# Thinking is shown since the last question alone, and a reply without any shows an empty one.
FORGETFUL = Style(
    template=(
        "{% if tools %}{{ '<|im_start|>system\n# Tools' }}{% for t in tools %}{{ '\n' + t | tojson }}"
        "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% set ns = namespace(last=0) %}{% for m in messages %}"
        "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content %}"
        "{% set thinking = m.reasoning_content | default('') %}{% if '</think>' in content %}"
        "{% set thinking = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
        "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.last and (loop.last or thinking) %}"
        "{{ '<think>\n' + thinking.strip('\n') + '\n</think>\n\n' }}{% endif %}{{ content }}"
        "{% for call in m.tool_calls or [] %}{% if content or not loop.first %}{{ '\n' }}{% endif %}"
        '{{ \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
        "{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}"
        "{{ call.function.arguments | tojson }}{% endif %}{{ '}\n</tool_call>' }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% elif m.role == 'tool' %}"
        "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        + _GENERATE
        + "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
    ),
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    eos="<|im_end|>",
)
# The start of a reply opens the thinking, and no reply is shown with it; arguments of calls are text.
PREFILLED = Style(
    template=(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ '<|Assistant|>' + m.content.split('</think>')[-1] }}{% for call in m.tool_calls or [] %}"
        "{{ '<|call|>' + call.function.name + '\n' + call.function.arguments }}{% endfor %}"
        "{{ '<|end|>' }}{% elif m.role == 'tool' %}{{ '<|output|>' + m.content }}"
        "{% else %}{{ '<|User|>' + m.content }}{% endif %}{% endfor %}"
        + _GENERATE
        + "{{ '<|Assistant|><think>\n' }}{% endif %}"
    ),
    special=("<pad>", "<|begin|>", "<|User|>", "<|Assistant|>", "<|end|>", "<|call|>", "<|output|>"),
    eos="<|end|>",
)
# Several parts to a reply, of which only the newest is closed by the end of turn.
CHANNELS = Style(
    template=(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thinking and loop.last %}"
        "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
        "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
        "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
        + _GENERATE
        + "{{ '<|start|>assistant' }}{% endif %}"
    ),
    special=("<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"),
    eos="<|return|>",
)
# Two special tokens close a reply, of which the second is the end of turn.
TWO_ENDS = Style(
    template=(
        "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + m.content }}"
        "{{ '<|end_message|><|end|>' if m.role == 'assistant' else '<|end|>' }}{% endfor %}"
        + _GENERATE
        + "{{ '<|start|>assistant<|message|>' }}{% endif %}"
    ),
    special=("<pad>", "<|begin|>", "<|start|>", "<|message|>", "<|end_message|>", "<|end|>"),
    eos="<|end|>",
)
# The start of a reply opens the thinking, which is shown where it is a field; TEXT stands for one without.
_OPENED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}TEXT{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    + _GENERATE
    + "{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINKING_FIELD = Style(
    template=_OPENED.replace(
        "TEXT", "{{ '<think>\n' + (m.reasoning_content | default('')) + '\n</think>\n\n' }}"
    ),
    special=_CHATML,
    eos="<|im_end|>",
)
EMPTY_THINKING = Style(
    template=_OPENED.replace(
        "TEXT", "{% if '</think>' not in m.content %}{{ '<think></think>' }}{% endif %}"
    ),
    special=_CHATML,
    eos="<|im_end|>",
)
