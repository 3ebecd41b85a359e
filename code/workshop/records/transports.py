"""Which transports NCCL reported: read from its own log (NCCL_DEBUG)."""

import re
from collections import Counter
from pathlib import Path

_CHANNEL = re.compile(
    r"(Channel \d+(?:/\d+)? : \d+\[\w+\] -> \d+\[\w+\]"
    r"(?: \[(?:send|receive)\])? via (\S+))"
)
_NETWORK = re.compile(r"Using network (\S+)")
_EXCERPT = 24


def read(folder: Path) -> tuple[dict, list[str]]:
    """Return what NCCL's logs under a folder say, and the lines that say it.

    The dictionary has `channels` (transport such as `P2P/CUMEM` or
    `NET/Socket/0` -> number of connections over all logs) and `networks`
    (names). Both are empty when no rank used NCCL.
    """
    channels: Counter[str] = Counter()
    networks: set[str] = set()
    lines: list[str] = []
    for path in sorted(folder.glob("*.log")):
        for line in path.read_text(errors="replace").splitlines():
            if match := _CHANNEL.search(line):
                channels[match[2]] += 1
                lines.append(match[1])
            elif match := _NETWORK.search(line):
                networks.add(match[1])
                lines.append(match[0])
    used = {
        "channels": dict(sorted(channels.items())),
        "networks": sorted(networks),
    }
    return used, list(dict.fromkeys(lines))[:_EXCERPT]
