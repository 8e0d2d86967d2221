"""Between messages and tokens: the model's own chat template and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from inference.engine.errors import InvalidRequest
from inference.engine.protocol import Message


class ChatTokenizer:
    """Stateless and safe to share between threads: it never sets padding or truncation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: int | list[int] | None) -> None:
        """`eos` are the ends that the model's generation config names; the tokenizer's own is added."""
        if not tokenizer.chat_template:
            raise InvalidRequest("the model has no chat template", code="no_chat_template")
        self._tokenizer: Any = tokenizer
        said = eos if isinstance(eos, list) else [eos]
        self.eos = sorted({token for token in [*said, tokenizer.eos_token_id] if token is not None})

    def encode(self, messages: Sequence[Message] | Sequence[dict[str, str]]) -> list[int]:
        """Token ids of the prompt, to where the answer begins. Raises InvalidRequest when the template does.

        Without a system message some templates add one of their own; that is the model's habit, and kept.
        """
        plain = [message.for_template() if isinstance(message, Message) else message for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            message = f"the model's chat template refuses these messages: {error}"
            raise InvalidRequest(message, code="bad_messages", param="messages") from error
        ids: list[int] = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Text of an answer; tokens that only steer, such as the end, are left out."""
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
