//! What the user asked for, read from the command line by hand.
//!
//! # Invariants
//!
//! 1. Nothing is guessed: an option that is unknown, lacks its value or comes twice is refused by name.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;

use crate::size;

pub(crate) const HELP: &str = "\
Spills the files of a folder tree into a store that is smaller than they are, compares every block right after its
write and once more at the end, then drops the store, opens it again and shows what survived.

usage: spill [TREE] [--folder PATH]... [--store SIZE] [--files N] [--block SIZE] [--limit SIZE]

  TREE            the tree to read; default: the sources of crates that cargo keeps, else /usr
  --folder PATH   a folder for the store, must exist; several share the load; default: a temporary one in /var/tmp
  --store SIZE    what the store may take in all folders together; default: half of the input
  --files N       files of the store in each folder, at least 3; default: 8
  --block SIZE    the longest block to cut, default: 1MiB; a file of the store must hold four of them
  --limit SIZE    how much of the tree to read at most; default: 1GiB
  --help          this text

Sizes are powers of 1024: 4096, 512MiB, 1g.
Ends with 0 if every block is accounted for, 1 if one is not or the store fails, 2 if the arguments are wrong.
";

const MIB: u64 = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) tree: Option<PathBuf>,
    pub(crate) folders: Vec<PathBuf>,
    /// Bytes, in all folders together.
    pub(crate) store: Option<u64>,
    pub(crate) files_per_folder: u16,
    /// Bytes.
    pub(crate) block: u64,
    /// Bytes.
    pub(crate) limit: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(Arguments),
    Help,
}

/// Reads the arguments after the program's name, or says in a sentence which one is wrong.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let (mut tree, mut folders) = (None, Vec::new());
    let (mut store, mut files, mut block, mut limit) = (None, None, None, None);
    let mut left = arguments.into_iter();
    while let Some(argument) = left.next() {
        let name = argument.to_string_lossy().into_owned();
        let mut value = || left.next().ok_or_else(|| format!("{name} needs a value; --help lists the options"));
        match name.as_str() {
            "--help" | "-h" => return Ok(Asked::Help),
            "--folder" => folders.push(PathBuf::from(value()?)),
            "--store" => set_once(&mut store, &name, size::parse(&text(value()?)?)?)?,
            "--files" => set_once(&mut files, &name, file_count(&text(value()?)?)?)?,
            "--block" => set_once(&mut block, &name, size::parse(&text(value()?)?)?)?,
            "--limit" => set_once(&mut limit, &name, size::parse(&text(value()?)?)?)?,
            option if option.starts_with('-') => return Err(format!("{option} is not an option; --help lists them")),
            _ => set_once(&mut tree, "the tree", PathBuf::from(argument))?,
        }
    }
    if block == Some(0) {
        return Err("--block 0 cuts nothing: give at least 1".to_owned());
    }
    Ok(Asked::Run(Arguments {
        tree,
        folders,
        store,
        files_per_folder: files.unwrap_or(8),
        block: block.unwrap_or(MIB),
        limit: limit.unwrap_or(1024 * MIB),
    }))
}

fn set_once<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{name} is given twice")),
    }
}

fn text(value: OsString) -> Result<String, String> {
    value.into_string().map_err(|value| format!("{} is no text", value.display()))
}

fn file_count(text: &str) -> Result<u16, String> {
    let count = text.parse().ok().filter(|count| (3..=1023).contains(count));
    count.ok_or_else(|| format!("--files {text}: give 3 to 1023, one to fill, one to spare, the others hold data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Asked, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn without_arguments_the_defaults_hold() {
        let Ok(Asked::Run(arguments)) = parsed("") else { panic!("no arguments are fine") };
        let expected = Arguments {
            tree: None,
            folders: Vec::new(),
            store: None,
            files_per_folder: 8,
            block: MIB,
            limit: 1024 * MIB,
        };
        assert_eq!(arguments, expected);
    }

    #[test]
    fn each_option_reaches_its_field() {
        let line = "--folder a /tree --folder b --store 20MiB --files 5 --block 64k --limit 40MiB";
        let expected = Arguments {
            tree: Some("/tree".into()),
            folders: vec!["a".into(), "b".into()],
            store: Some(20 * MIB),
            files_per_folder: 5,
            block: 65536,
            limit: 40 * MIB,
        };
        assert_eq!(parsed(line), Ok(Asked::Run(expected)));
    }

    #[test]
    fn help_is_given_whatever_else_is_asked() {
        assert_eq!(parsed("/tree --help --unknown"), Ok(Asked::Help));
    }

    #[test]
    fn a_wrong_argument_is_refused_by_name() {
        let cases = [
            ("--speed 3", "--speed"),
            ("--store", "--store"),
            ("--store 1g --store 2g", "--store"),
            ("--limit much", "much"),
            ("--files 2", "--files 2"),
            ("--files x", "--files x"),
            ("--block 0", "--block 0"),
            ("a b", "the tree"),
        ];
        for (line, named) in cases {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
