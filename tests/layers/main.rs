//! The tree keeps its shape: modules name only layers below their own, unsafe code and threads stay in their files.
#![forbid(unsafe_code)]

mod rules;
mod source;

use std::fs;
use std::path::Path;

use crate::rules::check;
use crate::source::Source;

fn sources(folder: &Path) -> Vec<Source> {
    let (mut found, mut left) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(at) = left.pop() {
        if at.is_dir() {
            left.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        } else if at.extension().is_some_and(|extension| extension == "rs") {
            let path = at.strip_prefix(folder).unwrap().to_str().unwrap().replace('\\', "/");
            found.push(Source::new(&path, &fs::read_to_string(&at).unwrap()));
        }
    }
    found
}

/// What is wrong with files that are all right but for what `files` holds: each forbids unsafe code, unless it says so.
fn breaches(files: &[(&str, &str)]) -> Vec<String> {
    let with_forbid = |text: &str| format!("{text}\n#![forbid(unsafe_code)]");
    let files: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, &with_forbid(text))).collect();
    check(&files).iter().map(ToString::to_string).collect()
}

fn breaches_in(path: &str, text: &str) -> Vec<String> {
    breaches(&[(path, text)])
}

#[test]
fn the_tree_keeps_its_rules() {
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(files.iter().any(Source::is_root), "no src/lib.rs among {} files", files.len());
    let found = check(&files);
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} breaches:\n{}", found.len(), lines.join("\n"));
}

#[test]
fn a_module_names_lower_layers_and_itself() {
    let text =
        "use crate::block::Slot;\nuse crate::index::table::Table;\nuse crate::{storage::FileMemory, sync::Mutex};";
    assert_eq!(breaches_in("index/mod.rs", text), [""; 0]);
    assert_eq!(breaches_in("error.rs", "use crate::block::Realm;"), [""; 0]);
    assert_eq!(breaches_in("os/linux.rs", "use crate::sync::atomic;"), [""; 0]);
    assert_eq!(breaches_in("lib.rs", "pub use crate::scratch::Scratch;"), [""; 0]);
}

#[test]
fn a_higher_layer_is_refused_with_its_file_and_line() {
    let found = breaches_in("index/bucket.rs", "//! A bucket.\n\nuse crate::wheel::Pinner;");
    assert_eq!(found, ["src/index/bucket.rs:3: `index` (layer 2) must not name `wheel` (layer 3)"]);
}

#[test]
fn a_neighbour_of_the_same_layer_is_refused() {
    assert_eq!(breaches_in("blittable/reader.rs", "use crate::index::BlockIndex;").len(), 1);
    assert_eq!(breaches_in("block/entry.rs", "use crate::error::ReadError;").len(), 1, "only the other way round");
    assert_eq!(breaches_in("sync.rs", "use crate::block::Slot;").len(), 1);
}

#[test]
fn each_way_to_write_a_path_is_seen() {
    let ways = [
        "use crate::{block::{Slot, Realm}, wheel::pin::Pinner as P};",
        "use crate::{\n    block::Slot,\n    wheel,\n};",
        "pub(crate) use crate::wheel::*;",
        "fn f() -> usize { crate::wheel::held() }",
        "fn f(pin: &crate::wheel::Pin) {}",
        "fn f() { g::<crate::wheel::Pin>() }",
        "fn f() { let x = a + crate::wheel::Pin { x: 1 }.x; }",
        "use super::wheel::Pin;",
        "use self::super::wheel::Pin;",
        "mod deep { use super::super::wheel::Pin; }",
        "mod deep { mod deeper {} use crate::block::Slot; fn f() {} }\nuse super::wheel;",
        "#[cfg(test)]\nmod tests { use crate::wheel::Pin; }",
        "macro_rules! m { () => { $crate::wheel::f() } }",
    ];
    for way in ways {
        assert_eq!(breaches_in("index/mod.rs", way).len(), 1, "{way}");
    }
    assert_eq!(breaches_in("index/table.rs", "use super::super::wheel::Pin;").len(), 1);
    assert_eq!(breaches_in("index/table.rs", "use super::wheel::Pin;"), [""; 0], "that is index::wheel");
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = r##"
        //! Unlike crate::wheel::Pin, [`crate::scratch::Scratch`] and std::sync::Mutex.
        /* crate::wheel::Pin /* nested crate::wheel::Pin */ crate::wheel::Pin */
        const A: &str = "crate::wheel::Pin \" crate::wheel::Pin";
        const B: &str = r#"crate::wheel::Pin " crate::wheel::Pin"#;
        const C: [char; 3] = ['"', '\'', 'x'];
        const D: &[u8] = b"crate::wheel::Pin";
        fn f<'a>(x: &'a str) -> &'a str { x }
    "##;
    assert_eq!(breaches_in("index/mod.rs", text), [""; 0]);
    let after = format!("{text}\nuse crate::wheel::Pin;");
    assert_eq!(breaches_in("index/mod.rs", &after).len(), 1, "code goes on behind them");
}

