//! What a test leaves out because this machine cannot do it.

use std::fs::OpenOptions;
use std::io::Write;

/// Says what is left out and why; also in the file that `SCRATCHSPACE_SKIPPED` names, as nobody hears a test that passes.
pub(crate) fn skipped(what: &str) {
    println!("skipped: {what}");
    if let Some(list) = std::env::var_os("SCRATCHSPACE_SKIPPED") {
        let list = OpenOptions::new().create(true).append(true).open(list);
        list.and_then(|mut list| list.write_all(format!("{what}\n").as_bytes())).expect("a list of what was skipped");
    }
}
