//! What the rules need to know of a Rust file: its tokens, its paths, which parts of it are only built for tests.
//!
//! No parser, only as much of the language as it takes to never mistake a comment or a string for code.
//!
//! # Invariants
//!
//! 1. A token carries the line it starts on, the first line is 1.
//! 2. Comments leave no token; a literal in quotes leaves one, `"`, whatever it says.
#![forbid(unsafe_code)]

/// One file below `src/`, named by its path from there: `wheel/pin.rs`.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) tokens: Vec<Token>,
    /// Parallel to `tokens`: built only under `cfg(test)`.
    pub(crate) test: Vec<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A path in the code with its groups opened: `use a::{b, c::d}` are two, `a::b` and `a::c::d`.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) names: Vec<String>,
    pub(crate) line: usize,
    pub(crate) test: bool,
    /// How many modules the place it is written at lies below the crate's root.
    pub(crate) depth: usize,
}

impl Source {
    pub(crate) fn new(path: &str, code: &str) -> Self {
        let tokens = tokens(code);
        let test = test_parts(&tokens);
        Self { path: path.to_owned(), tokens, test }
    }

    /// The names from the crate's root to the module this file holds: none for `lib.rs`.
    pub(crate) fn module(&self) -> Vec<&str> {
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let mut names: Vec<&str> = stem.split('/').collect();
        if matches!(names.last(), Some(&"mod" | &"lib")) {
            names.pop();
        }
        names
    }

    pub(crate) fn is_root(&self) -> bool {
        self.module().is_empty()
    }

