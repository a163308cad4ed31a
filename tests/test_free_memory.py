"""How much memory is free, on machines and in containers that are trees of files here."""

import pytest

from utils.hardware import memory

GIB = 2**30
UNLIMITED_1 = 9223372036854771712  # what version 1 shows without a limit


def machine(root, *, available, cgroup, groups):
    """Files as Linux shows them; `groups` are folders below /sys/fs/cgroup and their files."""
    (root / "proc/self").mkdir(parents=True)
    meminfo = f"MemTotal: {2**40} kB\nMemAvailable:   {available // 1024} kB\n"
    (root / "proc/meminfo").write_text(meminfo)
    (root / "proc/self/cgroup").write_text(cgroup)
    for folder, files in groups.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_text(f"{content}\n")


def version_2(limit, used, *, active=0, inactive=0):
    stat = f"anon 5\nfile 9\ninactive_file {inactive}\nactive_file {active}\nshmem 7"
    return {"memory.max": limit, "memory.current": used, "memory.stat": stat}


def version_1(limit, used, *, inactive=0):
    # Without "total_": of the group alone, without those in it, whose use is counted here.
    stat = f"cache 9\ninactive_file 3\ntotal_inactive_file {inactive}\ntotal_active_file 0"
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used,
        "memory.stat": stat,
    }


V1 = "9:name=systemd:/\n4:memory:{path}\n3:cpuset:/\n0::/\n"
CASES = {
    "no limit": ("0::/\n", {"": version_2("max", 5 * GIB)}, 100),
    "container, version 2": ("0::/\n", {"": version_2(8 * GIB, 5 * GIB)}, 3),
    "page cache gives way": (
        "0::/\n",
        {"": version_2(32 * GIB, 31 * GIB, active=14 * GIB, inactive=16 * GIB)},
        31,
    ),
    "SLURM and systemd, version 2: limits lie above": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n",
        {
            "system.slice/slurmstepd.scope/job_7/step_0/user/task_0": version_2("max", 4 * GIB),
            "system.slice/slurmstepd.scope/job_7": version_2(16 * GIB, 6 * GIB, inactive=GIB),
            "system.slice": version_2(64 * GIB, 60 * GIB, inactive=20 * GIB),
        },
        11,
    ),
    "SLURM, version 1": (
        V1.format(path="/slurm/uid_5/job_7/step_0/task_0"),
        {
            "memory/slurm/uid_5/job_7/step_0/task_0": version_1(UNLIMITED_1, GIB),
            "memory/slurm/uid_5/job_7": version_1(16 * GIB, 12 * GIB, inactive=10 * GIB),
            "memory": version_1(UNLIMITED_1, 90 * GIB),
        },
        14,
    ),
    "container, version 1: the path is its host's": (
        V1.format(path="/docker/4f3c"),
        {"memory": version_1(8 * GIB, 5 * GIB)},
        3,
    ),
    "version 1 beside an empty version 2": (
        V1.format(path="/job"),
        {"unified": {"cgroup.procs": 1}, "memory/job": version_1(8 * GIB, 7 * GIB)},
        1,
    ),
    "more in use than allowed": ("0::/a\n", {"a": version_2(2 * GIB, 3 * GIB)}, 0),
    "a group of another kind": ("5:cpu,cpuacct:/a\n", {"a": version_2(2 * GIB, GIB)}, 100),
}


@pytest.mark.parametrize(("cgroup", "groups", "free"), CASES.values(), ids=CASES)
def test_the_least_of_all_limits_is_free(tmp_path, monkeypatch, cgroup, groups, free):
    machine(tmp_path, available=100 * GIB, cgroup=cgroup, groups=groups)
    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    assert memory.free_memory() == free * GIB


def test_a_machine_that_has_less_than_its_limit(tmp_path, monkeypatch):
    groups = {"": version_2(8 * GIB, GIB)}
    machine(tmp_path, available=2 * GIB, cgroup="0::/\n", groups=groups)
    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    assert memory.free_memory() == 2 * GIB


def test_a_system_that_does_not_tell_forbids_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    assert memory.free_memory() > 2**60
