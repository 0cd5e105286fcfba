//! What was measured on, in a line.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cold::meminfo;

/// Processor, memory, kernel, file system and disk of a folder; whatever is not known is left out.
pub(crate) fn describe(folder: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parts =
        vec![format!("{cores} cores of {}", processor().unwrap_or_else(|| "an unknown processor".to_owned()))];
    parts.extend(meminfo("MemTotal").map(|bytes| format!("{:.0} GiB of memory", gib(bytes))));
    let uname = rustix::system::uname();
    parts.push(format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()));
    let system = benchkit::file_system(folder);
    parts.extend(system.map(|system| match disk(folder) {
        Some(disk) => format!("{system} on {disk}"),
        None => system,
    }));
    parts.join(", ")
}

#[expect(clippy::cast_precision_loss, reason = "a size of three digits")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The disk of a folder: its model, or where it tells none its name, and its size.
fn disk(folder: &Path) -> Option<String> {
    let device = fs::metadata(folder).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let of_partition = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let is_partition = of_partition.join("partition").exists();
    let place = if is_partition { of_partition.parent()?.to_owned() } else { of_partition };
    let read = |name: &str| fs::read_to_string(place.join(name)).ok().map(|text| text.trim().to_owned());
    let name = read("device/model").unwrap_or(place.file_name()?.to_string_lossy().into_owned());
    let sectors: u64 = read("size")?.parse().ok()?;
    Some(format!("{name} ({:.0} GiB)", gib(sectors * 512)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_processor_memory_and_kernel_and_no_folder() {
        let folder = benchkit::folder();
        let line = describe(folder.path());
        assert!(line.contains("cores of") && line.contains("GiB of memory") && line.contains("Linux"), "{line}");
        assert!(!line.contains(&*folder.path().to_string_lossy()), "{line}");
    }
}