#[test]
fn a_module_without_a_layer_is_refused() {
    let found = breaches_in("cache/mod.rs", "");
    assert_eq!(found, ["src/cache/mod.rs:1: module `cache` has no layer: give it one in tests/layers/rules.rs"]);
    assert_eq!(breaches_in("wheel/mod.rs", "use crate::cache::Cache;").len(), 1);
    assert_eq!(breaches_in("wheel/mod.rs", "use crate::BlockHash;").len(), 1, "a name of the root hides its layer");
    assert_eq!(breaches_in("wheel/mod.rs", "use crate::*;").len(), 1);
}

#[test]
fn a_file_without_forbid_is_refused_unless_listed() {
    let missing = |path: &str, text: &str| check(&[Source::new(path, text)]).len();
    assert_eq!(missing("wheel/pin.rs", "fn f() {}"), 1);
    assert_eq!(missing("wheel/pin.rs", "// #![forbid(unsafe_code)]"), 1);
    assert_eq!(missing("wheel/lend.rs", "fn f() { unsafe { g() } }"), 0);
    assert_eq!(missing("os/linux.rs", "fn f() { unsafe { g() } }"), 0);
    assert_eq!(missing("wheel/lends.rs", ""), 1, "no more than a name like a listed one");
}

#[test]
fn the_parent_of_a_listed_file_holds_no_unsafe_code_of_its_own() {
    let found = |path: &str, text: &str| check(&[Source::new(path, text)]).len();
    assert_eq!(found("storage/mod.rs", "mod region;\npub unsafe trait FileMemory {}"), 0);
    assert_eq!(found("storage/mod.rs", "fn f() { unsafe { g() } }"), 1);
    assert_eq!(found("lib.rs", "unsafe fn f() {}"), 1);
}

#[test]
fn threads_and_locks_of_std_are_refused_outside_sync() {
    let bad = [
        "use std::sync::atomic::AtomicU64;",
        "use std::sync::{Arc, Mutex};",
        "use std::{io, sync::Condvar};",
        "use std::sync;",
        "use std::sync::{self, Arc};",
        "use core::sync::atomic::Ordering;",
        "use ::std::sync::RwLock;",
        "use std::thread;",
        "fn f() { std::thread::spawn(g); }",
        "use parking_lot::Mutex;",
        "use loom::thread;",
        "#[cfg(not(test))]\nuse std::thread;",
        "#[cfg(any(test, fuzzing))]\nuse std::thread;",
        "#[cfg(test)]\nuse std::io;\nuse std::thread;",
        "#[cfg(test)]\nmod tests { fn f() {} }\nuse std::thread;",
    ];
    for text in bad {
        assert_eq!(breaches_in("wheel/keeper.rs", text).len(), 1, "{text}");
        assert_eq!(breaches_in("sync.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn what_no_model_follows_and_what_tests_use_is_free() {
    let good = [
        "use std::sync::{Arc, Weak};",
        "fn f() -> bool { std::thread::panicking() }",
        "use crate::sync::thread;",
        "#[cfg(test)]\nmod tests { use std::thread; fn f() { std::sync::Mutex::new(0); } }",
        "#[cfg(all(test, loom))]\n#[expect(dead_code)]\nmod loom_pin { use loom::thread; }",
        "#[cfg(test)]\nuse std::thread;\nuse std::io;",
        "#![cfg(test)]\nuse std::thread;",
    ];
    for text in good {
        assert_eq!(breaches_in("wheel/keeper.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn a_file_that_its_parent_declares_for_tests_is_a_test() {
    let thread = "use std::thread;";
    let for_tests = [("storage/mod.rs", "#[cfg(test)]\nmod faulty;"), ("storage/faulty.rs", thread)];
    assert_eq!(breaches(&for_tests), [""; 0]);
    let for_all = [("storage/mod.rs", "mod faulty;\n#[cfg(test)]\nmod contract;"), ("storage/faulty.rs", thread)];
    assert_eq!(breaches(&for_all).len(), 1);
}
