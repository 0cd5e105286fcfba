//! A bar on the terminal; nothing where there is no terminal.
#![forbid(unsafe_code)]

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let template = "{msg:10} [{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template above is valid");
    ProgressBar::new(bytes).with_style(style.progress_chars("=> ")).with_message(what)
}
