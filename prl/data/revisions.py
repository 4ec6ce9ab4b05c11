"""The prompt that asks for a better response than the one it quotes."""

import re

from prl.types import Conversation


def revision_turns(prompt: Conversation, response: str, template: str) -> Conversation:
    """Put the last turn of a prompt, and a response to it, into the request for a better one.

    Args:
        prompt: turns up to the response.
        response: to be quoted.
        template: of the last turn, with {prompt} for what stood there and {response}.
    """
    about = {"prompt": prompt[-1]["content"], "response": response}
    # At once: what is put in may have such a place in it.
    asked = re.sub(r"\{(prompt|response)\}", lambda place: about[place[1]], template)
    return [*prompt[:-1], {**prompt[-1], "content": asked}]
