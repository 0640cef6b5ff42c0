//! Which package owns a changed file: dpkg's lists and pip's RECORDs, of the image and of what the step wrote.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;

use super::{Changes, Kind};
use crate::error::Result;
use crate::image::Inside;
use crate::sys::fs;

/// Who brought a file. Ordered as reports show it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "by", content = "package", rename_all = "snake_case")]
pub enum Owner {
    /// A package of dpkg, by name.
    Dpkg(String),
    /// A Python distribution: name and version.
    Pip(String),
    /// Nobody that this function knows.
    Unowned,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Dpkg(package) => write!(f, "dpkg {package}"),
            Owner::Pip(distribution) => write!(f, "pip {distribution}"),
            Owner::Unowned => f.write_str("owned by no package"),
        }
    }
}

const DPKG_INFO: &[u8] = b"var/lib/dpkg/info";

/// The owner of each change, in the order of the list.
pub fn of(upper: BorrowedFd<'_>, image: BorrowedFd<'_>, changes: &Changes) -> Result<Vec<Owner>> {
    let mut search = Search { known: HashMap::new(), aliases: aliases(image)? };
    for change in changes.list.iter().filter(|c| c.kind != Kind::Directory) {
        for path in wanted(&change.path) {
            search.known.insert(path, None);
        }
    }
    // What the step wrote comes first: an upgraded package has new lists, a removed file's owner only the old ones.
    for layer in [upper, image] {
        search.dpkg(layer)?;
        for directory in python_directories(changes) {
            search.pip(layer, &directory)?;
        }
    }
    let mut owners: Vec<Owner> = changes.list.iter().map(|c| search.owner(&c.path)).collect();
    directories(changes, &mut owners);
    Ok(owners)
}

/// The path itself; for byte code, which dpkg does not list, that of its source too (PEP 3147).
fn wanted(path: &Inside) -> Vec<Inside> {
    let mut all = vec![path.clone()];
    if let Some((directory, name)) = path.split()
        && let Some((above, b"__pycache__")) = directory.split()
        && name.ends_with(b".pyc")
    {
        let stem = name.split(|b| *b == b'.').next().unwrap_or_default();
        all.push(above.join(&[stem, b".py"].concat()));
    }
    all
}

/// A directory belongs to whom the files below it belong to.
fn directories(changes: &Changes, owners: &mut [Owner]) {
    for at in 0..changes.list.len() {
        if changes.list[at].kind != Kind::Directory || owners[at] != Owner::Unowned {
            continue;
        }
        let below = changes.list.iter().zip(&*owners).find(|(c, owner)| {
            c.kind != Kind::Directory && **owner != Owner::Unowned && c.path.is_below(&changes.list[at].path)
        });
        if let Some((_, owner)) = below {
            owners[at] = owner.clone();
        }
    }
}

/// Every site-packages and dist-packages directory that a change is in.
fn python_directories(changes: &Changes) -> Vec<Inside> {
    let mut found: Vec<Inside> = Vec::new();
    for change in &changes.list {
        let components: Vec<&[u8]> = change.path.components().collect();
        let python = |c: &&[u8]| [&b"site-packages"[..], b"dist-packages"].contains(c);
        if let Some(depth) = components.iter().position(python) {
            let directory = Inside::from_components(components[..=depth].iter().copied());
            if !found.contains(&directory) {
                found.push(directory);
            }
        }
        // A script is listed by a distribution that the same step installed or removed, next to which other files changed.
    }
    found
}

/// Directories of the root that are links since Debian's merged /usr: dpkg's lists name files through them.
fn aliases(image: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, Inside)>> {
    let mut found = Vec::new();
    for name in [&b"bin"[..], b"sbin", b"lib", b"lib32", b"lib64", b"libx32"] {
        let Some(stat) = fs::stat(image, name)? else { continue };
        if Kind::of(stat.st_mode) == Kind::Link {
            let target = fs::readlink(image, name)?;
            found.push((name.to_vec(), Inside::from_components(components(&target))));
        }
    }
    Ok(found)
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".")
}

/// `path` below `base` with its `..` taken away, as RECORD has them for scripts.
fn resolved(base: &Inside, path: &[u8]) -> Inside {
    let mut all: Vec<&[u8]> = if path.starts_with(b"/") { Vec::new() } else { base.components().collect() };
    for component in components(path) {
        if component == b".." {
            all.pop();
        } else {
            all.push(component);
        }
    }
    Inside::from_components(all)
}

struct Search {
    /// Changed paths, with their owner once it is found.
    known: HashMap<Inside, Option<Owner>>,
    aliases: Vec<(Vec<u8>, Inside)>,
}

impl Search {
    fn owner(&self, path: &Inside) -> Owner {
        if let Some((directory, name)) = path.split()
            && directory == Inside::from_components(components(DPKG_INFO))
            && let Some(package) = package_of(name)
        {
            return Owner::Dpkg(package);
        }
        let found = wanted(path).iter().find_map(|p| self.known.get(p).cloned().flatten());
        found.unwrap_or(Owner::Unowned)
    }

