"""What a container or a batch system allows this process: memory and cores, by Linux' cgroups.

Both kinds are read (v1 and v2), from the process' own group up to the mount: a limit may sit on
any of them. Elsewhere, and where nothing can be read, nothing is limited.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")
# The limit, what is used of it, and the line of memory.stat with the cache that is given up first.
MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def memory_left(proc: Path = PROC) -> float:
    """Bytes that the tightest of this process' groups still allows; inf, or a number larger than
    any memory, for no limit.

    What was used includes the page cache. Its inactive part goes when memory is short: not used.
    """
    left = [math.inf]
    for folder in groups("memory", proc):
        for limit, used, cache in MEMORY:
            have, taken = (number(text(folder / name)) for name in (limit, used))
            found = re.search(rf"(?m)^{cache} (\d+)$", text(folder / "memory.stat"))
            if have is not None and taken is not None:
                left.append(max(0, have - taken + (number(found[1]) if found else 0)))
    return min(left)


def cpu_quota(proc: Path = PROC) -> float:
    """How many cores' time the tightest of this process' groups grants it; inf for all of it."""
    granted = [math.inf]
    for folder in groups("cpu", proc):
        v1 = f"{text(folder / 'cpu.cfs_quota_us')} {text(folder / 'cpu.cfs_period_us')}"
        for pair in (text(folder / "cpu.max"), v1):
            found = re.fullmatch(r"(\d+)\s+([1-9]\d*)", pair.strip())  # "max", "-1": no quota
            granted += [int(found[1]) / int(found[2])] if found else []
    return min(granted)


def allowed_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def groups(controller: str, proc: Path = PROC) -> Iterator[Path]:
    """The folders of this process' group and of those around it, for "memory" or "cpu"."""
    own = {}
    for line in text(proc / "self" / "cgroup").splitlines():
        _, names, path = line.split(":", 2)  # "4:cpu,cpuacct:/some/group"; v2 is "0::/some/group"
        own |= dict.fromkeys(names.split(","), path)
    for line in text(proc / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, options = after.split(" ")[0], after.split(" ")[-1].split(",")
        name = "" if kind == "cgroup2" else controller
        if name in own and (kind == "cgroup2" or (kind == "cgroup" and controller in options)):
            root, mount = map(unescaped, before.split(" ")[3:5])
            yield from upwards(Path(mount), PurePosixPath(root), PurePosixPath(own[name]))


def upwards(mount: Path, root: PurePosixPath, group: PurePosixPath) -> Iterator[Path]:
    """From a group's folder up to the mount, which shows the groups from `root` on.

    In a container with a namespace of its own the group may have another name than its folder:
    the mount itself is then the container's group, and always among those looked at.
    """
    inside = group.relative_to(root if group.is_relative_to(root) else "/")
    if ".." not in inside.parts:
        for depth in range(len(inside.parts), 0, -1):
            yield mount.joinpath(*inside.parts[:depth])
    yield mount


def unescaped(field: str) -> str:
    """A path as mountinfo writes it (a space is \\040), in plain text."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def number(said: str) -> float | None:
    """What such a file says: a number, inf for "max", None for neither."""
    if said.strip() == "max":
        return math.inf
    return int(said) if said.strip().isdigit() else None


def text(file: Path) -> str:
    """What stands in the file; nothing where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