    pub(crate) fn paths(&self) -> Vec<Path> {
        let mut found = Vec::new();
        let mut depth = self.module().len();
        let mut is_module = Vec::new(); // for each open brace
        for (at, token) in self.tokens.iter().enumerate() {
            match token.text.as_str() {
                "{" => {
                    let opens_module = at >= 2 && self.tokens[at - 2].text == "mod";
                    is_module.push(opens_module);
                    depth += usize::from(opens_module);
                }
                "}" => depth -= usize::from(is_module.pop() == Some(true)),
                text if is_name(text) && self.starts_a_path(at) => {
                    for (names, line) in self.open_groups(at) {
                        found.push(Path { names, line, test: self.test[at], depth });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The out-of-line modules that this file declares for tests only.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let declared = self.tokens.windows(3).zip(&self.test);
        declared
            .filter(|(t, test)| **test && t[0].text == "mod" && t[2].text == ";")
            .map(|(t, _)| t[1].text.clone())
            .collect()
    }

    pub(crate) fn contains(&self, wanted: &[&str]) -> bool {
        self.tokens
            .windows(wanted.len())
            .any(|part| part.iter().map(|token| token.text.as_str()).eq(wanted.iter().copied()))
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    fn starts_a_path(&self, at: usize) -> bool {
        let before = |n: usize| at.checked_sub(n).map_or("", |at| self.text(at));
        let goes_on = before(1) == "::" && before(2) != "use" && (is_name(before(2)) || before(2) == ">");
        self.text(at + 1) == "::" && !goes_on
    }

    fn open_groups(&self, start: usize) -> Vec<(Vec<String>, usize)> {
        let mut found = Vec::new();
        self.open_into(start, &mut Vec::new(), &mut found);
        found
    }

    /// Reads one branch of a path from `at` on, returns where it ends.
    fn open_into(&self, mut at: usize, names: &mut Vec<String>, found: &mut Vec<(Vec<String>, usize)>) -> usize {
        let given = names.len();
        loop {
            if self.text(at) == "{" {
                at += 1;
                while !matches!(self.text(at), "}" | "") {
                    at = self.open_into(at, names, found);
                    while !matches!(self.text(at), "," | "}" | "") {
                        at += 1; // `as name`, and whatever is no path at all
                    }
                    at += usize::from(self.text(at) == ",");
                }
                at += 1;
                break;
            }
            if !is_name(self.text(at)) && self.text(at) != "*" {
                break;
            }
            names.push(self.text(at).to_owned());
            at += 1;
            if self.text(at) != "::" || !(is_name(self.text(at + 1)) || matches!(self.text(at + 1), "{" | "*")) {
                found.push((names.clone(), self.tokens[at - 1].line));
                break;
            }
            at += 1;
        }
        names.truncate(given);
        at
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Which tokens belong to an item under `#[cfg(test)]`, the attribute included.
fn test_parts(tokens: &[Token]) -> Vec<bool> {
    let word = |at: usize| tokens.get(at).map_or("", |token: &Token| token.text.as_str());
    let mut test = vec![false; tokens.len()];
    let mut at = 0;
    while at < tokens.len() {
        let inner = word(at) == "#" && word(at + 1) == "!";
        let cfg = at + 2 + usize::from(inner);
        if word(at) != "#" || word(cfg - 1) != "[" || word(cfg) != "cfg" || !demands_test(tokens, cfg + 1) {
            at += 1;
            continue;
        }
        let end = if inner { tokens.len() } else { end_of_item(tokens, end_of_group(tokens, cfg - 1)) };
        test[at..end].fill(true);
        at = end;
    }
    test
}

/// Whether `(test)` or `(all(.., test, ..))` stands at `at`; `any(test, ..)` and `not(test)` are no tests only.
fn demands_test(tokens: &[Token], at: usize) -> bool {
    let all = tokens.get(at + 1).is_some_and(|token| token.text == "all");
    let open = if all { at + 2 } else { at };
    let mut depth = 0;
    for token in &tokens[open.min(tokens.len())..end_of_group(tokens, open)] {
        match token.text.as_str() {
            "(" => depth += 1,
            ")" => depth -= 1,
            "test" if depth == 1 => return true,
            _ => {}
        }
    }
    false
}

/// The index after the bracket that closes the one at `open`.
fn end_of_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// The index after the item that starts at `at`, further attributes included.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "{" => return end_of_group(tokens, at),
            ";" => return at + 1,
            "}" => return at, // a field or an arm: it ends with what it stands in
            "(" | "[" => at = end_of_group(tokens, at),
            _ => at += 1,
        }
    }
    at
}

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (len, token) = match first {
            _ if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), None),
            _ if rest.starts_with("/*") => (block_comment(rest), None),
            _ if rest.starts_with("::") => (2, Some("::")),
            '"' => (quoted(rest), Some("\"")),
            '\'' => character(rest).map_or((1, None), |len| (len, Some("\""))),
            _ if is_name(rest) => raw_or_prefixed(rest).map_or_else(
                || {
                    let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                    (len, Some(&rest[..len]))
                },
                |len| (len, Some("\"")),
            ),
            _ if first.is_whitespace() => (first.len_utf8(), None),
            _ => (first.len_utf8(), Some(&rest[..first.len_utf8()])),
        };
        found.extend(token.map(|text| Token { text: text.to_owned(), line }));
        line += rest[..len].matches('\n').count();
        rest = &rest[len..];
    }
    found
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// How long the text in quotes is that `text` opens with.
fn quoted(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut at = 1;
    while at < text.len() {
        match text.as_bytes()[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// How long the character in quotes is that `text` opens with; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut inside = text[1..].chars();
    let first = inside.next()?;
    (first == '\\' || inside.next() == Some('\'')).then(|| quoted(text))
}

/// How long the literal is that `text` opens with, if it is one with a letter in front: `b"..."`, `r#"..."#`.
fn raw_or_prefixed(text: &str) -> Option<usize> {
    let letters = text.find(|c: char| !c.is_ascii_lowercase())?;
    let (prefix, rest) = text.split_at(letters);
    match prefix {
        "b" | "c" if rest.starts_with('"') => Some(letters + quoted(rest)),
        "b" if rest.starts_with('\'') => Some(letters + quoted(rest)),
        "r" | "br" | "cr" => {
            let hashes = rest.find(|c: char| c != '#')?;
            let inside = rest[hashes..].strip_prefix('"')?;
            let end = format!("\"{}", "#".repeat(hashes));
            Some(letters + hashes + 1 + inside.find(&end).map_or(inside.len(), |at| at + end.len()))
        }
        _ => None,
    }
}
