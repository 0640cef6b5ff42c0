//! Requirements files, pip documentation "Requirements File Format": what a line asks for, and where it would lead pip.

use serde::Serialize;

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A requirement by name (PEP 508), its per-requirement options cut off.
    Named(String),
    /// A requirement by URL, archive path or version control system, also editable.
    Url(String),
    /// Another file of requirements.
    Include(String),
    /// A file of constraints.
    Constraints(String),
    /// `--index-url`.
    Index(String),
    /// `--extra-index-url`.
    ExtraIndex(String),
    /// `--find-links`.
    FindLinks(String),
    /// Anything else, which leads nowhere.
    Other(String),
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1; of several joined by `\`, the first.
    pub number: usize,
    /// What it says.
    pub what: What,
}

/// Reads a file.
pub fn parse(text: &str) -> Vec<Line> {
    let mut found = Vec::new();
    let mut joined = String::new();
    let mut start = 0;
    for (number, line) in text.lines().enumerate() {
        if joined.is_empty() {
            start = number + 1;
        }
        // A comment line ends nothing: pip joins first and strips comments after.
        match line.strip_suffix('\\') {
            Some(begun) if !line.trim_start().starts_with('#') => {
                joined.push_str(begun);
                joined.push(' ');
                continue;
            }
            _ => joined.push_str(line),
        }
        let whole = std::mem::take(&mut joined);
        found.extend(what(without_comment(&whole)).map(|what| Line { number: start, what }));
    }
    found.extend(what(without_comment(&joined)).map(|what| Line { number: start, what }));
    found
}

/// A `#` begins a comment at the start of a line or after white space: in a URL it is a fragment.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return line[..at].trim();
        }
        before = c;
    }
    line.trim()
}

fn what(line: &str) -> Option<What> {
    if line.is_empty() {
        return None;
    }
    if !line.starts_with('-') {
        return Some(requirement(line));
    }
    let (option, value) = split_option(line);
    let value = value.trim_matches(['"', '\'']).to_owned();
    Some(match option {
        "-i" | "--index-url" | "--pypi-url" => What::Index(value),
        "--extra-index-url" => What::ExtraIndex(value),
        "-f" | "--find-links" => What::FindLinks(value),
        "-r" | "--requirement" => What::Include(value),
        "-c" | "--constraint" => What::Constraints(value),
        "-e" | "--editable" => requirement(&value),
        _ => What::Other(line.to_owned()),
    })
}

/// `--option=value`, `--option value`, `-ovalue`.
fn split_option(line: &str) -> (&str, &str) {
    if line.starts_with("--") {
        let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
        return (&line[..end], line[end..].trim_start_matches(['=', ' ', '\t']).trim());
    }
    let end = line.char_indices().nth(2).map_or(line.len(), |(at, _)| at);
    (&line[..end], line[end..].trim_start_matches(['=', ' ', '\t']).trim())
}

fn requirement(text: &str) -> What {
    // Options of one requirement (`--hash=…`) follow it after white space.
    let text = text.split(" --").next().unwrap_or(text).trim();
    let target = match text.split_once(" @ ").or_else(|| text.split_once("@ ")) {
        Some((_, url)) => Some(url.split(" ;").next().unwrap_or(url).trim()),
        None if text.contains("://") => Some(text),
        None if text.starts_with(['.', '/']) => Some(text),
        None => None,
    };
    target.map_or_else(|| What::Named(text.to_owned()), |url| What::Url(url.to_owned()))
}

/// A place that leads an installer past the configured indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Escape {
    /// File in which it stands.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// The URL.
    pub url: String,
    /// What it is: an option, a direct URL, a registry of a lock file.
    pub what: String,
    /// What keeps it from the network in this run; none: only `--network none` does.
    pub held_by: Option<String>,
}

/// Where the lines of `file` lead past the mirrors. `known`: the URL is one of the configured indexes; `strict`: pip has no
/// index in this run.
pub fn escapes(file: &str, lines: &[Line], known: &dyn Fn(&str) -> bool, strict: bool) -> Vec<Escape> {
    let strict = strict.then(|| "no-index of the strict profile (pip 22.3 or newer), UV_OFFLINE (uv)".to_owned());
    let escape = |line: &Line| {
        let (url, what, held_by) = match &line.what {
            What::Index(url) => (url, "--index-url", strict.clone()),
            What::ExtraIndex(url) => (url, "--extra-index-url", strict.clone()),
            What::FindLinks(url) => (url, "--find-links", None),
            What::Url(url) => (url, "direct URL", None),
            What::Include(url) => (url, "-r", None),
            What::Constraints(url) => (url, "-c", None),
            What::Named(_) | What::Other(_) => return None,
        };
        if !is_remote(url) || known(url) {
            return None;
        }
        Some(Escape { file: file.to_owned(), line: line.number, url: url.clone(), what: what.to_owned(), held_by })
    };
    lines.iter().filter_map(escape).collect()
}

/// Whether `url` leads to another machine; `git+ssh://` and the like do.
pub fn is_remote(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| !scheme.ends_with("file"))
        || url.split_once('@').is_some_and(|(user, rest)| user.starts_with("git+") && rest.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read_as_pip_reads_it() {
        let text = "\
# comment
requests >= 2 ; python_version > '3.8'  # why
flask==3.0 \\
    --hash=sha256:00 \\
    --hash=sha256:11
--index-url=https://a/simple
--extra-index-url https://b/simple
-f https://c/
-rother.txt
-c constraints.txt
-e git+https://d/e.git@main#egg=x
name[extra] @ https://f/g.whl#sha256=00
https://h/i.tar.gz
./local
--pre
-i 'https://j'
";
        let read: Vec<(usize, What)> = parse(text).into_iter().map(|l| (l.number, l.what)).collect();
        let url = |u: &str| What::Url(u.to_owned());
        let expected = [
            (2, What::Named("requests >= 2 ; python_version > '3.8'".into())),
            (3, What::Named("flask==3.0".into())),
            (6, What::Index("https://a/simple".into())),
            (7, What::ExtraIndex("https://b/simple".into())),
            (8, What::FindLinks("https://c/".into())),
            (9, What::Include("other.txt".into())),
            (10, What::Constraints("constraints.txt".into())),
            (11, url("git+https://d/e.git@main#egg=x")),
            (12, url("https://f/g.whl#sha256=00")),
            (13, url("https://h/i.tar.gz")),
            (14, url("./local")),
            (15, What::Other("--pre".into())),
            (16, What::Index("https://j".into())),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn only_what_leads_elsewhere_is_an_escape_and_the_strict_profile_holds_indexes() {
        let lines = parse(
            "-i https://a\n--extra-index-url http://mirror/simple\n-f ./wheels\n-f https://c\nx @ https://d/x.whl\ny @ file:///z.whl\n",
        );
        let known = |url: &str| url.starts_with("http://mirror/");
        let found = |strict| -> Vec<(usize, bool)> {
            escapes("r.txt", &lines, &known, strict).iter().map(|e| (e.line, e.held_by.is_some())).collect()
        };
        assert_eq!(found(false), [(1, false), (4, false), (5, false)]);
        assert_eq!(found(true), [(1, true), (4, false), (5, false)]);
    }
}
