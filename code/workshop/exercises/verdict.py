"""What a check says, whatever it judges."""

from collections.abc import Mapping

RIGHT = "Right."
MISSING = "Not answered yet: put your answer where None stands."


def judged(
    answer: Mapping[str, str] | None,
    due: Mapping[str, str],
    hints: Mapping[str, str],
    choices: str,
    hint: str,
) -> str:
    """Judge which name stands behind each of the letters A, B and C.

    Args:
        answer: the reader's, by letter; None where it was not given yet.
        due: what it should be; every name once.
        hints: of each name, what tells against a wrong one.
        choices: the names, as a sentence lists them.
        hint: with places for the answer's name and its hint.
    """
    if answer is None:
        return MISSING
    if (
        not isinstance(answer, Mapping)
        or set(answer) != set(due)
        or set(answer.values()) != set(due.values())
    ):
        return f"Not yet: give each of A, B and C one of {choices}."
    for letter, name in due.items():
        if answer[letter] != name:
            told = hint.format(answer[letter], hints[answer[letter]])
            return f"Not yet: look at {letter} again. {told}"
    return RIGHT
