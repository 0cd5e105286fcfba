//! Devices of a few megabytes: made, mounted, and always taken away again.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::skipped::skipped;

/// Says in a child process where its device is mounted, and of which kind that is.
const PLACE: &str = "SCRATCHSPACE_DEVICE";
const KIND: &str = "SCRATCHSPACE_DEVICE_KIND";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Tmpfs, Self::Ext4, Self::Xfs, Self::Btrfs];

    fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// About the smallest that it can be.
    fn mib(self) -> u64 {
        match self {
            Self::Tmpfs => 16,
            Self::Ext4 => 32,
            Self::Xfs => 320,
            Self::Btrfs => 128,
        }
    }

    /// Metadata first and no journal, so that a device can be damaged behind both.
    fn make(self) -> &'static [&'static str] {
        match self {
            Self::Tmpfs => &[],
            Self::Ext4 => &[
                "mkfs.ext4",
                "-q",
                "-b",
                "4096",
                "-O",
                "^has_journal",
                "-E",
                "packed_meta_blocks=1,lazy_itable_init=0",
                "-m",
                "0",
            ],
            Self::Xfs => &["mkfs.xfs", "-q"],
            Self::Btrfs => &["mkfs.btrfs", "-q", "-M"],
        }
    }
}

/// Runs a program; its output, or why there is none.
pub(crate) fn run(program: &[&str]) -> Result<String, String> {
    let output = Command::new(program[0]).args(&program[1..]).env("PATH", path()).output();
    let output = output.map_err(|error| format!("{}: {error}", program[0]))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{}: {}", program.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// A mounted device. What it takes is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) kind: Kind,
    home: TempDir,
    /// The file below, and the loop device over it.
    image: PathBuf,
    looped: Option<String>,
}

impl Device {
    /// A device of this kind, or why there is none.
    pub(crate) fn new(kind: Kind) -> Result<Self, String> {
        let home = match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
            Some(root) => TempDir::new_in(root),
            None => TempDir::new(),
        };
        let home = home.map_err(|error| error.to_string())?;
        let image = home.path().join("image");
        Self::over(kind, home, image)
    }

    /// The same over a file that is somewhere else, and is as large as `new` makes it.
    pub(crate) fn over(kind: Kind, home: TempDir, image: PathBuf) -> Result<Self, String> {
        fs::create_dir(home.path().join("mounted")).map_err(|error| error.to_string())?;
        let mut device = Self { kind, home, image, looped: None };
        if kind != Kind::Tmpfs {
            File::create(&device.image)
                .and_then(|file| file.set_len(kind.mib() << 20))
                .map_err(|error| error.to_string())?;
            let mut make = kind.make().to_vec();
            let image = device.image.to_str().unwrap().to_owned();
            make.push(&image);
            run(&make)?;
        }
        device.mount()?;
        Ok(device)
    }

    pub(crate) fn place(&self) -> PathBuf {
        self.home.path().join("mounted")
    }

    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    /// Mounts it, over a loop device without a cache of its own.
    pub(crate) fn mount(&mut self) -> Result<(), String> {
        self.mount_cut(None)
    }

    /// The same, with the file below cut short to so many bytes: the device keeps its size, and cannot read the rest.
    pub(crate) fn mount_cut(&mut self, cut: Option<u64>) -> Result<(), String> {
        let place = self.place();
        let place = place.to_str().unwrap();
        if self.kind == Kind::Tmpfs {
            return run(&["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place]).map(drop);
        }
        let image = self.image.to_str().unwrap();
        let looped = run(&["losetup", "--find", "--show", image])?;
        // Not everywhere possible: then reads go through the cache of the file below.
        let _ = run(&["losetup", "--direct-io=on", &looped]);
        self.looped = Some(looped.clone());
        if let Some(cut) = cut {
            let image = File::options().write(true).open(&self.image);
            image.and_then(|image| image.set_len(cut)).map_err(|error| error.to_string())?;
        }
        run(&["mount", "-t", self.kind.name(), &looped, place]).map(drop)
    }

    pub(crate) fn unmount(&mut self) {
        let place = self.place();
        if run(&["umount", place.to_str().unwrap()]).is_err() {
            let _ = run(&["umount", "-l", place.to_str().unwrap()]);
        }
        if let Some(looped) = self.looped.take() {
            let _ = run(&["losetup", "-d", &looped]);
        }
    }

    /// Runs `test` of this binary in a child process that finds the device by `here`.
    pub(crate) fn child(&self, test: &str, step: &str) {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", test, "--nocapture"]).env(PLACE, self.place());
        let output = process.env(KIND, format!("{:?} {step}", self.kind)).output().unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("running 1 test"), "no test is named {test}");
        let signal = output.status.signal();
        assert!(output.status.success(), "{:?} {step}: signal {signal:?}\n{said}{errors}", self.kind);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// In a child process: where the device is, its kind, and what is to be done.
pub(crate) fn here() -> Option<(PathBuf, Kind, String)> {
    let place = PathBuf::from(std::env::var_os(PLACE)?);
    let kind = std::env::var(KIND).unwrap();
    let (kind, step) = kind.split_once(' ').unwrap();
    let kind = Kind::ALL.into_iter().find(|one| format!("{one:?}") == kind).unwrap();
    Some((place, kind, step.to_owned()))
}

/// Runs `test` in a child process for each kind of device that can be made here, which are named if they cannot.
pub(crate) fn on_each(test: &str, kinds: &[Kind], mut work: impl FnMut(Device, &str)) {
    for kind in kinds {
        match Device::new(*kind) {
            Ok(device) => work(device, test),
            Err(reason) => skipped(&format!("{} of {test}: {reason}", kind.name())),
        }
    }
}

/// A file that takes all the space that is left.
pub(crate) fn fill(place: &Path) -> PathBuf {
    use std::io::Write;

    let path = place.join("filler");
    let mut file = File::options().create(true).append(true).open(&path).unwrap();
    for piece in [1 << 20, 4096, 512] {
        let zeros = vec![0xa5; piece];
        while file.write_all(&zeros).and_then(|()| file.sync_data()).is_ok() {}
    }
    path
}
