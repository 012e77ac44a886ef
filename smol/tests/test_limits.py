"""Limits of containers, read from files that are made up as Linux writes them."""

import math
import os

import pytest

from smol import limits

V1, V2 = "cgroup cgroup rw,{}", "cgroup2 cgroup2 rw"
NONE = 9223372036854771712  # what v1 says where there is no limit


def machine(tmp_path, own, mounts, files):
    """A /proc with the process in the groups `own`, and what the mounts' files say.

    `mounts`: (folder, root, kind) each; `files`: {"folder/group/memory.max": 5}.
    """
    lines = []
    for number, (folder, root, kind) in enumerate(mounts):
        place = (tmp_path / folder).as_posix().replace(" ", r"\040")
        lines.append(f"{30 + number} 23 0:28 {root} {place} rw,relatime shared:9 - {kind}\n")
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    other = "23 1 254:0 / / rw - ext4 /dev/root rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(other + "".join(lines), encoding="utf-8")
    (tmp_path / "proc/self/cgroup").write_text(own, encoding="utf-8")
    for name, said in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{said}\n", encoding="utf-8")
    return tmp_path / "proc"


def test_v2_memory_is_the_limit_less_what_is_used_and_not_cache(tmp_path):
    files = {
        "cg/a/b/memory.max": 3_000,
        "cg/a/b/memory.current": 1_000,
        "cg/a/b/memory.stat": "anon 600\ninactive_file 300\nactive_file 100",
    }
    proc = machine(tmp_path, "0::/a/b\n", [("cg", "/", V2)], files)
    assert limits.memory_left(proc) == 3_000 - 1_000 + 300


def test_v1_memory_counts_the_cache_of_the_groups_within(tmp_path):
    files = {
        "cg/memory/a/memory.limit_in_bytes": 3_000,
        "cg/memory/a/memory.usage_in_bytes": 1_000,
        "cg/memory/a/memory.stat": "inactive_file 5\ntotal_inactive_file 300",
        "cg/memory/memory.limit_in_bytes": NONE,
        "cg/memory/memory.usage_in_bytes": 9_000,
    }
    own = "9:name=systemd:/x\n4:memory:/a\n3:cpu,cpuacct:/c\n"
    mounts = [("cg/cpu", "/", V1.format("cpu,cpuacct")), ("cg/memory", "/", V1.format("memory"))]
    assert limits.memory_left(machine(tmp_path, own, mounts, files)) == 2_300


@pytest.mark.parametrize("tight", ["cg/a/b", "cg/a", "cg"])
def test_a_limit_may_sit_on_any_group_above(tmp_path, tight):
    files = {}
    for folder in ("cg/a/b", "cg/a", "cg"):
        files |= {f"{folder}/memory.max": "max", f"{folder}/memory.current": 100}
        files |= {f"{folder}/cpu.max": "max 100000"}
    files |= {f"{tight}/memory.max": 700, f"{tight}/cpu.max": "50000 100000"}
    proc = machine(tmp_path, "0::/a/b\n", [("cg", "/", V2)], files)
    assert (limits.memory_left(proc), limits.cpu_quota(proc)) == (600, 0.5)


@pytest.mark.parametrize(
    ("root", "group"),
    [
        ("/docker/1f", "/docker/1f"),  # the host's names, and a mount that begins at the group
        ("/", "/docker/1f"),  # a namespace that the mount knows and the process does not
        ("/", "/../../init.scope"),  # a process that was moved out of the namespace's root
        ("/", "/"),
    ],
)
def test_in_a_container_the_mount_is_its_group(tmp_path, root, group):
    files = {"a b/memory.max": 900, "a b/memory.current": 1_000}
    proc = machine(tmp_path, f"0::{group}\n", [("a b", root, V2)], files)
    assert limits.memory_left(proc) == 0  # more than the limit is in use: none is left


@pytest.mark.parametrize(
    ("quota", "period", "cores"), [(-1, 100_000, math.inf), (150_000, 100_000, 1.5)]
)
def test_v1_quota_of_cores(tmp_path, quota, period, cores):
    files = {"cg/a/cpu.cfs_quota_us": quota, "cg/a/cpu.cfs_period_us": period}
    mounts = [("cg", "/", V1.format("cpu,cpuacct"))]
    proc = machine(tmp_path, "3:cpu,cpuacct:/a\n0::/\n", mounts, files)
    assert limits.cpu_quota(proc) == cores and limits.memory_left(proc) == math.inf


def test_without_groups_nothing_is_limited(tmp_path):
    assert limits.memory_left(tmp_path) == limits.cpu_quota(tmp_path) == math.inf
    assert 1 <= limits.allowed_cores() <= os.cpu_count()
    assert limits.memory_left() >= 0 and limits.cpu_quota() > 0  # as it is here


def test_cores_that_the_process_may_run_on(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert limits.allowed_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert limits.allowed_cores() == 1
