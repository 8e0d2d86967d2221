"""Code in an answer, coloured: a few classes by the kind of token, from lexers of languages that we know."""

from __future__ import annotations

import time
from functools import lru_cache
from html import escape

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String, _TokenType

# The first that holds a token names its class; these are all that the sanitiser lets through.
_KINDS = {
    Comment: "c",
    Keyword: "k",
    Operator.Word: "k",
    Name.Tag: "k",
    String: "s",
    Number: "m",
    Name.Function: "f",
    Name.Class: "f",
    Name.Decorator: "f",
    Name.Attribute: "f",
    Name.Builtin: "f",
    Generic.Inserted: "i",
    Generic.Deleted: "d",
    Generic.Heading: "k",
    Generic.Subheading: "k",
}
CLASSES = frozenset(_KINDS.values())
# Named by answers often, and read in a time that grows with their length: tests hold each of them to it.
LANGUAGES = {
    "bash": "Bash", "c": "C", "cpp": "C++", "csharp": "C#", "css": "CSS", "diff": "Diff",
    "docker": "Dockerfile", "go": "Go", "html": "HTML", "java": "Java", "javascript": "JavaScript",
    "json": "JSON", "kotlin": "Kotlin", "lua": "Lua", "makefile": "Makefile", "php": "PHP",
    "python": "Python", "r": "R", "ruby": "Ruby", "rust": "Rust", "sql": "SQL", "swift": "Swift",
    "toml": "TOML", "typescript": "TypeScript", "xml": "XML", "yaml": "YAML",
}  # fmt: skip
_ALIASES = {
    "c#": "csharp", "c++": "cpp", "cs": "csharp", "dockerfile": "docker", "golang": "go", "htm": "html",
    "js": "javascript", "jsx": "javascript", "make": "makefile", "py": "python", "python3": "python",
    "rb": "ruby", "rs": "rust", "sh": "bash", "shell": "bash", "ts": "typescript", "tsx": "typescript",
    "yml": "yaml", "zsh": "bash",
}  # fmt: skip
MAX_CHARS = 10_000
MAX_SECONDS = 0.1  # of this thread's processor: a busy machine takes no colours away


def language_of(info: str) -> str:
    """The language that a fence names, as a key of LANGUAGES; empty for one that we do not know."""
    name = info.split(maxsplit=1)[0].lower().strip("{}.") if info.strip() else ""
    name = _ALIASES.get(name, name)
    return name if name in LANGUAGES else ""


def highlight(code: str, language: str) -> str:
    """HTML of `code` with spans; without them when it is too long, or takes too long."""
    if not language or len(code) > MAX_CHARS:
        return escape(code)
    lexer = _lexer_of(language)
    deadline = time.thread_time() + MAX_SECONDS
    pieces = []
    for kind, text in lexer.get_tokens(code):
        name = _class_of(kind)
        pieces.append(f'<span class="{name}">{escape(text)}</span>' if name else escape(text))
        if time.thread_time() > deadline:
            return escape(code)
    return "".join(pieces)


@lru_cache
def _lexer_of(language: str) -> Lexer:
    """Kept: its regular expressions take a while to compile."""
    return get_lexer_by_name(language, stripnl=False, ensurenl=False)


def _class_of(kind: _TokenType) -> str:
    return next((name for held, name in _KINDS.items() if kind in held), "")
