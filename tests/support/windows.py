"""Tests that are left out on Windows, by name, with the reason; a conftest reads this.

A name is a file, a test, or one case of a test. A name that no test has is an error.
"""

from __future__ import annotations

import pytest

LEFT_OUT: dict[str, tuple[str, ...]] = {
    "it acts as another user, by setuid, or sets the bits of a mode": ("tests/checkpoint/test_ownership.py",),
    "the standard library's ProcessPoolExecutor hangs under Wine": (
        "tests/report/test_report.py::test_slots_of_external_pools_are_not_workers",
    ),
    "it needs a terminal of POSIX, Chromium or a notebook": (
        "tests/report/test_progress.py::test_what_workers_print_stands_above_the_bar",
        "tests/report/test_progress.py::test_a_notebook_without_widgets_gets_the_text_bar_and_no_warning",
        "tests/report/test_progress.py::test_a_terminal_that_does_not_know_its_size_has_80_columns",
        "tests/report/test_progress.py::test_in_a_terminal_the_bar_is_one_line_and_the_cursor_is_below_it",
        "tests/report/test_report_in_a_browser.py",
    ),
    "before Python 3.13, the clock of waits has steps of 16 ms on Windows": (
        "tests/checkpoint/test_continued_runs.py::test_nothing_is_committed_after_a_fold_that_broke_midway",
        "tests/resources/test_transactions.py::test_what_would_not_be_one_line_is_refused_and_named",
        "tests/report/test_report.py::test_a_run_that_fails_is_told_too",
        "tests/report/test_report.py::test_the_numbers_of_every_pool_add_up[SerialPool]",
        "tests/checkpoint/test_accepted_changes.py::test_a_mended_function_is_refused_and_the_error_names_the_option_and_its_cost",
        "tests/checkpoint/test_accepted_changes.py::test_a_mended_function_continues_after_one_warning_that_says_what_differs",
        "tests/checkpoint/test_accepted_changes.py::test_the_checkpoint_belongs_to_the_new_function_from_then_on",
        "tests/checkpoint/test_accepted_changes.py::test_a_warning_that_is_an_error_stops_the_run_before_an_item_runs",
        "tests/checkpoint/test_accepted_changes.py::test_the_same_function_gives_no_warning",
        "tests/checkpoint/test_accepted_changes.py::test_another_input_reducer_or_strategy_stays_refused",
    ),
    "a file's name is text on Windows, and not any bytes": (
        "tests/cli/test_command_line.py::test_what_the_output_cannot_encode_is_escaped",
    ),
    "Windows lets no file go that is open": (
        "tests/checkpoint/test_store.py::test_a_file_that_is_replaced_during_a_run_stays",
        "tests/pools/contract/test_own_state.py::test_a_folder_that_was_removed_stops_nobody",
    ),
    "Wine does not follow the symbolic links that it makes": (
        "tests/checkpoint/test_store.py::test_two_runs_at_once_are_refused",
    ),
    "polars and pyarrow are not installed there": (
        "tests/reducers/test_concat.py::test_frames_come_in_input_order_from_worker_processes",
        "tests/reducers/test_concat.py::test_polars_computes_in_workers_that_are_not_forked_from_its_threads",
        "tests/reducers/test_concat.py::test_the_laws_hold_and_the_library_would_make_the_same[frame_of_polars]",
        "tests/reducers/test_concat.py::test_the_laws_hold_and_the_library_would_make_the_same[series_of_polars]",
        "tests/reducers/test_concat.py::test_the_laws_hold_and_the_library_would_make_the_same[table_of_pyarrow]",
        "tests/reducers/test_odd_partials.py::test_data_of_polars_and_pandas_is_compared_as_a_whole",
        "tests/reducers/test_odd_partials.py::test_series_and_frames_of_polars_are_refused",
    ),
    "integers of numpy 1.26 have 32 bits there by default": (
        "tests/testing/test_testing.py::test_equal_says_what_counts_as_the_same",
    ),
    "a process of Windows has no limit of descriptors": (
        "tests/pools/faults/test_hostile_processes.py::test_more_descriptors_than_select_can_count",
        "tests/pools/faults/test_hostile_processes.py::test_no_descriptors_left_is_an_error_and_no_leak",
    ),
    "it changes constants that forked workers inherit": (
        "tests/strategies/test_partition.py::test_the_default_is_right_on_either_side_of_large",
    ),
    "how much memory another process has is known on Linux alone": (
        "tests/report/test_report.py::test_the_memory_of_workers_is_told_though_they_are_kept",
    ),
    "it asks what a run of a second spent its time on, and Wine takes more of it than the run": (
        "tests/report/test_report.py::test_a_run_of_many_tiny_chunks_is_limited_by_scheduling",
        "tests/report/test_report.py::test_a_run_that_is_made_to_be_limited_by_it_is_found_out",
        "tests/report/test_saturation.py::test_a_parent_that_is_nearly_as_busy_as_its_worker_is_reported",
    ),
    "it makes a FIFO": ("tests/input/test_sources.py::test_what_cannot_be_cut_is_refused_at_the_call",),
    "it forks": (
        "tests/pools/contract/test_turns.py::test_a_forked_child_does_not_wait_for_a_run_of_its_parent",
        "tests/pools/faults/test_forkserver.py",
        "tests/pools/faults/test_killed_workers.py::test_a_grandchild_that_lives_on_delays_nobody",
        "tests/checkpoint/test_accepted_changes.py::test_crash_mend_and_kill_9_in_between",
        "tests/checkpoint/test_public_names.py::test_what_a_state_is_pickled_with_is_public[forkserver in processes]",
        "tests/checkpoint/test_public_names.py::test_what_a_state_is_pickled_with_is_public[portable in processes]",
        "tests/checkpoint/test_store.py::test_a_lock_ends_with_its_process",
        "tests/resources/test_into_file.py::test_a_lock_file_goes_with_its_lock",
        "tests/resources/test_into_file.py::test_what_is_in_a_file_before_the_first_run_stays",
        "tests/resources/test_killed_resources.py::test_a_process_that_dies_before_any_call_loses_and_doubles_nothing",
        "tests/resources/test_refused_resources.py::test_workers_that_are_forked_neither_keep_the_lock_nor_end_the_session",
        "tests/resources/test_transactions.py::test_kill_9_around_the_end_of_a_transaction_loses_and_doubles_nothing",
    ),
    "a limit on the size of files, the bits of a mode and a kill in C code are POSIX's": (
        "tests/checkpoint/test_killed_runs.py::test_kill_9_in_the_middle_of_a_commit",
        "tests/checkpoint/test_store.py::test_a_file_is_one_persons",
        "tests/checkpoint/test_store.py::test_a_file_of_another_user_is_not_opened",
        "tests/checkpoint/test_store.py::test_a_file_that_others_may_write_is_not_opened",
        "tests/checkpoint/test_store.py::test_a_folder_that_is_not_ones_own_to_write",
        "tests/checkpoint/test_store.py::test_a_full_disk_ends_the_run_and_the_last_commit_stands",
        "tests/resources/test_databases.py::test_a_full_disk_is_told_with_the_name_of_the_database",
        "tests/resources/test_into_file.py::test_a_full_disk_is_told_with_the_name_of_the_file",
        "tests/resources/test_into_file.py::test_a_ledger_beside_a_file_is_one_persons",
        "tests/resources/test_refused_resources.py::test_a_pickle_is_not_kept_where_others_may_write_it",
    ),
    "it counts or limits the calls by which POSIX reads and replaces a file": (
        "tests/checkpoint/test_store.py::test_what_is_committed_is_there",
        "tests/resources/test_killed_resources.py::test_a_file_system_that_fails_at_any_call_loses_and_doubles_nothing",
    ),
    "it sends a signal by os.kill, which on Windows ends a process": (
        "tests/pools/contract/test_turns.py::test_ctrl_c_ends_the_wait",
        "tests/pools/faults/test_errors_around_a_run.py::test_a_signal_handler_that_raises_leaves_the_pool_good",
        "tests/pools/faults/test_hostile_processes.py::test_signals_that_the_parent_ignores_or_blocks_change_nothing",
        "tests/report/test_progress.py::test_ctrl_c_does_not_step_the_bar_back",
        "tests/cli/test_command_line.py::test_ctrl_c_is_exit_code_130_without_a_traceback",
    ),
    "it compiles thousands of programs, which takes Wine minutes; nothing in it is a system's": (
        "tests/checkpoint/test_fingerprint.py",
    ),
    "it interrupts a run at each of thousands of lines, which takes Wine minutes": (
        "tests/resources/test_interrupts.py",
    ),
}
"""Tests of what Windows does not have, by the reason."""

