//! `dropcloth mirror diff`: what one mirror has and another has not, and what the same names mean in both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use pep440_rs::Version;
use serde::Serialize;

use super::holds::Holds;
use crate::pypi::distribution;

/// A file that is in both, with other contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// `PROJECT/FILE`.
    pub file: String,
    /// SHA-256 in the first mirror, lower case hex.
    pub a: String,
    /// In the second.
    pub b: String,
}

/// A project whose newest version is another one; a mirror without the project has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Newest {
    /// Its normalized name.
    pub project: String,
    /// In the first mirror.
    pub a: Option<String>,
    /// In the second.
    pub b: Option<String>,
}

/// A file that is in both, of which the pages say something else: why it is yanked, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Yanked {
    /// `PROJECT/FILE`.
    pub file: String,
    /// Why in the first mirror; none: it is not yanked there.
    pub a: Option<String>,
    /// In the second.
    pub b: Option<String>,
}

/// Everything that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Version of this form.
    pub version: u32,
    /// `PROJECT/FILE` of files that only the first mirror has.
    pub only_a: Vec<String>,
    /// Of files that only the second has.
    pub only_b: Vec<String>,
    /// Same name, other contents.
    pub changed: Vec<Changed>,
    /// Projects whose newest version changed.
    pub newest: Vec<Newest>,
    /// Files whose yanked marker changed.
    pub yanked: Vec<Yanked>,
}

impl Diff {
    /// Compares what two mirrors hold. The arrangement of their files counts for nothing.
    pub fn of(a: &Holds, b: &Holds) -> Diff {
        let name = |(project, file): &(String, String)| format!("{project}/{file}");
        let only = |one: &Holds, other: &Holds| one.keys().filter(|key| !other.contains_key(*key)).map(name).collect();
        let mut diff = Diff { version: 1, only_a: only(a, b), only_b: only(b, a), ..Diff::default() };
        for (key, one) in a {
            let Some(other) = b.get(key) else { continue };
            if one.sha256 != other.sha256 {
                diff.changed.push(Changed { file: name(key), a: one.sha256.clone(), b: other.sha256.clone() });
            }
            if one.yanked != other.yanked {
                diff.yanked.push(Yanked { file: name(key), a: one.yanked.clone(), b: other.yanked.clone() });
            }
        }
        let (first, second) = (newest(a), newest(b));
        for project in first.keys().chain(second.keys()).collect::<BTreeSet<_>>() {
            let (one, other) = (first.get(project), second.get(project));
            if one != other {
                let text = |version: Option<&Version>| version.map(Version::to_string);
                diff.newest.push(Newest { project: (*project).to_owned(), a: text(one), b: text(other) });
            }
        }
        diff
    }

    /// Whether both hold the same.
    pub fn is_same(&self) -> bool {
        let Diff { only_a, only_b, changed, newest, yanked, .. } = self;
        only_a.is_empty() && only_b.is_empty() && changed.is_empty() && newest.is_empty() && yanked.is_empty()
    }

    /// For people: a line a difference, `-` for what only the first has and `+` for what only the second has.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (sign, files) in [('-', &self.only_a), ('+', &self.only_b)] {
            for file in files {
                let _ = writeln!(out, "{sign} {file}");
            }
        }
        for Changed { file, a, b } in &self.changed {
            let _ = writeln!(out, "! {file}: sha256 {a} became {b}");
        }
        for Yanked { file, a, b } in &self.yanked {
            let _ = writeln!(out, "~ {file}: {} became {}", marker(a.as_ref()), marker(b.as_ref()));
        }
        for Newest { project, a, b } in &self.newest {
            let shown = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
            let _ = writeln!(out, "newest {project}: {} became {}", shown(a), shown(b));
        }
        let _ = match self.is_same() {
            true => writeln!(out, "the same files"),
            false => writeln!(
                out,
                "{} files less, {} more, {} with other contents, {} yanked or not any more",
                self.only_a.len(),
                self.only_b.len(),
                self.changed.len(),
                self.yanked.len()
            ),
        };
        out
    }
}

fn marker(yanked: Option<&String>) -> String {
    match yanked {
        None => "not yanked".to_owned(),
        Some(why) if why.is_empty() => "yanked".to_owned(),
        Some(why) => format!("yanked ({why})"),
    }
}

/// The newest version of each project that is not yanked, which is what installers take.
fn newest(holds: &Holds) -> BTreeMap<&str, Version> {
    let mut newest: BTreeMap<&str, Version> = BTreeMap::new();
    for ((project, file), held) in holds {
        let Some(parsed) = distribution::parse(file, Some(project)).filter(|_| held.yanked.is_none()) else { continue };
        let known = newest.entry(project).or_insert_with(|| parsed.version.clone());
        if parsed.version > *known {
            *known = parsed.version;
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::super::holds::Held;
    use super::*;

    fn holds(files: &[(&str, &str, Option<&str>)]) -> Holds {
        let held = |(file, sha256, yanked): &(&str, &str, Option<&str>)| {
            let parsed = distribution::parse(file, None).unwrap();
            let held = Held { sha256: (*sha256).to_owned(), yanked: yanked.map(str::to_owned), ..Held::default() };
            ((parsed.name, (*file).to_owned()), held)
        };
        files.iter().map(held).collect()
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let a = holds(&[("a-1.tar.gz", "1", None), ("b-1.tar.gz", "1", None), ("c-1.tar.gz", "1", None)]);
        let b = holds(&[
            ("a-1.tar.gz", "2", None),
            ("b-1.tar.gz", "1", Some("broken")),
            ("d-1.10.tar.gz", "1", None),
            ("d-1.9.tar.gz", "1", None),
        ]);
        let diff = Diff::of(&a, &b);
        assert_eq!((diff.only_a.as_slice(), diff.only_b.len()), (&["c/c-1.tar.gz".to_owned()][..], 2));
        assert_eq!((diff.changed.len(), diff.yanked.len()), (1, 1));
        let newest: Vec<&str> = diff.newest.iter().map(|n| n.project.as_str()).collect();
        assert_eq!(newest, ["b", "c", "d"]);
        assert_eq!(diff.newest[2].b.as_deref(), Some("1.10"));
        assert!(diff.text().contains("~ b/b-1.tar.gz: not yanked became yanked (broken)"), "{}", diff.text());
        assert!(!diff.is_same() && Diff::of(&a, &a).is_same());
        assert_eq!(Diff::of(&a, &a).text(), "the same files\n");
    }
}
