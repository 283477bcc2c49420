"""What a process may use: the machine's memory or the limit of its control groups, from made-up folders."""

import os

import pytest

from adasd.engine.loading.host_memory import host_bytes

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
V1 = "9:name=systemd:/\n4:cpu,memory:/pods/one\n0::/\n"


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "4096000"}, 4096000),  # in a container with a namespace of its own
        ("0::/\n", {"memory.max": "max"}, PHYSICAL),
        ("0::/\n", {"memory.max": str(2 * PHYSICAL)}, PHYSICAL),
        ("0::/pods/one\n", {"pods/one/memory.max": "4096000", "memory.max": "max"}, 4096000),
        ("0::/pods/one\n", {"pods/one/memory.max": "max", "pods/memory.max": "4096000"}, 4096000),
        ("0::/pods/one\n", {"pods/one/memory.max": "5", "pods/two/memory.max": "3"}, 5),
        ("0::/../elsewhere\n", {"memory.max": "4096000"}, 4096000),
        ("0::/of/the:machine\n", {"memory.max": "4096000"}, 4096000),
        (V1, {"memory/pods/one/memory.limit_in_bytes": "4096000"}, 4096000),
        (V1, {"memory/memory.limit_in_bytes": "4096000"}, 4096000),
        (V1, {"memory/pods/one/memory.limit_in_bytes": "9223372036854771712"}, PHYSICAL),
        ("0::/\n", {}, PHYSICAL),
        (None, {"memory.max": "4096000"}, PHYSICAL),
    ],
)
def test_the_tightest_limit_of_the_process_s_control_groups_counts(tmp_path, membership, limits, expected):
    if membership is not None:
        (tmp_path / "self").write_text(membership)
    for name, text in limits.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert host_bytes(tmp_path / "self", tmp_path / "groups") == expected


def test_without_made_up_folders_it_is_this_process_s():
    assert 0 < host_bytes() <= PHYSICAL
