"""A generative judge behind a server that marks the steps of a response, one request for each response."""

import json
import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from jinja2 import TemplateError

from prl.data.templates import TemplateFailure, in_words, judge_template, render
from prl.judge.template import render_conversation
from prl.rewards.base import RewardSource
from prl.rewards.step_marks import Labels, Solution, StepMarks
from prl.system.http import Server, check_connection, latest

DEFAULT_TEMPLATE = """\
Read a problem and a solution that is written in numbered steps, and mark each step as right or wrong.
{% if correct %}
The solution's final answer is right. A step may be wrong all the same, such as one that the solution takes back or \
corrects later on.
{% else %}
The solution's final answer is wrong. Find out where it goes wrong; steps before that may be right, and so may an \
attempt that is given up.
{% endif %}
Use what the solution says itself, where it checks, doubts or corrects something.

# Problem
{{ prompt }}
{% if answer is not none %}
# Right answer
{{ answer }}
{% endif %}
# Solution
{% for step in steps %}
## Step {{ loop.index }}
{{ step }}
{% endfor %}
Think first. Then end with a list that has one number for each of the {{ steps | length }} steps in order, 1 for right \
and 0 for wrong, such as [1, 0, 1]."""

_LIST = re.compile(r"\[\s*[01](?:\s*,\s*[01])*\s*,?\s*\]")
_PROBE = Solution(({"role": "user", "content": "What is 1 + 2?"},), ["1 + 2 = 3.", "The answer is 3."], {}, 1.0)


class ThoughtProcessJudge(StepMarks):
    """Mark each step of a response as right or wrong by a language model behind an OpenAI-compatible server.

    One request for each response shows prompt, right answer (where the row has one) and the numbered steps; the model
    writes what it thinks and ends with a list of 0 and 1, of which the last in its answer counts. An answer that is cut
    off, that has no such list, or one with another number of entries than there are steps, gives no marks: the response
    is counted in `rewards/steps_unmarked/mean` and learns from its reward alone. So does a request that fails `retries`
    times.

    That a generative judge marks steps, by other prompts for right and for wrong solutions and by what the solution
    itself says of its mistakes, is TP-GRPO's (2507.23317, abstract); the wording of the prompts is ours. Nothing hides
    the solution's text from such a judge: a policy may learn to write what flatters it.

    Args:
        reward: source of the reward of each response, such as a verifier of answers.
        base_url: URL of the server, up to and including `/v1`.
        model: name of the model on the server.
        template: Jinja template with prompt, steps (a list of texts), answer (none without the column) and correct.
        separator: text that ends a step, a blank line by default; every token is a step when null.
        answer: column of the prompts that holds the right answer; rows may lack it.
        correct_above: rewards above it are those of correct responses, before shaping.
        max_tokens: longest answer of the judge.
        concurrency: requests under way at a time.
        timeout: seconds for one request, from connecting to the last byte of the answer.
        retries: further tries after an error of the connection or the server, with growing pauses.
        api_key_env: environment variable with the key, which is sent by https or to this machine alone; no key is sent
            when it is null or not set.
        chat_template_kwargs: variables of the model's chat template, such as {enable_thinking: false}, for vLLM and
            SGLang.

    Raises:
        ValueError: for settings out of range, or a template that cannot be rendered or leaves out the prompt or a step.
    """

    def __init__(
        self,
        reward: RewardSource,
        base_url: str,
        model: str,
        template: str = DEFAULT_TEMPLATE,
        separator: str | None = "\n\n",
        answer: str = "answer",
        correct_above: float = 0.5,
        max_tokens: int = 4096,
        concurrency: int = 16,
        timeout: float = 300.0,
        retries: int = 3,
        api_key_env: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(reward, separator)
        if not math.isfinite(correct_above):
            raise ValueError(f"ThoughtProcessJudge.correct_above is {correct_above}; expected a finite number")
        if max_tokens < 1:
            raise ValueError(f"ThoughtProcessJudge.max_tokens is {max_tokens}; expected at least 1")
        check_template(template)
        self.base_url = check_connection(base_url, concurrency=concurrency, timeout=timeout, retries=retries)
        self.name, self.template, self.answer, self.correct_above = model, template, answer, correct_above
        self.max_tokens, self.concurrency, self.timeout, self.retries = max_tokens, concurrency, timeout, retries
        self.api_key_env, self.chat_template_kwargs = api_key_env, chat_template_kwargs
        self._server: Server | None = None

    def load(self) -> None:
        """Load the other source, open the connection and have one solution marked, before a rollout is paid for.

        Raises:
            ValueError: when the server does not answer, or its model does not end with a list.
        """
        super().load()
        if self._server is not None:
            return
        self._server = Server(
            self.base_url,
            timeout=self.timeout,
            retries=self.retries,
            concurrency=self.concurrency,
            api_key_env=self.api_key_env,
        )
        if self._mark(_PROBE, latest()) is None:
            self._server = None
            raise ValueError(f"the judge at {self.base_url} does not mark steps: {self._failure}")

    def mark(self, solutions: list[Solution]) -> list[Labels | None]:
        """Request the marks of all solutions concurrently."""
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(partial(self._mark, end=latest()), solutions))

    def _mark(self, solution: Solution, end: float) -> Labels | None:
        assert self._server is not None, "call load() first"
        variables = {
            "prompt": render_conversation(solution.prompt),
            "steps": solution.steps,
            "answer": solution.row.get(self.answer),
            "correct": solution.reward > self.correct_above,
        }
        body: dict[str, Any] = {"model": self.name, "temperature": 0, "max_tokens": self.max_tokens}
        if self.chat_template_kwargs is not None:
            body |= {"chat_template_kwargs": self.chat_template_kwargs}
        try:
            body |= {"messages": [{"role": "user", "content": render(judge_template(self.template), variables)}]}
            found = self._server.ask(f"{self.base_url}/chat/completions", body, lambda answer: answer, end=end)
            return parse_marks(content_of(found), len(solution.steps))
        except Exception as error:  # an answer may be anything, and must not end the run
            self.fail(f"{type(error).__name__}: {str(error)[:500]}")
            return None


