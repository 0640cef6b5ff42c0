//! Every file of a mirror read once: its hash, and what it says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha384, Sha512};

use crate::mirror::artifact::{self, Inside};
use crate::mirror::parallel;
use crate::pypi::distribution::{self, Kind, normalized};

/// What a file is.
#[derive(Debug, Default)]
pub struct Inspected {
    /// Lower case hex.
    pub sha256: String,
    /// What it says of itself.
    pub inside: Option<Inside>,
    /// Why installers refuse it.
    pub unreadable: Option<String>,
}

/// The files at `places` that are there.
pub fn all(directory: &Path, places: BTreeSet<String>) -> BTreeMap<String, Inspected> {
    let places: Vec<String> = places.into_iter().filter(|place| is_inside(directory, place)).collect();
    let inspected = parallel::map(&places, |place| one(&directory.join(place)));
    places.into_iter().zip(inspected).collect()
}

/// Whether a regular file is there, and no link leads out of the mirror on the way: what is outside is not there once the mirror
/// is bound in an image.
pub fn is_inside(directory: &Path, place: &str) -> bool {
    let (Ok(base), Ok(real)) = (directory.canonicalize(), directory.join(place).canonicalize()) else { return false };
    real.starts_with(base) && real.is_file()
}

/// The file's name.
pub fn name(place: &str) -> &str {
    place.rsplit('/').next().unwrap_or(place)
}

fn one(path: &Path) -> Inspected {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let sha256 = match artifact::sha256(path) {
        Ok((sha256, _)) => sha256,
        Err(error) => return Inspected { unreadable: Some(format!("{error:#}")), ..Inspected::default() },
    };
    match artifact::read(path) {
        Ok(inside) => Inspected { unreadable: other_name(name, &inside), sha256, inside: Some(inside) },
        // Old sdists have no PKG-INFO, and installers read more kinds of archive.
        Err(error) if name.ends_with(".whl") => {
            Inspected { unreadable: Some(format!("{error:#}")), sha256, inside: None }
        }
        Err(_) => Inspected { sha256, ..Inspected::default() },
    }
}

/// Installers refuse a wheel whose metadata name another project or version.
fn other_name(file: &str, inside: &Inside) -> Option<String> {
    let expected = distribution::parse(file, None).filter(|d| d.kind == Kind::Wheel)?;
    let metadata = inside.parsed();
    let same_version = metadata.version.parse().is_ok_and(|version: pep440_rs::Version| version == expected.version);
    let same = normalized(&metadata.name) == expected.name && same_version;
    (!same).then(|| format!("its metadata say {} {}", metadata.name, metadata.version))
}

/// A digest of the file at `path`, lower case hex; `None`: of an algorithm that is not computed here.
pub fn digest(path: &Path, algorithm: &str, inspected: &Inspected) -> Option<String> {
    match algorithm {
        "sha256" => Some(inspected.sha256.clone()),
        "md5" => of::<Md5>(path),
        "sha1" => of::<Sha1>(path),
        "sha224" => of::<Sha224>(path),
        "sha384" => of::<Sha384>(path),
        "sha512" => of::<Sha512>(path),
        _ => None,
    }
}

fn of<D: Digest>(path: &Path) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut hasher = D::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => hasher.update(&buffer[..length]),
        }
    }
}
