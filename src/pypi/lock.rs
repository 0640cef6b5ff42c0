//! Lock files: uv.lock, pylock.toml (PEP 751), poetry.lock and pdm.lock, as a list of packages with files and hashes.

use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::requirements::{Escape, is_remote};

/// A locked package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// Its name, as the lock has it.
    pub name: String,
    /// Version; a package from a working tree may have none.
    pub version: Option<String>,
    /// Where its entry begins, from 1.
    pub line: usize,
    /// The index that it was locked from, where the lock says it.
    pub registry: Option<String>,
    /// A repository, archive or directory instead of an index.
    pub direct: Option<String>,
    /// Its wheels and sdist.
    pub files: Vec<File>,
}

/// A file of a locked package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// File name.
    pub name: String,
    /// URL, where the lock has one.
    pub url: Option<String>,
    /// SHA-256, lower case hex.
    pub sha256: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Spanned<Table>>,
    #[serde(default)]
    packages: Vec<Spanned<Table>>,
}

/// Reads a lock file of any of the four formats.
///
/// # Errors
/// What the TOML parser says, or that the file has no packages at all.
pub fn parse(text: &str) -> Result<Vec<Locked>, String> {
    let lock: Lock = toml::from_str(text).map_err(|e| e.message().to_owned())?;
    let all: Vec<Locked> = lock
        .package
        .iter()
        .chain(&lock.packages)
        .map(|entry| locked(entry.get_ref(), line_of(text, entry.span().start)))
        .collect();
    if all.is_empty() {
        return Err("it lists no package: it is no uv.lock, pylock.toml, poetry.lock or pdm.lock".to_owned());
    }
    Ok(all)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

fn text<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    table.get(key).and_then(Value::as_str)
}

fn table<'a>(of: &'a Table, key: &str) -> Option<&'a Table> {
    of.get(key).and_then(Value::as_table)
}

fn locked(entry: &Table, line: usize) -> Locked {
    let source = table(entry, "source");
    let in_source = |key: &str| source.and_then(|s| text(s, key));
    // uv: registry; poetry: url of a source of type legacy; PEP 751: index.
    let registry = in_source("registry")
        .or_else(|| in_source("url").filter(|_| in_source("type") == Some("legacy")))
        .or_else(|| text(entry, "index"));
    let direct = ["git", "url", "path", "directory", "editable", "virtual"]
        .iter()
        .find_map(|key| in_source(key))
        .filter(|_| in_source("type") != Some("legacy"))
        .or_else(|| ["vcs", "archive", "directory"].iter().find_map(|k| table(entry, k).and_then(|t| place(t))))
        .or_else(|| text(entry, "git").or_else(|| text(entry, "url")));
    let mut files: Vec<File> = ["wheels", "files"]
        .iter()
        .filter_map(|key| entry.get(*key).and_then(Value::as_array))
        .flatten()
        .filter_map(|value| file(value.as_table()?))
        .collect();
    files.extend(table(entry, "sdist").and_then(file));
    Locked {
        name: text(entry, "name").unwrap_or_default().to_owned(),
        version: text(entry, "version").map(str::to_owned),
        line,
        registry: registry.map(str::to_owned),
        direct: direct.map(str::to_owned),
        files,
    }
}

fn place(table: &Table) -> Option<&str> {
    text(table, "url").or_else(|| text(table, "path"))
}

fn file(entry: &Table) -> Option<File> {
    let url = text(entry, "url");
    let last = |url: &str| url.split(['?', '#']).next().and_then(|u| u.rsplit('/').next()).map(str::to_owned);
    let name = text(entry, "name").or(text(entry, "file")).map(str::to_owned).or_else(|| url.and_then(last))?;
    let hash = text(entry, "hash").and_then(|h| h.strip_prefix("sha256:"));
    let hash = hash.or_else(|| table(entry, "hashes").and_then(|h| text(h, "sha256")));
    Some(File { name, url: url.map(str::to_owned), sha256: hash.map(str::to_lowercase) })
}