MOST = 0.1
"""The share of tests that may be left out."""


SERVER = "postgres"
"""Cases with this word are about PostgreSQL's server, which other systems try; they are not counted."""


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that are listed here."""
    listed = {name for names in LEFT_OUT.values() for name in names}
    met, kept, left = set(), [], []
    for item in items:
        found = listed.intersection(_names(item.nodeid))
        met |= found
        (left if found or SERVER in item.nodeid else kept).append(item)
    counted = sum(bool(set(_names(item.nodeid)) & listed) for item in items)
    if len(items) > 1000 and counted > MOST * len(items):
        raise pytest.UsageError(f"{counted} of {len(items)} tests are left out on Windows: at most {MOST:.0%} may be")
    files = {item.nodeid.partition("::")[0] for item in items}
    unknown = {name for name in listed - met if name.partition("::")[0] in files}
    if unknown and not config.option.keyword:
        raise pytest.UsageError(f"tests/support/windows.py names tests that do not exist: {sorted(unknown)}")
    config.get_terminal_writer().line(f"left out on Windows: {counted} by name, of {len(items)}")
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def no_skip(report: pytest.TestReport) -> None:
    """Fail a test that skipped itself, but for want of the server."""
    if report.skipped and not hasattr(report, "wasxfail") and "PostgreSQL" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} skips itself: name it in tests/support/windows.py. {report.longrepr}"


def _names(nodeid: str) -> tuple[str, str, str]:
    """The file, the test and the case."""
    file, _, test = nodeid.partition("::")
    return file, f"{file}::{test.partition('[')[0]}", nodeid
