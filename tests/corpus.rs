//! The seeds of the fuzz targets, through the same functions that fuzzing runs, on any toolchain.

#[expect(dead_code, unreachable_pub, clippy::pedantic, reason = "a crate of its own, with what only fuzzing calls")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// Runs a target on each of its committed seeds.
fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut count = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "there are no seeds in {}", folder.display());
}

#[test]
fn seeds_of_header() {
    replay("header", targets::header::run);
}

#[test]
fn seeds_of_directory() {
    replay("directory", targets::directory::run);
}

#[test]
fn seeds_of_folder() {
    replay("folder", targets::folder::run);
}

#[test]
fn seeds_of_blittable_reader() {
    replay("blittable_reader", targets::blittable_reader::run);
}
