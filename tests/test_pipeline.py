"""Read, compute and write overlap; one bad item does not end the rest."""

import threading

import pytest

from utils.errors import DataError, ResourceError
from utils.inference.pipeline import overlapped


def same(_item, value=None):
    return value


def test_order_and_values():
    written = []
    done = list(
        overlapped(
            range(20),
            read=lambda item: item * 10,
            compute=lambda item, value: item + value,
            write=lambda item, value: written.append((item, value)),
        )
    )
    assert done == [(item, None) for item in range(20)]
    assert written == [(item, 11 * item) for item in range(20)]


def test_bad_items_are_handed_back_in_place():
    def read(item):
        if item == 2:
            raise DataError("cannot be decoded")
        return item

    def compute(item, value):
        if item == 4:
            raise ResourceError("out of memory")
        return value

    outcome = list(overlapped(range(6), read=read, compute=compute, write=same))
    assert [item for item, _ in outcome] == list(range(6))
    assert {item: str(error) for item, error in outcome if error} == {
        2: "cannot be decoded",
        4: "out of memory",
    }


def test_reading_and_writing_go_on_while_computing():
    """Item 0's write and item 2's read end only if both run during the computing of item 1."""
    read_two, wrote_zero = threading.Event(), threading.Event()

    def read(item):
        if item == 2:
            read_two.set()
        return item

    def compute(item, value):
        if item == 1:
            assert read_two.wait(30)
            assert wrote_zero.wait(30)
        return value

    def write(item, _value):
        if item == 0:
            wrote_zero.set()

    assert len(list(overlapped(range(3), read=read, compute=compute, write=write))) == 3


def test_no_more_than_a_few_items_are_in_memory():
    alive, most = set(), 0
    lock = threading.Lock()

    def read(item):
        nonlocal most
        with lock:
            alive.add(item)
            most = max(most, len(alive))
        return item

    def write(item, _value):
        with lock:
            alive.discard(item)

    for _ in overlapped(range(200), read=read, compute=same, write=write):
        pass
    assert most <= 12


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_a_fault_of_ours_ends_the_whole(stage):
    def broken(*_arguments):
        raise KeyError("ours")

    stages = {"read": same, "compute": same, "write": same} | {stage: broken}
    with pytest.raises(KeyError, match="ours"):
        list(overlapped(range(3), **stages))


def test_a_full_disk_ends_the_whole():
    def full(_item, _value):
        raise ResourceError("disk full")

    with pytest.raises(ResourceError, match="disk full"):
        list(overlapped(range(30), read=same, compute=same, write=full))
