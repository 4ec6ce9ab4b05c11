"""Templates: of judges and of chats, written by anybody. They give a text and tokens, or are refused in words."""

import random
from functools import cache
from pathlib import Path

from prl.data.chat import encode_chat, render_chat
from prl.data.templates import TemplateFailure
from prl.judge.template import JudgeTemplate, render_text
from tests.fuzz import mutated
from tests.helpers.tiny import tiny_tokenizer

JUDGES = {
    "plain": "Which?\n{{ prompt }}\n1:{{ response_a }}\n2:{{ response_b }}\n?",
    "branches": "{% if prompt | length > 3 %}{{ prompt }}{% else %}{{ prompt | upper }}{% endif %}"
    "{% for text in [response_a, response_b] %}{{ loop.index }}: {{ text | trim }}\n{% endfor %}",
}
CHATS = {
    "turns": "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "json": "{{ messages | tojson }}{{ strftime_now('%Y') }}{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% set ns.n = ns.n + 1 %}{% if (m.role == 'user') != (ns.n % 2 == 1) %}{{ raise_exception('no') }}{% endif %}"
    "{{ m.content.split('</think>')[-1] | trim }}{% endfor %}",
    "macro": "{% macro say(m) %}[{{ m.role }}] {{ m.content | replace('a', 'b') }}{% endmacro %}"
    "{% for m in messages[::-1] %}{{ say(m) ~ eos_token }}{% endfor %}{{ range(3) | join(',') }}{{ 2 ** 10 }}",
}
PIECES = [
    *(b"{{ 10 ** 10 ** 10 }}", b"{% for i in range(10**9) %}x{% endfor %}", b"{{ 'a' * 10**9 }}", b"{{ 1 / 0 }}"),
    *(b"{{ messages.append(1) }}", b"{{ ''.__class__ }}", b"{% include 'x' %}", b"{{ 5 + 'a' }}", b"{{ self }}"),
    *(b"{% for i in range(9**5) %}{% for j in range(9**5) %}{% endfor %}{% endfor %}", b"{{ x.y.z }}", b"<eos>"),
    *(b"{{ lipsum(n=10000) }}", b"{{ '%999999999d' % 1 }}", b"{{ prompt.format }}", b"{% raw %}", b"{% break %}"),
]
MESSAGES = [{"role": "user", "content": "a <eos> b"}, {"role": "assistant", "content": "<think>x</think> <|user|>"}]


@cache
def inputs() -> dict[str, bytes]:
    named = {**{f"judge-{n}": t for n, t in JUDGES.items()}, **{f"chat-{n}": t for n, t in CHATS.items()}}
    return {f"{name}.jinja": text.encode() for name, text in named.items()}


def changed(draw: random.Random, good: dict[str, bytes]) -> tuple[str, bytes]:
    name = draw.choice(sorted(good))
    content = good[name]
    if draw.random() < 0.6:
        place = draw.randrange(len(content) + 1)
        content = content[:place] + draw.choice(PIECES) + content[place:]
    return name, content if draw.random() < 0.3 else mutated(draw, content, good[draw.choice(sorted(good))])


def read(path: Path) -> None:
    text = path.read_bytes().decode(errors="replace")
    if path.name.startswith("judge"):
        render_text(JudgeTemplate(text), [MESSAGES[0]], "first", "second {{ prompt }}")
        return
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = text
    for messages in ([MESSAGES[0]], [*MESSAGES, MESSAGES[0]]):
        try:
            shown = render_chat(tokenizer, messages)
            encode_chat(tokenizer, messages)
        except TemplateFailure:
            continue
        if not isinstance(shown, str):
            raise AssertionError(type(shown))
