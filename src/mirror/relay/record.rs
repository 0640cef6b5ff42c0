//! What was served, written down: a line of JSON each, in the order in which it was served.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::error::{Doing, Fault, Result, refuse};

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A project's page, as the step got it.
    Page,
    /// A wheel or an sdist.
    File,
    /// Core metadata of a wheel, PEP 658.
    Metadata,
}

/// Something that was served as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Served {
    /// What it is.
    pub kind: Kind,
    /// The index, without credentials; `file:///tmp/pypi` is the local mirror.
    pub index: String,
    /// Normalized name.
    pub project: String,
    /// File name; none for a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where it came from, without credentials.
    pub url: String,
    /// SHA-256 of what was served, lower case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Yanked when it was served, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yanked: Option<String>,
    /// When it was uploaded, where the index says it, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_time: Option<String>,
}

/// The file, while it is written.
#[derive(Debug)]
pub struct Record(Mutex<(File, BTreeSet<Served>)>);

impl Record {
    /// Begins an empty one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> Result<Record> {
        let file = File::create(path)
            .doing(|| format!("cannot write the record {}", path.display()))
            .hint(|| "Name a file in a directory that is there with --record.")?;
        Ok(Record(Mutex::new((file, BTreeSet::new()))))
    }

    /// Adds a line, unless it is there. One that cannot be written is an error of whoever reads the file.
    pub fn add(&self, served: Served) {
        let mut line = serde_json::to_vec(&served).unwrap_or_default();
        line.push(b'\n');
        let mut inner = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (file, seen) = &mut *inner;
        if seen.insert(served)
            && let Err(error) = file.write_all(&line)
        {
            log::warn!("cannot write the record: {error}");
        }
    }
}

/// Reads a record.
///
/// # Errors
/// It cannot be read, or a line is none of a record.
pub fn read(path: &Path) -> Result<Vec<Served>> {
    let doing = || format!("cannot read the record {}", path.display());
    let text = std::fs::read_to_string(path).doing(doing)?;
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(served) => all.push(served),
            Err(error) => {
                return refuse(
                    Fault::new(doing())
                        .because(format!("line {}: {error}", number + 1))
                        .hint("Name a file that `dropcloth run --record FILE` has written."),
                );
            }
        }
    }
    Ok(all)
}

/// A URL without user and password: the record goes to others.
pub fn without_credentials(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            // Both fail only for URLs that have no host.
            let _ = parsed.set_username("").and_then(|()| parsed.set_password(None));
            parsed.into()
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_once_each_and_without_passwords() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        let record = Record::create(&path).unwrap();
        let served = Served {
            kind: Kind::File,
            index: without_credentials("https://me:secret@mirror.example/simple"),
            project: "a".to_owned(),
            file: Some("a-1.tar.gz".to_owned()),
            url: "https://mirror.example/a-1.tar.gz".to_owned(),
            sha256: "00".to_owned(),
            size: 1,
            yanked: None,
            upload_time: None,
        };
        record.add(served.clone());
        record.add(served.clone());
        assert_eq!(read(&path).unwrap(), [served]);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("secret"));
        std::fs::write(&path, "nothing\n").unwrap();
        assert!(read(&path).is_err());
    }
}
