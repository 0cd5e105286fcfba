//! The part of a file that belongs to the report: between two comments, and nothing outside them.
#![forbid(unsafe_code)]

const BEGIN: &str = "<!-- peers: begin -->";
const END: &str = "<!-- peers: end -->";
const HEADER: &str = "# Benchmarks\n\nHow fast, beside what, and measured how.\n\n";

/// The text of a file with a new part; of a file that is not there, with a header.
///
/// # Errors
///
/// If the comments are not there once each, in their order, in a file that is: nothing is guessed.
pub(super) fn replaced(file: Option<&str>, part: &str) -> Result<String, String> {
    let part = format!("{BEGIN}\n\n{}\n\n{END}", part.trim());
    let Some(file) = file else { return Ok(format!("{HEADER}{part}\n")) };
    if (file.matches(BEGIN).count(), file.matches(END).count()) != (1, 1) {
        return Err(format!("the file must have `{BEGIN}` and `{END}` once each"));
    }
    let parts = file.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("`{END}` stands before `{BEGIN}`"))?;
    Ok(format!("{before}{part}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_comments_is_replaced() {
        let made = replaced(None, "one\n").unwrap();
        assert_eq!(made, format!("{HEADER}{BEGIN}\n\none\n\n{END}\n"));
        let file = made.replace("How fast", "Mine: how fast") + "\n## More\n";
        let again = replaced(Some(&file), "two").unwrap();
        assert_eq!(again, file.replace("one", "two"));
        for bad in ["", BEGIN, &format!("{END}{BEGIN}"), &format!("{BEGIN}{BEGIN}{END}")] {
            replaced(Some(bad), "x").unwrap_err();
        }
    }
}