/// The entries of `file` that lead past the mirrors: tools that install exactly what is locked take the URLs as they stand.
pub fn escapes(file: &str, text: &str, locked: &[Locked], known: &dyn Fn(&str) -> bool) -> Vec<Escape> {
    let mut found = Vec::new();
    for package in locked {
        let mut add = |url: &str, what: String| {
            if is_remote(url) && !known(url) {
                let start = text.split_inclusive('\n').take(package.line - 1).map(str::len).sum::<usize>();
                let line = text[start..].find(url).map_or(package.line, |at| line_of(text, start + at));
                found.push(Escape { file: file.to_owned(), line, url: url.to_owned(), what, held_by: None });
            }
        };
        if let Some(url) = &package.direct {
            add(url, format!("{} from a repository or archive", package.name));
        }
        match (&package.registry, package.files.iter().find_map(|f| f.url.as_ref())) {
            (Some(url), _) => add(url, format!("{} locked from this index", package.name)),
            (None, Some(url)) if package.direct.is_none() => add(url, format!("{} locked by URL", package.name)),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_formats_are_read_as_packages_with_files() {
        let uv = "version = 1\n[[package]]\nname = \"a\"\nversion = \"1.0\"\nsource = { registry = \"https://x/simple\" }\n\
            wheels = [\n { url = \"https://x/f/a-1.0-py3-none-any.whl\", hash = \"sha256:AB\" },\n]\n\n[[package]]\nname = \"me\"\nsource = { virtual = \".\" }\n";
        let read = parse(uv).unwrap();
        assert_eq!((read[0].line, read[0].registry.as_deref()), (2, Some("https://x/simple")));
        assert_eq!(
            (read[0].files[0].name.as_str(), read[0].files[0].sha256.as_deref()),
            ("a-1.0-py3-none-any.whl", Some("ab"))
        );
        assert_eq!((read[1].direct.as_deref(), read[1].line), (Some("."), 10));
        let poetry = "[[package]]\nname = \"a\"\nversion = \"1.0\"\nfiles = [{file = \"a-1.0.tar.gz\", hash = \"sha256:cd\"}]\n\
            [package.source]\ntype = \"legacy\"\nurl = \"https://y/simple\"\n";
        let read = parse(poetry).unwrap();
        assert_eq!((read[0].registry.as_deref(), read[0].direct.as_deref()), (Some("https://y/simple"), None));
        assert_eq!(read[0].files[0].name, "a-1.0.tar.gz");
        let pylock = "lock-version = \"1.0\"\n[[packages]]\nname = \"a\"\nversion = \"1.0\"\nindex = \"https://z/simple\"\n\
            [[packages.wheels]]\nname = \"a-1.0-py3-none-any.whl\"\nurl = \"https://z/a\"\nhashes = {sha256 = \"ef\"}\n\
            [[packages]]\nname = \"b\"\nvcs = {type = \"git\", url = \"https://g/b.git\"}\n";
        let read = parse(pylock).unwrap();
        assert_eq!(
            (read[0].registry.as_deref(), read[0].files[0].sha256.as_deref()),
            (Some("https://z/simple"), Some("ef"))
        );
        assert_eq!(read[1].direct.as_deref(), Some("https://g/b.git"));
        let pdm = "[[package]]\nname = \"a\"\nversion = \"1.0\"\nfiles = [{url = \"https://q/a-1.0.zip\", hash = \"sha256:01\"}]\n";
        assert_eq!(parse(pdm).unwrap()[0].files[0].name, "a-1.0.zip");
        assert!(parse("x = 1\n").is_err() && parse("not toml").is_err());
    }

    #[test]
    fn an_escape_is_told_at_the_line_of_its_url() {
        let text = "[[package]]\nname = \"a\"\nversion = \"1\"\nsource = { registry = \"https://x/simple\" }\n[[package]]\nname = \"b\"\nversion = \"1\"\nsource = { git = \"https://g/b.git\" }\n";
        let locked = parse(text).unwrap();
        let lines = |known: &dyn Fn(&str) -> bool| -> Vec<usize> {
            escapes("uv.lock", text, &locked, known).iter().map(|e| e.line).collect()
        };
        assert_eq!(lines(&|_| false), [4, 8]);
        assert_eq!(lines(&|url| url.starts_with("https://x/")), [8]);
    }
}
