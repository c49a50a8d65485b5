"""What a new volume wants of its HOME and its disks, and what it makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from siltstone.birth import make_volume, plan_volume
from siltstone.config import VolumeConfig
from siltstone.errors import ConfigInvalid, Unavailable
from siltstone.geometry import DISK_BYTES_MIN, Code
from siltstone.home import Home


def some_disks(tmp_path: Path, count: int) -> list[str]:
    paths = [tmp_path / f"disk{index}" for index in range(count)]
    for path in paths:
        path.mkdir()
    return [str(path) for path in paths]


def refusal(tmp_path: Path, disks: list[str], *, home: str = "home", code: Code | None = None, size: int = 0) -> str:
    """The words with which a plan is refused."""
    with pytest.raises(ConfigInvalid) as caught:
        plan_volume(Home(tmp_path / home), disks, code=code, bytes_max=size, few_disks_allowed=False)
    return str(caught.value)


def test_without_disks_there_are_six_directories_in_home_with_a_warning(tmp_path: Path) -> None:
    plan = plan_volume(Home(tmp_path / "home"), [], code=None, bytes_max=DISK_BYTES_MIN, few_disks_allowed=False)
    assert [Path(disk.path) for disk in plan.config.disks] == [
        tmp_path / "home" / "disks" / f"disk{index}" for index in range(6)
    ]
    assert str(plan.code) == "4+2"
    assert plan.code_was_chosen
    assert "no protection" in plan.warnings[0]
    assert len({disk.uuid for disk in plan.config.disks} | {plan.config.uuid}) == 7
    assert not (tmp_path / "home").exists(), "planning changes nothing"


def test_a_code_that_is_asked_for_is_taken_and_disks_that_share_a_device_are_told(tmp_path: Path) -> None:
    disks = some_disks(tmp_path, 5)
    home, size = Home(tmp_path / "home"), DISK_BYTES_MIN
    plan = plan_volume(home, disks, code=Code(2, 3), bytes_max=size, few_disks_allowed=False)
    assert (plan.config.data_units, plan.config.parity_units, plan.config.log_replicas) == (2, 3, 4)
    assert not plan.code_was_chosen
    assert "5 of the disks" in plan.warnings[0]


def test_fewer_than_three_disks_have_to_be_meant(tmp_path: Path) -> None:
    disks = some_disks(tmp_path, 2)
    assert "--force-single" in refusal(tmp_path, disks)
    plan = plan_volume(Home(tmp_path / "home"), disks[:1], code=None, bytes_max=DISK_BYTES_MIN, few_disks_allowed=True)
    assert str(plan.code) == "1+0"
    assert "no parity" in plan.warnings[-1]


def test_a_code_wider_than_the_disks_is_refused(tmp_path: Path) -> None:
    assert "needs 6 disks" in refusal(tmp_path, some_disks(tmp_path, 5), code=Code(4, 2))


def test_a_disk_size_that_is_too_small_or_more_than_there_is_is_refused(tmp_path: Path) -> None:
    assert "at least" in refusal(tmp_path, [], size=1)
    assert "has room for" in refusal(tmp_path, [], size=2**60)


def test_shards_share_the_disks_evenly_and_each_must_have_enough(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    size = 4 * DISK_BYTES_MIN
    one = plan_volume(home, [], code=None, bytes_max=size, few_disks_allowed=False).config
    four = plan_volume(home, [], code=None, bytes_max=size, few_disks_allowed=False, shards=4).config
    assert four.shards == 4
    assert sorted(set(four.owners)) == [0, 1, 2, 3]
    assert four.chunk_bytes < one.chunk_bytes
    with pytest.raises(ConfigInvalid, match=r"--shards 5: .* for each"):
        plan_volume(home, [], code=None, bytes_max=size, few_disks_allowed=False, shards=5)
    with pytest.raises(ConfigInvalid, match="--shards 0: want 1 to"):
        plan_volume(home, [], code=None, bytes_max=size, few_disks_allowed=False, shards=0)


def test_the_same_disk_twice_is_refused_also_by_another_name(tmp_path: Path) -> None:
    disks = some_disks(tmp_path, 3)
    (tmp_path / "link").symlink_to("disk0")
    assert "twice" in refusal(tmp_path, [*disks, disks[0]])
    assert "twice" in refusal(tmp_path, [*disks, str(tmp_path / "link")])
    assert "twice" in refusal(tmp_path, [*disks, f"{tmp_path}/disk1/../disk0"])


def test_a_disk_inside_another_or_around_home_is_refused(tmp_path: Path) -> None:
    disks = some_disks(tmp_path, 3)
    assert "inside disk" in refusal(tmp_path, [*disks, f"{disks[0]}/inner"])
    assert "keep it apart" in refusal(tmp_path, disks, home="disk0/home")


def test_a_disk_that_is_not_an_empty_directory_is_refused_and_lost_and_found_does_not_count(tmp_path: Path) -> None:
    disks = some_disks(tmp_path, 3)
    (tmp_path / "file").write_text("")
    (tmp_path / "disk1" / "lost+found").mkdir()
    plan_volume(Home(tmp_path / "home"), disks, code=None, bytes_max=DISK_BYTES_MIN, few_disks_allowed=False)
    assert "not a directory" in refusal(tmp_path, [*disks, str(tmp_path / "file")])
    assert "does not exist" in refusal(tmp_path, [*disks, str(tmp_path / "absent" / "disk")])
    (tmp_path / "disk2" / "photo.jpg").write_text("")
    assert "not empty (photo.jpg)" in refusal(tmp_path, disks)
    (tmp_path / "disk2" / "superblock").write_text("")
    assert "belongs to a volume" in refusal(tmp_path, disks)


def test_a_home_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("")
    assert "not empty (letter)" in refusal(tmp_path, [])
    (tmp_path / "home" / "volume.json").write_text("{}")
    assert "holds a volume already" in refusal(tmp_path, [])
    assert "not a directory" in refusal(tmp_path, [], home="home/letter")


def test_what_fails_half_way_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = some_disks(tmp_path, 3)
    (tmp_path / "disk0" / "lost+found").mkdir()
    before = sorted(tmp_path.rglob("*"))
    home = Home(tmp_path / "home")
    disks.append(str(tmp_path / "new"))
    plan = plan_volume(home, disks, code=None, bytes_max=DISK_BYTES_MIN, few_disks_allowed=False)

    def full(config: VolumeConfig) -> None:
        raise Unavailable("no room for volume.json")

    monkeypatch.setattr(home, "save_config", full)
    with pytest.raises(Unavailable, match=r"volume\.json"):
        trio.run(make_volume, home, plan)
    assert sorted(tmp_path.rglob("*")) == before
