"""Which words make a number a measured one: the units of this book."""

import re

_PREFIXED_BYTES = r"[kKMGTP]i?B"
_COUNTED = (
    r"(?:tokens?|tok|samples?|steps?|iterations?|it|requests?|req|images?|"
    r"bytes?|FLOPs?|elements?)"
)
_RATE = (
    rf"(?:[kMGTP]\s?)?(?:{_PREFIXED_BYTES}|B|bits?|{_COUNTED}|"
    r"[kMGTP]?FLOP)(?:/|\sper\s|\sa\s)(?:s|sec|second|ms|min|minute|h|hour)"
    r"(?:/GPU)?"
)
_FLOPS = r"[kMGTP]?FLOPS"
_TIME = (
    r"(?:ns|[µμu]s|ms|s|secs?|seconds?|milliseconds?|microseconds?|"
    r"nanoseconds?)"
)
_POWER = r"(?:[mk]?W|watts?|[kMG]?Hz|J|joules?)"
_SHARE = r"(?:%|percent|per\scent)"
_FACTOR = (
    r"(?:×(?!\s?[\w(])|x(?=\s+(?:as|faster|slower|more|less)\b)|"
    r"(?:×\s?|times\s)(?:as|the|faster|slower|more|less|fewer|larger|smaller|"
    r"higher|lower|longer|shorter|bigger|better|worse)\b)"
)
_UNIT = (
    rf"(?:(?:{_RATE}|{_FLOPS}|{_PREFIXED_BYTES}|{_TIME}|{_POWER})(?![\w/])|"
    rf"{_SHARE}|{_FACTOR})"
)
_NUMBER = r"(?<![\w.,^_])\d+(?:[,.\u202f\u00a0]?\d+)*(?:[eE][+-]?\d+)?"
_DECADE = r"(?!(?<=\d{4})s\b)"
_SPACE = r"[\s~\u00a0\u202f-]?"
MEASURED = re.compile(rf"{_NUMBER}{_DECADE}{_SPACE}(?:[kMG]\s)?{_UNIT}")

_TEX_UNIT = (
    rf"(?:\\%|\\(?:text|mathrm|mbox|textrm|operatorname)\{{\s*"
    rf"(?:{_RATE}|{_FLOPS}|{_PREFIXED_BYTES}|{_TIME}|{_POWER}|{_SHARE})"
    r"\s*\})"
)
IN_MATH = re.compile(
    rf"{_NUMBER}(?:\s|~|\\[,;: ]|\\quad|\{{,\}})*{_TEX_UNIT}"
)
