"""Chat messages as the text of a prompt, by the template of the model, and what they hold of the answer already."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from es_rl.errors import ConfigError

Messages = Sequence[dict[str, str]]

MARK = "MARK"  # the answer in a rendering that shows where an answer begins
THINK = "<think>"


def text(tokenizer: Any, messages: Messages) -> str:
    """Return the text of a prompt. If the last message is the assistant's, it is to be continued.

    Raises `ConfigError` if the template refuses the messages.
    """
    try:
        if messages[-1]["role"] == "assistant":
            return str(tokenizer.apply_chat_template(messages, continue_final_message=True, tokenize=False))
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"prompt {messages}: the model's chat template refuses it: {said}") from error


def begun(tokenizer: Any, prompt: Any) -> str:
    """Return what a prompt holds of the answer already: a reward sees it before what the model writes.

    This is the assistant's message that the model continues, or what the template puts into the model's mouth, such as
    `<think>`. A prompt that is a string holds nothing of the answer.
    """
    if isinstance(prompt, str):
        return ""
    if prompt[-1]["role"] == "assistant":
        return str(prompt[-1]["content"])
    try:
        asked, answered = (
            str(tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False))
            for messages in (prompt, [*prompt, {"role": "assistant", "content": MARK}])
        )
    except Exception:  # noqa: BLE001 - a template of the model: it may not render an answer
        return ""
    asking = text(tokenizer, prompt)
    if not asking.startswith(asked):
        return ""
    opening, answer = asking[len(asked) :], answered[len(asked) :].partition(MARK)[0]
    pairs = zip(opening, answer, strict=False) if answered.startswith(asked) else ()
    header = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return opening[len(header.partition(THINK)[0]) :] if header else ""
