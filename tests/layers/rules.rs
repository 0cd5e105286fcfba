//! The rules of the tree, each a function from files to what breaks it.
//!
//! # Invariants
//!
//! 1. A rule sees nothing but the files it is given, so that a test can hand it bad ones.
//! 2. Each breach names the file, the line, and what to do.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;

use crate::source::{Path, Source};

/// From the lowest to the highest. A module may name those of lower layers only.
const LAYERS: [&[&str]; 7] = [
    &["sync", "planted", "os", "block", "error"],
    &["storage", "io_pool"],
    &["index", "keyed", "blittable", "named"],
    &["wheel"],
    &["scratch"],
    &["kv", "folio", "pile", "vec", "spill"],
    // Built for fuzz targets and for benches only: what they call below the public interface.
    &["fuzzing", "benching"],
];

/// What may be named inside its own layer: locks by all, plain values by the errors that carry them.
const WITHIN_A_LAYER: [(&str, &str); 7] = [
    ("planted", "sync"),
    ("os", "planted"),
    ("block", "planted"),
    ("os", "sync"),
    ("block", "sync"),
    ("error", "sync"),
    ("error", "block"),
];

/// The files that may hold unsafe code, relative to `src/`; a folder ends with a slash.
const UNSAFE_FILES: [&str; 10] = [
    "os/",
    "storage/region.rs",
    "storage/memory.rs",
    "storage/contained.rs",
    "index/table.rs",
    "wheel/gather.rs",
    "wheel/lend.rs",
    // Tests of the promises that unsafe code relies on.
    "storage/contract.rs",
    "storage/faulty/source.rs",
    "storage/lossy.rs",
];

/// What of `std::sync` and `std::thread` has no state that a model would have to follow.
const HARMLESS: [&[&str]; 5] = [
    &["std", "sync", "Arc"],
    &["std", "sync", "Weak"],
    &["std", "thread", "Result"],
    &["std", "thread", "available_parallelism"],
    &["std", "thread", "panicking"],
];

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Breach {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Every breach of every rule, in order of file and line, each once.
pub(crate) fn check(files: &[Source]) -> Vec<Breach> {
    let test_modules = test_modules(files);
    let mut found = BTreeSet::new();
    for file in files {
        let module = file.module();
        let for_tests = test_modules.iter().any(|test| module.iter().copied().take(test.len()).eq(test.iter()));
        found.extend(check_unsafe(file));
        found.extend(check_std(file, for_tests));
        found.extend(check_layers(file));
    }
    found.into_iter().collect()
}

fn check_layers(file: &Source) -> Vec<Breach> {
    let module = file.module();
    let Some(&own) = module.first() else { return Vec::new() };
    let breach = |line, what| Breach { file: file.path.clone(), line, what };
    if layer(own).is_none() {
        return vec![breach(1, format!("module `{own}` has no layer: give it one in tests/layers/rules.rs"))];
    }
    let judge = |path: &Path| {
        let named = below_root(path)?;
        let what = if layer(named).is_none() {
            format!("`crate::{named}` is no module with a layer: name an item by the module it lives in")
        } else if may_name(own, named) {
            return None;
        } else {
            format!("`{own}` (layer {:?}) must not name `{named}` (layer {:?})", layer(own)?, layer(named)?)
        };
        Some(breach(path.line, what))
    };
    file.paths().iter().filter_map(judge).collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn may_name(own: &str, named: &str) -> bool {
    own == named || layer(named) < layer(own) || WITHIN_A_LAYER.contains(&(own, named))
}

/// The name after the crate's root in `crate::name` or in as many `super` as it takes to get there.
fn below_root(path: &Path) -> Option<&str> {
    let names = path.names.iter().map(String::as_str);
    let ups = names.clone().skip_while(|name| *name == "self").take_while(|name| *name == "super").count();
    let mut rest = names.skip_while(|name| matches!(*name, "self" | "super"));
    if ups == path.depth && ups > 0 {
        return rest.next();
    }
    (rest.next() == Some("crate")).then(|| rest.next()).flatten()
}

fn check_std(file: &Source, for_tests: bool) -> Vec<Breach> {
    if for_tests || file.path == "sync.rs" {
        return Vec::new();
    }
    let breach = |path: &Path| Breach {
        file: file.path.clone(),
        line: path.line,
        what: format!("`{}` hides from the models: take it from `crate::sync`", path.names.join("::")),
    };
    file.paths().iter().filter(|path| !path.test && is_of_threads(path)).map(breach).collect()
}

fn is_of_threads(path: &Path) -> bool {
    let names: Vec<&str> = path.names.iter().map(|name| if name == "core" { "std" } else { name }).collect();
    match names[..] {
        ["parking_lot" | "loom", ..] | ["std", "*"] => true,
        ["std", "sync" | "thread", ..] => !HARMLESS.iter().any(|harmless| names.starts_with(harmless)),
        _ => false,
    }
}

fn check_unsafe(file: &Source) -> Vec<Breach> {
    let listed = |entry: &str| file.path == entry || (entry.ends_with('/') && file.path.starts_with(entry));
    if UNSAFE_FILES.iter().any(|entry| listed(entry)) {
        return Vec::new();
    }
    let breach = |line, what: &str| Breach { file: file.path.clone(), line, what: what.to_owned() };
    let module = file.module().join("/");
    if UNSAFE_FILES.iter().any(|entry| file.is_root() || entry.starts_with(&format!("{module}/"))) {
        // A `forbid` here would reach the listed files below; a trait may be declared unsafe where its contract stands.
        let pairs = file.tokens.windows(2).filter(|pair| pair[0].text == "unsafe" && pair[1].text != "trait");
        return pairs.map(|pair| breach(pair[0].line, "unsafe code outside the files listed for it")).collect();
    }
    if file.contains(&["#", "!", "[", "forbid", "(", "unsafe_code", ")", "]"]) {
        return Vec::new();
    }
    vec![breach(1, "`#![forbid(unsafe_code)]` is missing")]
}

/// The modules that `#[cfg(test)] mod name;` declares, as paths from the root.
fn test_modules(files: &[Source]) -> Vec<Vec<String>> {
    let declared = |file: &Source| {
        let parent: Vec<String> = file.module().iter().map(|&name| name.to_owned()).collect();
        let below = |name| parent.iter().cloned().chain([name]).collect();
        file.test_modules().into_iter().map(below).collect::<Vec<Vec<String>>>()
    };
    files.iter().flat_map(declared).collect()
}
