//! INI files as Python's RawConfigParser reads them, Python documentation "configparser".

/// One `key = value` with its section and line (from 1). Keys are lower case; continuation lines are joined by `\n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Section.
    pub section: String,
    /// Key.
    pub key: String,
    /// Value, trimmed.
    pub value: String,
    /// Where the key stands.
    pub line: usize,
}

/// Reads a file; a line that is none is a fault, as it is for Python, which then refuses the whole file.
pub fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut section: Option<String> = None;
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        let line_number = number + 1;
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) {
            continue;
        }
        if trimmed.is_empty() {
            continue;
        }
        let indented = line.starts_with([' ', '\t']);
        if let (true, true, Some(last)) = (indented, open, entries.last_mut()) {
            last.value = if last.value.is_empty() { trimmed.to_owned() } else { format!("{}\n{trimmed}", last.value) };
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = Some(name.0.to_owned());
            open = false;
            continue;
        }
        let Some(section) = &section else { return Err(format!("line {line_number} stands before any [section]")) };
        let Some(at) = trimmed.find(['=', ':']) else {
            return Err(format!("line {line_number} is neither [section] nor key = value"));
        };
        let entry = Entry {
            section: section.clone(),
            key: trimmed[..at].trim().to_lowercase(),
            value: trimmed[at + 1..].trim().to_owned(),
            line: line_number,
        };
        if entries.iter().any(|e| e.section == entry.section && e.key == entry.key) {
            return Err(format!("line {line_number} repeats {} of [{}]", entry.key, entry.section));
        }
        entries.push(entry);
        open = true;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_go_on_in_indented_lines_and_comments_are_none() {
        let read =
            parse("# x\n[global]\nIndex-URL: http://a\nextra =\n  http://b\n  # no\n  http://c\n[install]\nx=\n");
        let read: Vec<_> = read.unwrap().into_iter().map(|e| (e.section, e.key, e.value, e.line)).collect();
        let entry = |s: &str, k: &str, v: &str, l| (s.to_owned(), k.to_owned(), v.to_owned(), l);
        assert_eq!(
            read,
            [
                entry("global", "index-url", "http://a", 3),
                entry("global", "extra", "http://b\nhttp://c", 4),
                entry("install", "x", "", 9)
            ]
        );
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for text in ["x = 1\n", "[a]\nno value here\n", "[a]\nx=1\nx=2\n"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
