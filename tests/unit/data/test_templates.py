"""Templates of strangers end, and their errors are told in words."""

import pytest

from prl.data.templates import TemplateFailure, chat_environment, render
from prl.judge import JudgeTemplate

FIELDS = "{{ prompt }}{{ response_a }}{{ response_b }}"
TWICE = "{% set ns = namespace(x='x') %}{% for i in range(26) %}BODY{% endfor %}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{ 1/0 }}", "ZeroDivisionError: division by zero"),
        ("{{ 5 + 'a' }}", "TypeError: unsupported operand"),
        ("{% include 'x' %}", "TypeError: no loader"),
        ("{% for i in range(10**7) %}{% endfor %}", "Range too big"),
        ("{{ raise_exception('no system role') }}", "^no system role$"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 2000000 turns"),
        ("{% macro f(n) %}{{ f(n - 1) }}{% endmacro %}{{ f(9) }}", "RecursionError"),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(17) }}",
            "more than 2000000",
        ),
        ("{{ 'x' * 10 ** 11 }}", "larger than"),
        ("{{ 10 ** (10 ** 10) }}", "larger than"),
        ("{{ '%99999999999999d' % 1 }}", "larger than"),  # more than any memory has
        ("{{ '{:>9999999999}'.format(1) }}", "larger than"),
        ("{{ 'x'.ljust(10 ** 11) }}", "larger than"),
        ("{{ 'x' | center(10 ** 11) }}", "larger than"),
        ("{{ ('x' * 9999).replace('x', 'y' * 9999) | length }}", "larger than"),
        (TWICE.replace("BODY", "{% set ns.x = ns.x + ns.x %}"), "larger than"),
        (TWICE.replace("BODY", "{% set ns.x = ns.x ~ ns.x %}"), "larger than"),
        (TWICE.replace("BODY", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"), "larger than"),
        ("{% for i in range(9000) %}{{ 'abcdefghij' * 1000 }}{% endfor %}", "larger than"),
    ],
)
def test_what_goes_wrong_is_told(text, told) -> None:
    with pytest.raises(TemplateFailure, match=told):
        render(chat_environment().from_string(text), {})


def test_a_judge_template_that_fails_is_an_error_in_words() -> None:
    for text in ("{{ 1/0 }}", "{{ 5 + 'a' }}", "{% include 'x' %}", "{{ 'x' * 10 ** 11 }}"):
        with pytest.raises(ValueError, match=r"template\.text cannot be rendered: "):
            JudgeTemplate(text + FIELDS)


def test_a_template_that_is_nested_too_deeply_is_an_error_in_words() -> None:
    deep = "{{ " + "[" * 5000 + "1" + "]" * 5000 + " }}"
    with pytest.raises(ValueError, match=r"template\.text is not a Jinja template, .*nested too deeply"):
        JudgeTemplate(deep + FIELDS)