def parse_marks(text: str, steps: int) -> list[int]:
    """Read the last list of 0 and 1 in an answer.

    Args:
        text: the answer.
        steps: numbers that the list must have.

    Raises:
        ValueError: when there is no list, or the last one has another length.
    """
    lists = _LIST.findall(text)
    if not lists:
        raise ValueError(f"the answer ends {text[-100:]!r}; expected a list of 0 and 1, one for each step")
    found = [int(each) for each in re.findall("[01]", lists[-1])]
    if len(found) != steps:
        raise ValueError(f"the last list of the answer has {len(found)} marks for {steps} steps")
    return found


def content_of(answer: Any) -> str:
    """Return the text of a chat completion.

    Raises:
        ValueError: when it was cut off at its longest, or the answer has no text at choices[0].message.content.
    """
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(content, str):
        shown = json.dumps(answer)[:100]
        raise ValueError(f"the answer is {shown}; expected a text at choices.0.message.content")
    if choice.get("finish_reason") == "length":
        raise ValueError("the answer was cut off; raise ThoughtProcessJudge.max_tokens")
    return content


def check_template(template: str) -> None:
    """Refuse a template that cannot be rendered, or leaves out the prompt or a step. Raises ValueError."""
    shown = ("<prompt>", "<first step>", "<last step>")
    for answer, correct in (("<answer>", True), (None, False)):
        variables = {"prompt": shown[0], "steps": list(shown[1:]), "answer": answer, "correct": correct}
        try:
            rendered = render(judge_template(template), variables)
        except TemplateError as error:
            raise ValueError(f"ThoughtProcessJudge.template is not a Jinja template, {in_words(error)}") from None
        except TemplateFailure as error:
            raise ValueError(f"ThoughtProcessJudge.template cannot be rendered: {error}") from None
        if missing := [each for each in shown if each not in rendered]:
            raise ValueError(
                f"ThoughtProcessJudge.template leaves out {missing[0]}; expected {{{{ prompt }}}} and each of `steps`"
            )
