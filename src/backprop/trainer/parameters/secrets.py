"""What is a secret among parameters and arguments, by its name or its form. Numbers and switches are none.

Too much is hidden rather than too little: a text in `sort_key` is taken for a secret. Names that only contain such a
word are not: `monkey`, `tokenizer`, `key_dim`, `num_keys=8`.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Iterator, Sequence

HIDDEN = "***"
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\.")
# wherever they are in a name without its separators; what they name may be a number: a password of digits
_CERTAIN = re.compile(r"passw(or)?d|passphrase|secret|credential|apikey|accesskey|privatekey|authtoken")
_LIKELY = re.compile(r"\w*tokens?|keys?|pwd|pass|pw")  # the last word of a name, or of a part of it
# with which the last word means a token of a vocabulary, or the key of a column
_HARMLESS = {"bos", "cls", "end", "eos", "mask", "pad", "sep", "special", "start", "stop", "unk"}
_HARMLESS |= {"audio", "column", "image", "input", "label", "target", "text", "video"}
# the address of a database with a password; tokens of Hugging Face, OpenAI, GitHub, GitLab, AWS, Slack, HTTP
_FORMS = (
    r"(?<=://)[^/@:\s]{0,200}:(?!\d+/)(?:[^/\s]{1,200}|[^\s\"'?]{1,200}?)(?=@)|\bhf_[A-Za-z]{20,}"
    r"|\bsk-[\w-]{20,}|\bgh[opsur]_\w{20,}"
    r"|\bgithub_pat_\w{20,}|\bglpat-[\w-]{15,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[\w-]{10,}|(?<=\b[Bb]earer )\S+"
)
_IN_FORMS = (
    "://",
    "hf_",
    "sk-",
    "gh",
    "github_pat_",
    "glpat-",
    "AKIA",
    "xox",
    "earer ",
)  # one of these is in each of the forms
# a name that may be a secret's, within a text; bounded, because a text may be long
_NAME = r"[\w.-]{0,80}?(?:token|key|pwd|passw|passphrase|secret|credential)[\w.-]{0,80}"
_NAMED = (
    rf"(?<![\w.-])((?=--){_NAME}\s{{1,9}}(?!-)|{_NAME}(?:[=:]|[\"']\s{{0,9}}:\s{{0,9}}))"
    r"(\"[^\"]*\"|'[^']*'|[^\s&;,{}\"']+)"
)


def hidden(name: str, value: Any) -> Any:
    """The value of a parameter, or `***` in the place of a secret."""
    if is_secret(name, value):
        return HIDDEN
    if isinstance(value, dict):
        return {key: hidden(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list):
        return [hidden("", item) if isinstance(item, (str, list, dict)) else item for item in value]
    return _without_secret_parts(value) if isinstance(value, str) else value


def _without_secret_parts(text: str) -> str:
    # to compile these takes a millisecond, which only processes pay that see such a text
    if "=" in text or ":" in text or len(text.split()) > 1:
        text = re.sub(_NAMED, _without_value, text, flags=re.ASCII | re.IGNORECASE)
    if any(part in text for part in _IN_FORMS):
        text = re.sub(_FORMS, HIDDEN, text, flags=re.ASCII)
    return text


def _without_value(named: re.Match[str]) -> str:
    """A name and its value within a text, with `***` in the place of a secret."""
    quote = named[2][0] if named[2][0] in "\"'" else ""
    return f"{named[1]}{quote}{HIDDEN}{quote}" if is_secret(named[1], named[2].strip(quote or None)) else named[0]


def is_secret(name: str, value: Any) -> bool:
    """Whether a parameter of this name has a secret value."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and _is_switch(value)):
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    if _CERTAIN.search("".join(words)):
        return True
    return _is_text(value) and any(map(_is_likely, _parts(words)))


def _parts(words: Sequence[str]) -> Iterator[list[str]]:
    """The words between the dots."""
    part: list[str] = []
    for word in [*words, "."]:
        if word != ".":
            part.append(word)
        elif part:
            yield part
            part = []


def _is_likely(words: Sequence[str]) -> bool:
    return bool(_LIKELY.fullmatch(words[-1])) and _HARMLESS.isdisjoint(words)


def _is_text(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_is_text, value))
    return isinstance(value, str) and not _is_switch(value) and not _is_number(value)


def _is_switch(text: str) -> bool:
    return text.lower() in {"", "true", "false", "none", "null"}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def without_secrets(argv: Sequence[str]) -> list[str]:
    """A command line for people, with `***` in the place of secrets."""
    shown: list[str] = []
    flag = ""  # the word before, if its value is this word
    for word in argv:
        name, equals, value = word.partition("=")
        if flag and not word.startswith("-"):
            shown.append(str(hidden(flag, word)))
        elif equals:
            shown.append(f"{name}={hidden(name, value)}")
        else:
            shown.append(str(hidden("", word)))
        flag = word if word.startswith("-") and not equals else ""
    return shown
