//! What all tortures have in common: where they work, how long, how they show progress, and how they fail.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tempfile::TempDir;

/// How long to go on.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Limit {
    /// How long to go on, as in 90s, 30m or 1h
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    time: Option<Duration>,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write a number and s, m or h, as in 90s");
    let (at, unit) = text.char_indices().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..at].parse().map_err(|_| wrong())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

impl Limit {
    /// The argument that says the same to another process, if a time was given.
    pub(crate) fn to_argument(self) -> Option<String> {
        self.time.map(|time| format!("--for={}s", time.as_secs()))
    }

    /// Begins: until the time is over, or without one until `count` steps were made.
    pub(crate) fn start(self, count: u64) -> Until {
        let begun = Instant::now();
        Until { begun, time: self.time, count: if self.time.is_some() { u64::MAX } else { count } }
    }
}

/// When to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    begun: Instant,
    time: Option<Duration>,
    count: u64,
}

impl Until {
    pub(crate) fn is_over(&self) -> bool {
        self.time.is_some_and(|time| self.begun.elapsed() >= time)
    }

    pub(crate) fn is_reached(&self, count: u64) -> bool {
        count >= self.count || self.is_over()
    }

    pub(crate) fn rest(&self, count: u64) -> u64 {
        self.count.saturating_sub(count)
    }

    /// What is left of the time, if it is time that ends it.
    pub(crate) fn time(&self) -> Option<Duration> {
        self.time.map(|time| time.saturating_sub(self.begun.elapsed()))
    }
}

/// Steps made, of how many if that is known.
pub(crate) fn bar(what: &'static str, until: &Until) -> ProgressBar {
    let (length, template) = match until.time {
        Some(_) => (None, "{msg} {pos}, {per_sec}, {elapsed} gone"),
        None => (Some(until.count), "{msg} {pos} of {len} [{bar:40}] {per_sec}, {eta} left"),
    };
    let style = ProgressStyle::with_template(template).expect("the templates above are valid");
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(4));
    bar.with_style(style.progress_chars("=> ")).with_message(what)
}

/// A folder to work in, below `SCRATCHSPACE_TEST_DIR` or where the system keeps such. Goes with its value.
pub(crate) fn folder(what: &str) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(&format!("torture-{what}-")).tempdir_in(root())
}

fn root() -> PathBuf {
    std::env::var_os("SCRATCHSPACE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Where the folders are, for the line of counts: what never reaches a disk says so.
pub(crate) fn place() -> String {
    let root = root();
    let system = benchkit::file_system(&root);
    match system.as_deref() {
        Some(system @ ("tmpfs" | "ramfs")) => {
            format!("on {system} in `{}`, NOT ON A DISK: SCRATCHSPACE_TEST_DIR names another folder", root.display())
        }
        system => format!("on {} in `{}`", system.unwrap_or("an unknown file system"), root.display()),
    }
}

/// Something was not as promised.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    replay: Option<String>,
    folder: Option<PathBuf>,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), replay: None, folder: None }
    }

    /// The arguments that do it again.
    pub(crate) fn replayed_by(mut self, arguments: &str) -> Self {
        self.replay = Some(format!("cargo run -p torture --release -- {arguments}"));
        self
    }

    /// Another command that does it again.
    pub(crate) fn replayed_with(mut self, command: String) -> Self {
        self.replay = Some(command);
        self
    }

    /// Keeps what the store and its oracle look like.
    pub(crate) fn kept(mut self, folder: TempDir) -> Self {
        self.folder = Some(folder.keep());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(folder) = &self.folder {
            write!(f, "\nkept: {}", folder.display())?;
        }
        if let Some(replay) = &self.replay {
            write!(f, "\nrepeat with: {replay}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("1h", 3600), ("0s", 0)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "h", "5", "1.5h", "-1s", "1d", "99999999999999999999h", "9999999999999999999h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    /// A torture of "the real disk" ran on a tmpfs, and nobody saw it.
    #[test]
    fn the_line_of_counts_says_where_the_folders_are() {
        assert!(place().starts_with("on ") && place().contains("in `"), "{}", place());
    }

    #[test]
    fn a_failure_says_how_to_repeat_it() {
        let failure = Failure::new("key 3 is back").replayed_by("kill --seed 7 --cycles 25 --jobs 1");
        assert_eq!(
            failure.to_string(),
            "key 3 is back\nrepeat with: cargo run -p torture --release -- kill --seed 7 --cycles 25 --jobs 1"
        );
    }
}
