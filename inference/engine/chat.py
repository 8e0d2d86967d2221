"""Between messages and tokens: the model's own chat template and tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from inference.engine.errors import InvalidRequest
from inference.engine.protocol import Message

# Stands in a message for a text that would be read as one of the tokens that steer; NUL is in no template.
_MARK = re.compile("\x00([0-9]+)\x00")


class ChatTokenizer:
    """Stateless and safe to share between threads: it never sets padding or truncation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: int | list[int] | None) -> None:
        """`eos` are the ends that the model's generation config names; the tokenizer's own is added."""
        if not tokenizer.chat_template:
            raise InvalidRequest("the model has no chat template", code="no_chat_template")
        self._tokenizer: Any = tokenizer
        steering = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._steering = re.compile(
            "|".join(map(re.escape, sorted(steering, key=len, reverse=True))) or r"(?!)"
        )
        # Split once, here: to do so is a setting of the tokenizer, which other threads would see.
        backend = self._tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        self._as_text: dict[str, list[int]] = {
            token: backend.encode(token, add_special_tokens=False).ids for token in steering
        }
        backend.encode_special_tokens = False
        self._names = list(self._as_text)
        said = eos if isinstance(eos, list) else [eos]
        self.eos = sorted({token for token in [*said, tokenizer.eos_token_id] if token is not None})

    def encode(self, messages: Sequence[Message] | Sequence[dict[str, str]]) -> list[int]:
        """Token ids of the prompt, to where the answer begins. Raises InvalidRequest when the template does.

        Without a system message some templates add one of their own; that is the model's habit, and kept.
        What looks like a steering token in a message is text: else whoever writes a question could end it and
        go on as the system.
        """
        plain = [message.for_template() if isinstance(message, Message) else message for message in messages]
        plain = [{**message, "content": self._disarm(message["content"])} for message in plain]
        try:
            text = self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            message = f"the model's chat template refuses these messages: {error}"
            raise InvalidRequest(message, code="bad_messages", param="messages") from error
        ids: list[int] = []
        for place, part in enumerate(_MARK.split(text)):
            if place % 2:
                ids += self._as_text[self._names[int(part)]]
            elif part:
                ids += self._tokenizer.backend_tokenizer.encode(part, add_special_tokens=False).ids
        return ids

    def _disarm(self, content: str) -> str:
        content = content.replace("\x00", "")  # no model reads it, and it could look like a mark
        return self._steering.sub(lambda found: f"\x00{self._names.index(found[0])}\x00", content)

    def decode(self, tokens: list[int]) -> str:
        """Text of an answer; tokens that only steer, such as the end, are left out."""
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
