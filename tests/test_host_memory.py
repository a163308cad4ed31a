"""Memory that a step frees stays with the process, so the next one finds its pages there."""

import ctypes
import subprocess
import sys
from pathlib import Path

import train
from utils.hardware.host_memory import keep_freed_memory

ROOT = Path(__file__).parents[1]
PAGE_FAULTS = """
import resource
from utils.hardware.host_memory import keep_freed_memory
{first}
def step():
    blocks = [b"x" * (size << 20) for size in (1, 8, 16, 40, 40)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(first):
    script = PAGE_FAULTS.format(first=first)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_a_step_finds_the_pages_of_the_one_before():
    # 105 MiB a step: 26,880 pages of 4 KiB, or 50 huge ones.
    assert 10 * page_faults("assert keep_freed_memory()") < page_faults("")


def test_training_on_a_cpu_keeps_what_it_frees(write_config, monkeypatch):
    kept = []
    monkeypatch.setattr("utils.hardware.host_memory.keep_freed_memory", lambda: kept.append(True))
    assert train.main(["--config", str(write_config()), "--device", "cpu", "--benchmark", "1"]) == 0
    assert kept == [True]


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # musl
    assert not keep_freed_memory()
