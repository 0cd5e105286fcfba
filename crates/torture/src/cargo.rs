//! Builds test executables by `cargo`, and runs tests of theirs.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process;
use crate::report::Failure;

/// The root of the repository: this crate is `crates/torture` of it.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Flags of the compiler, and the folder below the target folder that is theirs; nothing of both by default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags<'a> {
    pub(crate) folder: &'a str,
    pub(crate) flags: &'a str,
}

/// Builds the unit tests of the library, with optimisation.
pub(crate) fn library_tests() -> Result<PathBuf, Failure> {
    let built = test_executables(&["--lib"], Flags::default())?;
    let of_library = built.into_iter().find(|(name, _)| name == "scratchspace");
    of_library.map(|(_, path)| path).ok_or_else(|| Failure::new("cargo has built no unit tests of the library"))
}

/// Builds tests of the root package, with optimisation: name of the target and path of the executable.
pub(crate) fn test_executables(which: &[&str], with: Flags<'_>) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut command = Command::new("cargo");
    command.current_dir(root()).args(["test", "--release", "-p", "scratchspace", "--no-run"]).args(which);
    command.arg("--message-format=json");
    if !with.flags.is_empty() {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        command.env("RUSTFLAGS", with.flags).env("CARGO_TARGET_DIR", target.join(with.folder));
    }
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| Failure::new(format!("running cargo: {error}")))?;
    if !output.status.success() {
        return Err(Failure::new(format!("cargo test --no-run: {}", output.status)));
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let tests = lines.lines().filter(|line| line.contains("\"compiler-artifact\""));
    let tests = tests.filter_map(|line| {
        let path = text_after(line, "\"executable\":\"")?;
        let target = line.split("\"target\":").nth(1)?;
        Some((text_after(target, "\"name\":\"")?.to_owned(), PathBuf::from(path)))
    });
    Ok(tests.collect())
}

/// What stands between `key` and the next quote: names and paths here have none of their own.
fn text_after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split(key).nth(1)?.split('"').next()
}

/// Runs a test, and gives all that it said; as an error if it fails, hangs for `patience`, or if there is no such test.
pub(crate) fn run_test(command: &mut Command, patience: Duration) -> Result<String, String> {
    let ended = process::run(command.current_dir(root()), patience);
    let ended = ended.map_err(|error| format!("running {command:?}: {error}"))?;
    if ended.status.is_none() {
        return Err(format!("killed, for it was not over after {patience:?}\n{}", ended.said));
    }
    if !ended.is_success() {
        return Err(format!("{}\n{}", ended.how(), ended.said));
    }
    // A name that matches nothing succeeds.
    if ended.said.contains("running 0 tests") {
        return Err(format!("there is no such test: {command:?}"));
    }
    Ok(ended.said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_hangs_or_is_not_there_fails() {
        let shell = |script: &str, patience| run_test(Command::new("sh").args(["-c", script]), patience);
        let long = Duration::from_mins(2);
        assert_eq!(shell("echo running 1 test", long).unwrap().trim(), "running 1 test");
        assert!(shell("echo running 0 tests", long).unwrap_err().contains("no such test"));
        assert!(shell("echo it breaks; exit 101", long).unwrap_err().contains("it breaks"));
        let hung = shell("echo seed 5; sleep 1000", Duration::from_millis(500)).unwrap_err();
        assert!(hung.contains("not over after") && hung.contains("seed 5"), "{hung}");
    }

    #[test]
    fn the_root_is_the_root() {
        assert!(root().join("docs/reliability.md").is_file());
    }

    #[test]
    fn a_path_is_found_in_what_cargo_says() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"laps"},"executable":"/t/laps-1"}"#;
        assert_eq!(text_after(line, "\"executable\":\""), Some("/t/laps-1"));
        assert_eq!(text_after(line, "\"nothing\":\""), None);
    }
}
