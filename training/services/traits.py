"""What an answer's text shows at a glance: a refusal, and its language. Pure functions, without a model."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

OPENING = 240  # characters: a refusal comes first
MIN_LETTERS = 12  # of a script, to name it
MIN_WORDS = 3  # stop words of a language, to name it
_CLEARLY = 1.5  # times as many as of the next language

_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|afraid)[^.!?]{0,60}?(?:can(?:'|no)t|unable|not able|won't)"
    r"|i (?:can(?:'|no)t|can not|won't|(?:am|'m) (?:unable|not able) to|must decline to)"
    r" (?:help|assist|answer|provide|do that|fulfil|fulfill|comply|create|write|give|discuss|engage|support)"
    r"|as an? (?:ai|artificial intelligence|language model)\b[^.!?]{0,80}?"
    r"(?:can(?:'|no)t|unable|not able|do not|don't)"
    r"|i (?:do not|don't) feel comfortable)",
    re.IGNORECASE,
)
# The most frequent little words; those that two of the languages share are left out.
_STOP_WORDS = {
    "en": "the and of to is that it for was with you are this be at have from they which would their",
    "de": "der die und ist nicht das ein eine ich mit sich auf für dem auch wie nach wird bei noch oder aber",
    "fr": "le les des est une dans qui pour vous pas sur avec plus ce il cette sont mais nous être du aux ou",
    "es": "el los las una por con para es pero más como su al lo se muy está del son hay también esta y",
    "it": "il di che è per un non della sono con gli nel alla più anche si come questo ma delle dei ha una",
    "pt": "o os uma não para com mais do da em são você mas ao foi pelo pela isso também está dos das",
    "nl": "het een van en niet dat zijn op met voor maar ook aan er bij hij wordt naar uit je deze nog",
}
_LANGUAGES: dict[str, frozenset[str]] = {}
for _name, _words in _STOP_WORDS.items():
    _others = {word for other, words in _STOP_WORDS.items() if other != _name for word in words.split()}
    _LANGUAGES[_name] = frozenset(_words.split()) - _others
_SCRIPTS = {
    "CJK": "han", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CYRILLIC": "cyrillic",
    "ARABIC": "arabic", "HEBREW": "hebrew", "GREEK": "greek", "DEVANAGARI": "devanagari", "THAI": "thai",
    "LATIN": "latin",
}  # fmt: skip


def is_refusal(text: str) -> bool:
    """Whether an answer begins by saying that it will not answer."""
    return bool(_REFUSAL.search(text[:OPENING].replace("\u2019", "'")))


def language_of(text: str) -> str:
    """A language code, else a script's name, else empty where a short text does not tell.

    By script first, then for Latin letters by little words. Dozens of languages share a script, so two of
    them may go by one name: this is to notice that an answer is in another one than its question.
    """
    scripts = Counter(
        script
        for letter in text[:2000]
        if letter.isalpha() and (script := _SCRIPTS.get(unicodedata.name(letter, "").split(" ", 1)[0]))
    )
    if not scripts:
        return ""
    script, count = scripts.most_common(1)[0]
    if script == "han" and scripts["ja"]:
        script, count = "ja", scripts["ja"] + count
    if count < MIN_LETTERS / (3 if script in ("han", "ja", "ko") else 1):
        return ""
    return _latin_language(text) if script == "latin" else script


def is_in_another_language(question: str, answer: str) -> bool:
    """True only where both languages are clear."""
    asked, answered = language_of(question), language_of(answer)
    return bool(asked and answered and asked != answered)


def _latin_language(text: str) -> str:
    words = re.findall(r"[^\W\d_]+", text[:2000].lower())
    found = Counter({name: sum(word in known for word in words) for name, known in _LANGUAGES.items()})
    (first, count), (_, next_count) = found.most_common(2)
    return first if count >= MIN_WORDS and count >= _CLEARLY * next_count else ""
