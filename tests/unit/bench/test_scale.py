"""What the scale run of bench/meta.py makes, and where it measures."""

from __future__ import annotations

from metadata.scale import FILES_PER_DIRECTORY, marks, name_of, percentile


def test_it_measures_at_one_two_and_five_times_each_power_of_ten_and_at_the_end() -> None:
    assert marks(10_000) == [10_000]
    assert marks(120_000) == [10_000, 20_000, 50_000, 100_000, 120_000]
    assert marks(10_000_000)[-2:] == [5_000_000, 10_000_000]


def test_every_file_of_a_directory_has_a_name_of_its_own_and_every_second_directory_is_in_order() -> None:
    for directory in range(4):
        first = directory * FILES_PER_DIRECTORY
        names = [name_of(serial) for serial in range(first, first + FILES_PER_DIRECTORY)]
        assert len(set(names)) == FILES_PER_DIRECTORY
        assert (sorted(names) == names) == (directory % 2 == 0)


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], percent) for percent in (0, 50, 99)] == [1.0, 3.0, 4.0]
