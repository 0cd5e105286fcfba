//! Runs other processes that end: one that hangs is killed, with all that it has started.
//!
//! # Invariants
//!
//! 1. Nothing waits for a process longer than its patience: what it says goes to a file, not into a pipe that somebody
//!    else may hold open.
//! 2. A process is the leader of a group of its own, and the whole group dies with it if it is killed.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// How a process has ended, and all that it has said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: it was killed, because its time was over.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) said: String,
}

impl Ended {
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// In a few words.
    pub(crate) fn how(&self) -> String {
        self.status.map_or_else(|| "it hangs".to_owned(), |status| status.to_string())
    }
}

/// Runs `command` to its end, or for `patience`.
///
/// # Errors
///
/// If it cannot be started, or waited for.
pub(crate) fn run(command: &mut Command, patience: Duration) -> io::Result<Ended> {
    run_and_look(command, patience, |_| None)
}

/// As [`run`]; once `look` finds in what was said so far that it is settled, no longer than it says from then on.
pub(crate) fn run_and_look(
    command: &mut Command,
    patience: Duration,
    look: impl Fn(&str) -> Option<Duration>,
) -> io::Result<Ended> {
    let (mut end, mut settled) = (Instant::now() + patience, false);
    run_until(command, |said| {
        if !settled && let Some(grace) = look(said) {
            (settled, end) = (true, end.min(Instant::now() + grace));
        }
        end
    })
}

/// Runs `command` to its end, or until `progress` has given the same for as long as `patience`.
pub(crate) fn run_watched(command: &mut Command, patience: Duration, progress: impl Fn() -> u64) -> io::Result<Ended> {
    let (mut last, mut since) = (progress(), Instant::now());
    run_until(command, |_| {
        let now = progress();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since + patience
    })
}

/// Runs `command` to its end, or to the moment that `end` names, which is told what was said so far and asked again and again.
fn run_until(command: &mut Command, mut end: impl FnMut(&str) -> Instant) -> io::Result<Ended> {
    let said = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?).process_group(0);
    let mut child = command.spawn()?;
    let mut text = Vec::new();
    loop {
        if let Some(status) = child.try_wait()? {
            read_on(&said, &mut text)?;
            return Ok(Ended { status: Some(status), said: String::from_utf8_lossy(&text).into_owned() });
        }
        read_on(&said, &mut text)?;
        if Instant::now() > end(&String::from_utf8_lossy(&text)) {
            kill(&mut child)?;
            read_on(&said, &mut text)?;
            return Ok(Ended { status: None, said: String::from_utf8_lossy(&text).into_owned() });
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Kills a process with its group: tests and fuzz targets have children of their own.
fn kill(child: &mut Child) -> io::Result<()> {
    match rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL) {
        // It has just ended.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    child.wait().map(drop)
}

/// Appends what was said since. By its own offset: the one of the file is the child's.
fn read_on(said: &File, text: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 8192];
    loop {
        match said.read_at(&mut buffer, text.len() as u64)? {
            0 => return Ok(()),
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any of these tests may take.
    const LONG: Duration = Duration::from_mins(2);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_process_says_and_how_it_ends_is_told() {
        let ended = run(&mut shell("echo out; echo err >&2; exit 3"), LONG).unwrap();
        assert_eq!((ended.said.as_str(), ended.status.and_then(|status| status.code())), ("out\nerr\n", Some(3)));
        assert!(!ended.is_success() && run(&mut shell("true"), LONG).unwrap().is_success());
    }

    #[test]
    fn a_process_that_hangs_is_killed_with_its_children() {
        let begun = Instant::now();
        let ended = run(&mut shell("sleep 1000 & echo $!; wait"), Duration::from_secs(1)).unwrap();
        assert!(ended.status.is_none() && begun.elapsed() < LONG, "{ended:?}");
        let child = Pid::from_raw(ended.said.trim().parse().unwrap()).unwrap();
        // It is killed at once, and gone when the init process has waited for it.
        let is_alive = || {
            let status = std::fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()));
            status.is_ok_and(|status| !status.contains(") Z "))
        };
        while is_alive() {
            assert!(begun.elapsed() < LONG, "the child of a process that was killed goes on");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_process_whose_result_is_known_gets_its_grace_and_no_more() {
        let begun = Instant::now();
        let look = |said: &str| said.contains("FAILED").then_some(Duration::from_millis(100));
        let ended = run_and_look(&mut shell("echo FAILED; sleep 1000"), LONG * 10, look).unwrap();
        assert!(ended.status.is_none() && begun.elapsed() < LONG, "{ended:?}");
        assert_eq!(ended.said, "FAILED\n");
    }

    #[test]
    fn a_process_that_goes_on_is_not_killed_and_one_that_stands_still_is() {
        let steps = std::cell::Cell::new(0);
        let goes_on = || {
            steps.set(steps.get() + 1);
            steps.get()
        };
        // Longer than the patience, which never ends while something goes on.
        assert!(run_watched(&mut shell("sleep 1"), Duration::from_millis(400), goes_on).unwrap().is_success());
        let begun = Instant::now();
        let ended = run_watched(&mut shell("echo begun; sleep 1000"), Duration::from_millis(400), || 7).unwrap();
        assert!(ended.status.is_none() && begun.elapsed() < LONG, "{ended:?}");
        assert_eq!((ended.said.as_str(), ended.how().as_str()), ("begun\n", "it hangs"));
    }
}
