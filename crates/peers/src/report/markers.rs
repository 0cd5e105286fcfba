//! The parts of a file that are written by programs: each between two comments, and nothing outside them.
#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::store::Failure;

/// What stands in the comments around the comparison with other stores.
pub(crate) const PEERS: &str = "peers";
/// What stands in the comments around the figures to reach.
pub(crate) const FIGURES: &str = "figures";

const HEADER: &str = "# Benchmarks\n\nHow fast, beside what, and measured how.\n\n";

/// Replaces a part of a file, or makes the file.
pub(crate) fn write(path: &Path, name: &str, part: &str) -> Result<(), Failure> {
    let file = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        file => Some(file?),
    };
    let text = replaced(file.as_deref(), name, part).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(fs::write(path, text)?)
}

/// The text of a file with a new part, which comes last if it was not there; of a file that is not there, with a header.
///
/// # Errors
///
/// If the comments are there, but not once each in their order: nothing is guessed.
fn replaced(file: Option<&str>, name: &str, part: &str) -> Result<String, String> {
    let [begin, end] = ["begin", "end"].map(|word| format!("<!-- {name}: {word} -->"));
    let part = format!("{begin}\n\n{}\n\n{end}", part.trim());
    let file = file.unwrap_or(HEADER);
    match (file.matches(&begin).count(), file.matches(&end).count()) {
        (0, 0) => return Ok(format!("{}\n\n{part}\n", file.trim_end())),
        (1, 1) => {}
        _ => return Err(format!("the file must have `{begin}` and `{end}` once each, or neither")),
    }
    let parts = file.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("`{end}` stands before `{begin}`"))?;
    Ok(format!("{before}{part}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_its_comments_is_replaced() {
        let made = replaced(None, "one", "1\n").unwrap();
        assert_eq!(made, format!("{HEADER}<!-- one: begin -->\n\n1\n\n<!-- one: end -->\n"));
        let file = made.replace("How fast", "Mine: how fast") + "\n## More\n";
        assert_eq!(replaced(Some(&file), "one", "2").unwrap(), file.replace("\n1\n", "\n2\n"));
        let both = replaced(Some(&file), "two", "3").unwrap();
        assert_eq!(both, file + "\n<!-- two: begin -->\n\n3\n\n<!-- two: end -->\n");
        assert_eq!(replaced(Some(&both), "one", "4").unwrap(), both.replace("\n1\n", "\n4\n"));
        let (begin, end) = ("<!-- x: begin -->", "<!-- x: end -->");
        for bad in [begin, end, &format!("{end}{begin}"), &format!("{begin}{begin}{end}")] {
            replaced(Some(bad), "x", "y").unwrap_err();
        }
    }

    #[test]
    fn a_file_is_made_and_written_again() {
        let folder = benchkit::folder();
        let path = folder.path().join("file");
        for part in ["first", "second"] {
            write(&path, PEERS, part).unwrap();
            assert!(fs::read_to_string(&path).unwrap().contains(part));
        }
        assert!(write(folder.path(), PEERS, "").is_err() && !fs::read_to_string(path).unwrap().contains("first"));
    }
}