    fn claim(&mut self, path: &Inside, owner: &dyn Fn() -> Owner) {
        if let Some(slot @ None) = self.known.get_mut(path) {
            *slot = Some(owner());
        }
    }

    /// `var/lib/dpkg/info/PACKAGE.list`, dpkg(1) FILES: a path a line.
    fn dpkg(&mut self, layer: BorrowedFd<'_>) -> Result<()> {
        let Ok(info) = fs::open_dir_below(layer, DPKG_INFO) else { return Ok(()) };
        for entry in fs::entries(info.as_fd())? {
            let Some(package) = entry.name.strip_suffix(b".list").and_then(|_| package_of(&entry.name)) else {
                continue;
            };
            let Some(list) = open_file(info.as_fd(), &entry.name)? else { continue };
            for line in BufReader::new(list).split(b'\n') {
                let line = line?;
                let path = Inside::from_components(components(&line));
                self.claim(&path, &|| Owner::Dpkg(package.clone()));
                if let Some(merged) = self.through_alias(&line) {
                    self.claim(&merged, &|| Owner::Dpkg(package.clone()));
                }
            }
        }
        Ok(())
    }

    fn through_alias(&self, line: &[u8]) -> Option<Inside> {
        let mut all = components(line);
        let first = all.next()?;
        let (_, target) = self.aliases.iter().find(|(name, _)| name == first)?;
        Some(all.fold(target.clone(), |path, component| path.join(component)))
    }

    /// `NAME-VERSION.dist-info/RECORD`, PEP 376 and 627: CSV, the path first.
    fn pip(&mut self, layer: BorrowedFd<'_>, directory: &Inside) -> Result<()> {
        let Ok(packages) = fs::open_dir_below(layer, directory.bytes()) else { return Ok(()) };
        for entry in fs::entries(packages.as_fd())? {
            let Some(stem) = entry.name.strip_suffix(b".dist-info") else { continue };
            let Ok(info) = fs::open_dir(packages.as_fd(), &entry.name) else { continue };
            let Some(record) = open_file(info.as_fd(), b"RECORD")? else { continue };
            let distribution = String::from_utf8_lossy(stem).replacen('-', " ", 1);
            for line in BufReader::new(record).split(b'\n') {
                let line = line?;
                let path = resolved(directory, &first_field(&line));
                self.claim(&path, &|| Owner::Pip(distribution.clone()));
            }
        }
        Ok(())
    }
}

fn open_file(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<std::fs::File>> {
    let file = fs::stat(directory, name)?.is_some_and(|s| Kind::of(s.st_mode) == Kind::File);
    Ok(if file { Some(OwnedFd::into(fs::open_read(directory, name)?)) } else { None })
}

/// `libc6` of `libc6:amd64.list`.
fn package_of(name: &[u8]) -> Option<String> {
    let stem = &name[..name.iter().rposition(|b| *b == b'.')?];
    let package = stem.split(|b| *b == b':').next().filter(|p| !p.is_empty())?;
    Some(String::from_utf8_lossy(package).into_owned())
}

/// RFC 4180: quoted when it has a comma or a quote in it.
fn first_field(line: &[u8]) -> Vec<u8> {
    let Some(quoted) = line.strip_prefix(b"\"") else {
        return line.split(|b| *b == b',').next().unwrap_or_default().to_vec();
    };
    let mut field = Vec::new();
    let mut rest = quoted.iter().peekable();
    while let Some(byte) = rest.next() {
        match (byte, rest.peek()) {
            (b'"', Some(b'"')) => {
                rest.next();
                field.push(b'"');
            }
            (b'"', _) => break,
            _ => field.push(*byte),
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(path: &str) -> Inside {
        Inside::from_components(components(path.as_bytes()))
    }

    #[test]
    fn a_record_names_scripts_by_dots_and_odd_names_in_quotes() {
        let base = inside("/usr/local/lib/python3.13/dist-packages");
        let table = [
            ("six.py,sha256=x,1", "/usr/local/lib/python3.13/dist-packages/six.py"),
            ("../../../bin/tool,,", "/usr/local/bin/tool"),
            ("\"a,\"\"b.py\",,", "/usr/local/lib/python3.13/dist-packages/a,\"b.py"),
            ("/etc/x,,", "/etc/x"),
        ];
        for (line, path) in table {
            assert_eq!(resolved(&base, &first_field(line.as_bytes())), inside(path), "{line}");
        }
    }

    #[test]
    fn byte_code_belongs_to_its_source() {
        assert_eq!(wanted(&inside("/a/__pycache__/b.cpython-313.pyc"))[1], inside("/a/b.py"));
        assert_eq!(wanted(&inside("/a/b.pyc")).len(), 1);
    }

    #[test]
    fn a_package_is_named_without_its_architecture() {
        assert_eq!(package_of(b"libc6:amd64.list").as_deref(), Some("libc6"));
        assert_eq!(package_of(b"python3.13.postinst").as_deref(), Some("python3.13"));
        assert_eq!(package_of(b"format"), None);
    }
}
