//! Bugs that can be chosen, so that the tests can be tested.
//!
//! Where the store keeps a rule against one of its hazards, a line may break the rule when the bug of that number is
//! chosen. `tests/planted/bugs.txt` says what each does, and which test must fail then; `tests/planted` checks that the
//! list and these lines agree, `bash .ci/planted` runs each bug against its test.
//!
//! # Invariants
//!
//! 1. Without `--cfg planted` no bug can be chosen: `is` is a constant, and what hangs on it is not compiled.
#![forbid(unsafe_code)]

/// Whether this bug is chosen: `SCRATCHSPACE_PLANTED=7` when the first line that may break is met.
#[cfg(planted)]
pub(crate) fn is(bug: u8) -> bool {
    use crate::sync::OnceLock;

    static CHOSEN: OnceLock<Option<u8>> = OnceLock::new();
    let number = |value: String| value.parse().expect("SCRATCHSPACE_PLANTED is the number of a planted bug");
    *CHOSEN.get_or_init(|| std::env::var("SCRATCHSPACE_PLANTED").ok().map(number)) == Some(bug)
}

/// No bug is planted.
#[cfg(not(planted))]
pub(crate) const fn is(_bug: u8) -> bool {
    false
}
