"""The command line of a job, checked: no count, rate or size is nonsense."""

import argparse
import math
from typing import Any, NoReturn

from workshop.errors import UserError

LARGEST = 10**9
"""Of a count or a size: more is a slip of the hand."""
LARGEST_SEED = 10**18
"""torch keeps a seed in 64 bits, and the ranks' streams add to it."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Raises `UserError`, so that one rank can speak for all."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Help, **options})

    def error(self, message: str) -> NoReturn:
        """Refuse the command line in one sentence."""
        raise UserError(f"{message[:300]}: see --help")

    def given(self, argv: list[str] | None = None) -> set[str]:
        """Return the names of the arguments that a command line gives."""
        unset = object()
        blank = {action.dest: unset for action in self._actions}
        values = vars(self.parse_args(argv, argparse.Namespace(**blank)))
        return {name for name, value in values.items() if value is not unset}


def check_numbers(
    args: argparse.Namespace,
    least: dict[str, int],
    positive: tuple[str, ...] = (),
) -> None:
    """Refuse numbers that cannot be meant; None stands for a default.

    Args:
        args: what was given, numbers or lists of them.
        least: the smallest value of a count or a size, by its name.
        positive: names of rates and sizes that are more than 0.

    Raises:
        UserError: one is too small, too large, infinite or no number.
    """
    for name in (*least, *positive):
        given = getattr(args, name)
        option = "--" + name.replace("_", "-")
        wanted = f"{least[name]} or more" if name in least else "more than 0"
        for value in given if isinstance(given, list) else [given]:
            if value is None:
                continue
            is_enough = value >= least[name] if name in least else value > 0
            if not is_enough:  # nor is nan
                raise UserError(
                    f"{option} {_shown(value)} is too small: give {wanted}"
                )
            if value == math.inf:
                raise UserError(
                    f"{option} inf is too large: give a finite number"
                )
            largest = LARGEST_SEED if name == "seed" else LARGEST
            if isinstance(value, int) and value > largest:
                raise UserError(
                    f"{option} {_shown(value)} is too large: give "
                    f"{largest:,} or less"
                )


def _shown(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
