"""Which tests run on the emulated device: all of these folders but for what is left out here."""

from machine import ROOT

FOLDERS = ("tests/faults", "tests/edgemem", "tests/runtime")
# Emulated code is ten to twenty times slower; each command line starts a Python of its own.
LEFT_OUT = {
    "needs scipy": ["tests/runtime/step/test_call_sizes.py"],
    "needs scikit-learn": [
        "tests/edgemem/bank/building/test_build.py",
        "tests/runtime/persistence/test_commits.py",
        "tests/runtime/contexts/test_context_blocks.py",
        "tests/runtime/contexts/test_context_blocks_changed.py",
        "tests/runtime/persistence/test_changed_files.py",
        "tests/runtime/test_closing.py",
        "tests/runtime/persistence/test_privacy.py",
        "tests/runtime/guard/test_frozen_fallback.py",
        "tests/runtime/contexts/test_shipped_rows.py",
        "tests/runtime/contexts/test_shipped_rows_faults.py",
        "tests/runtime/persistence/test_unsound_in_memory.py",
        "tests/runtime/persistence/test_written_is_read.py",
    ],
    "needs tokenizers, which are not installed there": [
        "tests/runtime/language/test_answers_end.py",
        "tests/runtime/language/test_generate.py",
        "tests/runtime/language/test_generate_command.py",
        "tests/runtime/language/test_language_refusals.py",
    ],
    "reads this checkout, not the install": [
        "tests/edgemem/bank/levels/test_format_page.py",
    ],
    "starts many commands, minutes under emulation": [
        "tests/edgemem/bank/building/test_bank_commands.py",
        "tests/edgemem/bank/building/test_ship_commands.py",
        "tests/edgemem/bank/written/test_written_commands.py",
        "tests/edgemem/cli/test_cli.py",
        "tests/edgemem/cli/test_cli_hostile.py",
        "tests/edgemem/cli/test_cli_output.py",
        "tests/edgemem/cli/test_cli_refusals.py",
        "tests/edgemem/test_public_surface.py",
        "tests/edgemem/test_stopping.py",
        "tests/edgemem/cli/test_tune.py",
    ],
    "long runs, minutes under emulation": [
        "tests/edgemem/bank/memories/test_memory_bank.py",
        "tests/edgemem/bank/memories/test_memory_damage.py",
        "tests/edgemem/bundle/test_manifest.py",
        "tests/edgemem/bundle/text/test_text_manifest.py",
        "tests/edgemem/state/test_state_interrupts.py",
        "tests/faults/test_kill_between.py",
        "tests/runtime/engines/test_session_cache.py",
        "tests/runtime/step/test_adapt_when.py",
        "tests/runtime/step/test_background.py",
        "tests/runtime/tools/test_calibration.py",
        "tests/runtime/contexts/test_context_faults.py",
        "tests/runtime/persistence/test_continue.py",
        "tests/runtime/persistence/test_damage.py",
        "tests/runtime/guard/test_guard_rails.py",
        "tests/runtime/contexts/test_lookahead.py",
        "tests/runtime/step/test_step.py",
        "tests/runtime/tools/test_replay.py",
        "tests/runtime/tools/test_tuning.py",
    ],
    "threads and forks of a process with an engine, not tried under emulation": [
        "tests/edgemem/state/test_private_files.py",
        "tests/edgemem/state/test_state_owner.py",
        "tests/faults/test_fork.py",
        "tests/runtime/test_ownership.py",
    ],
}
LEFT_OUT_TESTS = {
    "tests/edgemem/bank/levels/test_level.py::test_nobody_waits_for_what_is_in_memory": (
        "the emulator cannot read only what is in memory (RWF_NOWAIT)"
    ),
    "tests/edgemem/state/test_state.py::test_killed_at_any_moment_it_continues_with_identical_"
    "outputs": (
        "kills within 0.2 s, before the first emulated step; guest_steps.py takes its place"
    ),
    "tests/runtime/test_runtime.py::test_how_frames_are_split_into_calls_does_not_change_what_is_"
    "learnt": "long run",
}
# At least so many tests pass, on the CPU that runs them all and on the one that runs FEW.
LEAST_PASSED = {"cortex-a72": 900, "cortex-a53": 300}
# Files and databases are the same code on either CPU; arithmetic chooses its kernels by it.
FEW = ("tests/runtime/", "tests/faults/test_kill.py")


def chosen(cpu):
    """Test modules that run, by path from the root. A name left out must be there to be left."""
    every = {path for folder in FOLDERS for path in (ROOT / folder).rglob("test_*.py")}
    names = {path.relative_to(ROOT).as_posix() for path in every}
    left_out = {name for group in LEFT_OUT.values() for name in group}
    left_out_tests = {test.partition("::")[0] for test in LEFT_OUT_TESTS}
    assert left_out | left_out_tests <= names, (left_out | left_out_tests) - names
    kept = sorted(names - left_out)
    return kept if cpu == "cortex-a72" else [name for name in kept if name.startswith(FEW)]
