"""Profiles of the contestants side by side: where each one's time goes."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from workshop.profiling.groups import GROUPS

PARTS = ("step_ms", "compute_ms", "exposed_communication_ms", "idle_ms")
WIDTH = 26


def parts(profile: Mapping) -> dict[str, float]:
    """Return the ms of a step, the mean over the ranks.

    Args:
        profile: what `profiling.report.write` wrote to `profile.json`.

    Returns:
        `PARTS`, which overlap nowhere but in the step, and the groups of
        kernels, whose sum counts twice what runs at once.
    """
    ranks = profile["ranks"]
    times = {part: mean(rank[part] for rank in ranks) for part in PARTS}
    for group in GROUPS:
        times[group] = mean(rank["groups"].get(group, 0.0) for rank in ranks)
    return times


def side_by_side(folder: Path, names: list[str]) -> str:
    """Write `kernels.json` of the profiles in `folder`; return a table.

    Args:
        folder: has a folder with `profile.json` for each name.
        names: the contestants, in the order of the table.

    The file has, by contestant, `parts` and the longest `kernels` of rank
    0, each with its group, its launches and their ms in a step.
    """
    profiles = {
        name: json.loads((folder / name / "profile.json").read_text())
        for name in names
    }
    whole = {
        name: {
            "parts": parts(profile),
            "kernels": profile["ranks"][0]["kernels"],
        }
        for name, profile in profiles.items()
    }
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    (folder / "kernels.json").write_text(text + "\n", encoding="utf-8")
    return table({name: entry["parts"] for name, entry in whole.items()})


def table(by_name: Mapping[str, Mapping[str, float]]) -> str:
    """Return the parts of all contestants as text, in ms."""
    names = list(by_name)
    head = f"{'ms a step':<{WIDTH}}"
    lines = [head + "".join(f"{name:>16}" for name in names)]
    for part in (*PARTS, *GROUPS):
        label = part.removesuffix("_ms").replace("_", " ")
        cells = "".join(f"{by_name[name][part]:16.2f}" for name in names)
        lines.append(f"{label:<{WIDTH}}{cells}")
    return "\n".join(lines)
