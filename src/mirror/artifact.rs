//! What is inside wheels and sdists: core metadata and build requirements. Archives are not trusted: nothing is unpacked to
//! a disk, and nothing larger than a limit is read.

use std::io::{Read, Seek};
use std::path::Path;

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use crate::error::{Doing, Fault, Result, refuse};
use crate::pypi::metadata::Metadata;

/// Larger metadata is none.
const LIMIT: u64 = 8 << 20;
/// Nothing further back in a source archive is looked at.
const MOST_MEMBERS: usize = 100_000;

/// What an artifact says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// The bytes of METADATA or PKG-INFO.
    pub metadata: Vec<u8>,
    /// `build-system.requires` of an sdist; setuptools for one without pyproject.toml (PEP 518).
    pub build_requires: Vec<String>,
}

/// Reads an artifact, by the ending of its name.
pub fn read(path: &Path) -> Result<Inside> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let doing = || format!("cannot look into {}", path.display());
    let file = std::fs::File::open(path).doing(doing)?;
    of(name, file).doing(doing)
}

/// Reads an artifact called `name`.
pub fn of(name: &str, file: impl Read + Seek) -> Result<Inside> {
    if name.ends_with(".whl") {
        return wheel(file);
    }
    let (info, project) = if name.ends_with(".zip") { zipped(file)? } else { tarred(name, file)? };
    let Some(metadata) = info else { return refuse(Fault::new("it has no PKG-INFO")) };
    Ok(Inside { metadata, build_requires: build_requires(project.as_deref()) })
}

fn wheel(file: impl Read + Seek) -> Result<Inside> {
    let mut archive = zip::ZipArchive::new(file)?;
    let wanted = |name: &str| {
        let mut parts = name.split('/');
        let first = parts.next().unwrap_or_default();
        first.ends_with(".dist-info") && parts.next() == Some("METADATA") && parts.next().is_none()
    };
    let name = archive.file_names().flatten().map(std::borrow::Cow::into_owned).find(|name| wanted(name));
    let Some(name) = name else { return refuse(Fault::new("it has no METADATA")) };
    Ok(Inside { metadata: limited(archive.by_name(&name)?)?, build_requires: Vec::new() })
}

fn limited(from: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return refuse(Fault::new("its metadata has more than 8 MiB"));
    }
    Ok(bytes)
}

/// PKG-INFO and pyproject.toml of an sdist stand in its one top directory.
type Found = (Option<Vec<u8>>, Option<Vec<u8>>);

fn top(path: &str) -> Option<&str> {
    let (_, name) = path.trim_start_matches("./").split_once('/')?;
    (!name.contains('/')).then_some(name)
}

fn zipped(file: impl Read + Seek) -> Result<Found> {
    let mut archive = zip::ZipArchive::new(file)?;
    let names: Vec<String> = archive.file_names().flatten().map(std::borrow::Cow::into_owned).collect();
    let mut found: Found = (None, None);
    for name in names {
        match top(&name) {
            Some("PKG-INFO") => found.0 = Some(limited(archive.by_name(&name)?)?),
            Some("pyproject.toml") => found.1 = Some(limited(archive.by_name(&name)?)?),
            _ => {}
        }
    }
    Ok(found)
}

fn tarred(name: &str, file: impl Read) -> Result<Found> {
    if !name.ends_with(".tar.gz") && !name.ends_with(".tgz") {
        return refuse(Fault::new("only .tar.gz and .zip archives of sources are read"));
    }
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let mut found: Found = (None, None);
    for entry in archive.entries()?.take(MOST_MEMBERS) {
        let entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match top(&path) {
            Some("PKG-INFO") => found.0 = Some(limited(entry)?),
            Some("pyproject.toml") => found.1 = Some(limited(entry)?),
            _ => {}
        }
        if found.0.is_some() && found.1.is_some() {
            break;
        }
    }
    Ok(found)
}

/// PEP 518: without a `build-system` table, setuptools builds; pip adds wheel where setuptools is old.
fn build_requires(project: Option<&[u8]>) -> Vec<String> {
    let default = || vec!["setuptools".to_owned()];
    let Some(table) = project.and_then(|text| std::str::from_utf8(text).ok()?.parse::<toml::Table>().ok()) else {
        return default();
    };
    let Some(requires) = table.get("build-system").and_then(|b| b.get("requires")).and_then(|r| r.as_array()) else {
        return default();
    };
    requires.iter().filter_map(|r| r.as_str().map(str::to_owned)).collect()
}

/// SHA-256 of a file, lower case hex, and its size in bytes.
pub fn sha256(path: &Path) -> Result<(String, u64)> {
    let doing = || format!("cannot read {}", path.display());
    let mut file = std::fs::File::open(path).doing(doing)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        let length = file.read(&mut buffer).doing(doing)?;
        if length == 0 {
            return Ok((hex(&hasher.finalize()), size));
        }
        hasher.update(&buffer[..length]);
        size += length as u64;
    }
}

/// SHA-256 of bytes, lower case hex.
pub fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

impl Inside {
    /// The metadata's fields.
    pub fn parsed(&self) -> Metadata {
        Metadata::parse(&String::from_utf8_lossy(&self.metadata))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn wheel_of(files: &[(&str, &str)]) -> std::io::Cursor<Vec<u8>> {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, text) in files {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn sdist_of(files: &[(&str, &str)]) -> std::io::Cursor<Vec<u8>> {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut builder = tar::Builder::new(gzip);
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_cksum();
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        std::io::Cursor::new(builder.into_inner().unwrap().finish().unwrap())
    }

    #[test]
    fn a_wheel_and_an_sdist_say_what_they_need() {
        let wheel =
            wheel_of(&[("x/METADATA", "no"), ("a-1.dist-info/METADATA", "Name: a\nVersion: 1\nRequires-Dist: b>2\n")]);
        assert_eq!(of("a-1-py3-none-any.whl", wheel).unwrap().parsed().requires_dist, ["b>2"]);
        let files = [
            ("a-1/sub/PKG-INFO", "no"),
            ("a-1/PKG-INFO", "Name: a\nVersion: 1\n"),
            ("a-1/pyproject.toml", "[build-system]\nrequires=['flit_core>=3']\n"),
        ];
        let inside = of("a-1.tar.gz", sdist_of(&files)).unwrap();
        assert_eq!((inside.parsed().name.as_str(), inside.build_requires), ("a", vec!["flit_core>=3".to_owned()]));
        assert_eq!(of("a-1.zip", wheel_of(&files[..2])).unwrap().build_requires, ["setuptools"]);
    }

    #[test]
    fn what_is_no_archive_or_has_no_metadata_is_an_error() {
        assert!(of("a-1-py3-none-any.whl", std::io::Cursor::new(b"PK nothing".to_vec())).is_err());
        assert!(of("a-1-py3-none-any.whl", wheel_of(&[("a/x", "")])).is_err());
        assert!(of("a-1.tar.gz", sdist_of(&[("a-1/x", "")])).is_err());
    }
}
