//! A requirement: `name[extras] (versions) ; marker` or `name[extras] @ url ; marker`, PEP 508.
//!
//! Versions and markers are read by the libraries that know them; what stands before them is read here. pep508_rs reads that too, but it
//! explains what it refuses, for which it brings a regular expression engine of 650 KB, and it panics at a name like `a-` that something
//! follows. Nobody sees those explanations: what is no requirement of a package is passed over.

use pep440_rs::{VersionSpecifier, VersionSpecifiers};
use pep508_rs::{ExtraName, MarkerTree, PackageName, Requirement, VersionOrUrl};
use url::Url;

/// A requirement whose URL, if any, is not looked at.
pub type Wish = Requirement<Url>;

/// Endings of file names, pip documentation "pip install". A name alone that has one is a file in the working directory to pip, and no
/// name of a package.
const ARCHIVES: [&str; 12] =
    [".whl", ".zip", ".tar", ".tgz", ".tbz", ".txz", ".tlz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.lz", ".tar.lzma"];

/// Reads a requirement; `None` for what is none.
pub fn wish(text: &str) -> Option<Wish> {
    let text = text.trim_start();
    let (word, rest) = text.split_at(text.find(|c| !is_of_a_name(c)).unwrap_or(text.len()));
    let name = name(word)?;
    let (extras, rest) = extras(rest.trim_start())?;
    let (version_or_url, rest) = match rest.chars().next() {
        Some('@') => after_at(&rest[1..])?,
        Some('(') => {
            let (inside, rest) = rest[1..].split_once(')')?;
            (Some(versions(inside)?), rest)
        }
        Some('<' | '=' | '>' | '~' | '!') => {
            let (inside, rest) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
            (Some(versions(inside)?), rest)
        }
        _ => (None, rest),
    };
    if version_or_url.is_none() && is_archive(word) {
        return None;
    }
    Some(Requirement { name, extras, version_or_url, marker: marker(rest.trim_start())?, origin: None })
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

fn name(word: &str) -> Option<PackageName> {
    if word.is_empty() { None } else { PackageName::new(word.to_owned()).ok() }
}

fn is_archive(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    ARCHIVES.iter().any(|ending| word.ends_with(ending))
}

/// Those in brackets, if any, and what follows them.
fn extras(text: &str) -> Option<(Vec<ExtraName>, &str)> {
    let Some(inside) = text.strip_prefix('[') else { return Some((Vec::new(), text)) };
    let (inside, rest) = inside.split_once(']')?;
    if inside.trim().is_empty() {
        return Some((Vec::new(), rest.trim_start()));
    }
    let extras = inside.split(',').map(str::trim);
    let extras = extras.map(|extra| if extra.is_empty() { None } else { ExtraName::new(extra.to_owned()).ok() });
    Some((extras.collect::<Option<_>>()?, rest.trim_start()))
}

fn versions(text: &str) -> Option<VersionOrUrl<Url>> {
    let each: Option<Vec<VersionSpecifier>> = text.split(',').map(|one| one.parse().ok()).collect();
    Some(VersionOrUrl::VersionSpecifier(each?.into_iter().collect::<VersionSpecifiers>()))
}

/// A URL may have `;` and `#` in it: it ends where white space stands before or behind one of them, or at the end of the line.
fn after_at(text: &str) -> Option<(Option<VersionOrUrl<Url>>, &str)> {
    let text = text.trim_start();
    let end = text.char_indices().find(|&(at, c)| {
        let rest = text[at + c.len_utf8()..].trim_start();
        matches!(c, '\r' | '\n') || c.is_whitespace() && (rest.is_empty() || rest.starts_with([';', '#']))
    });
    let (url, rest) = end.map_or((text, ""), |(at, _)| text.split_at(at));
    // A `;` that ends the URL without a space before it is ambiguous, PEP 508.
    if is_ambiguous(url) {
        return None;
    }
    Some((Some(VersionOrUrl::Url(url.parse().ok()?)), rest))
}

fn is_ambiguous(url: &str) -> bool {
    url.char_indices().any(|(at, c)| matches!(c, ';' | '#') && url[at + 1..].starts_with(char::is_whitespace))
}

fn marker(text: &str) -> Option<MarkerTree> {
    match text.strip_prefix(';') {
        Some(marker) => MarkerTree::parse_str::<Url>(marker).ok(),
        None => text.is_empty().then(MarkerTree::default),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::str::FromStr;

    use proptest::prelude::*;

    use super::*;

    /// The library's own reader. It panics at some texts; what those are is said by ours alone.
    fn of_the_library(text: &str) -> Option<Option<Wish>> {
        catch_unwind(|| Wish::from_str(text).ok()).ok()
    }

    #[test]
    fn requirements_are_read_as_the_library_reads_them() {
        for text in [
            "requests",
            " requests [security,tests] >= 2.8.1, == 2.8.* ; python_version > \"3.8\"",
            "Foo.Bar-baz_1",
            "a[]",
            "a [ ] ~=1.0",
            "a (>=1,<2)",
            "a(>=1);python_version<'3'",
            "a>=1;extra == 'b' and (os_name == 'nt' or sys_platform != 'win32')",
            "a @ https://example.org/a-1.whl",
            "a@https://example.org/a.whl#sha256=00",
            "a[b]@ file:///a;b.whl ; os_name == 'posix'",
            "a==1.0+local.1",
        ] {
            let wish = wish(text).unwrap_or_else(|| panic!("{text} is one"));
            assert_eq!(Some(Some(wish)), of_the_library(text), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_none() {
        for text in [
            "",
            " ",
            "-e .",
            "./a",
            "a b",
            "a=1",
            "a>=",
            "a >=1 <2",
            "a (>=1",
            "a[b",
            "a[,]",
            "a[b,]",
            "a[b c]",
            "a; ",
            "a ; nothing == '1'  x",
            "a @",
            "a @ nowhere",
            "a @ https://example.org/a.whl; os_name == 'nt'",
            "a-1.0.tar.gz",
            "a-1.0-py3-none-any.whl",
            "https://example.org/a.whl",
            "a\u{e9}",
        ] {
            assert_eq!(wish(text), None, "{text}");
            assert_eq!(of_the_library(text), Some(None), "{text}");
        }
    }

    #[test]
    fn a_name_that_ends_in_a_dash_is_none_whatever_follows() {
        assert_eq!(wish("a- >=1"), None);
        assert_eq!(wish("a[b-] >=1"), None);
    }

    #[test]
    fn an_archive_is_one_in_capitals_too() {
        assert_eq!(wish("a-1.0.ZIP"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_the_library_reads_it(
            text in r#"( |)[a-zA-Z0-9._-]{0,4}(\.tar\.gz|\.whl|)( |)(\[[ab,. -]{0,4}\]?)?( |)([(<>=~!@;]{1,2}( |)[0-9a-z.,:/*+#;]{0,8}[ )]?){0,2}(;( |)(os_name|extra)[=<> ]{1,3}['"]?nt['"]?)?"#
        ) {
            if let Some(theirs) = of_the_library(&text) {
                prop_assert_eq!(wish(&text), theirs, "{:?}", text);
            }
        }
    }
}
