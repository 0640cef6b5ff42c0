//! The facts about an image that the plan needs, gathered without walking it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use super::account::Account;
use super::inside::{Directories, Place, Resolver};
use super::pythons::{self, Pythons};
use super::{Identity, Image, Inside};
use crate::error::{Doing, Result};
use crate::host::ids::Maps;
use crate::sys::userns::OVERFLOW_ID;
use crate::sys::{fs, mount, mountinfo, statmount, volume};

/// A mount that stands below the image on the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Submount {
    /// Where, inside the image.
    pub at: Inside,
    /// File system type.
    pub kind: String,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Absolute host path.
    pub path: PathBuf,
    /// Device and inode.
    pub identity: Identity,
    /// Owner and group of its root directory, in this user namespace.
    pub owner: (u32, u32),
    /// That owner has no place in this user namespace.
    pub foreign_owner: bool,
    /// Entries near the root whose owners have no place there either.
    pub foreign: Vec<Foreign>,
    /// It is the host's own root directory.
    pub host_root: bool,
    /// It is a mount point, so that its parent is on another mount.
    pub mount_point: bool,
    /// The directory above is on the same file system.
    pub parent_on_same_device: bool,
    /// Type of its file system, as in mountinfo.
    pub filesystem: String,
    /// The mount is read-only.
    pub read_only: bool,
    /// The mount is nosuid.
    pub nosuid: bool,
    /// The mount is noexec.
    pub noexec: bool,
    /// Mounts below it.
    pub submounts: Vec<Submount>,
    /// Who the step runs as.
    pub account: Account,
    /// Where Pythons have configuration of their own.
    pub pythons: Pythons,
    /// Each path the plan asked for, resolved inside the image.
    pub places: BTreeMap<OsString, Place>,
    /// Distribution, its release and the architecture of this machine, such as `debian-12-x86_64`, os-release(5); none: it has no
    /// such file.
    pub release: Option<String>,
    /// dpkg's invoke-rc.d is there.
    pub starts_services: bool,
}

impl Survey {
    /// Gathers the facts; `wanted` names the paths to resolve once the account and the Pythons are known. The directories on
    /// these paths come back open: their attributes are copied when the scaffold is made.
    pub fn take(
        image: &Image,
        maps: Option<&Maps>,
        user: Option<&str>,
        hints: &[PathBuf],
        wanted: impl FnOnce(&Account, &Pythons) -> Vec<PathBuf>,
    ) -> Result<(Survey, Directories)> {
        let passwd = image.passwd()?;
        let account = image.account(&passwd, user)?;
        let mut resolver = Resolver::new(image);
        let pythons = pythons::find(image, &mut resolver, &passwd, hints)?;
        let mut places = BTreeMap::new();
        for path in wanted(&account, &pythons) {
            if let Some(inside) = Inside::lexical(&path) {
                let place = resolver.resolve(&inside)?;
                places.insert(path.into_os_string(), place);
            }
        }
        let attributes = mount::attributes_of(image.directory())?;
        let host_root = is_host_root(image)?;
        let mounts = mounts(image)?;
        let root = fs::fstat(image.directory())?;
        let survey = Survey {
            path: image.path().to_owned(),
            identity: image.identity(),
            owner: (root.st_uid, root.st_gid),
            foreign_owner: owner_is_foreign(image, &root),
            foreign: if host_root { Vec::new() } else { foreign(image, maps)? },
            host_root,
            mount_point: mounts.iter().any(|m| m.point == image.path()),
            parent_on_same_device: parent_device(image.path()).is_some_and(|d| d == image.identity().device),
            filesystem: volume::kind(image.directory())?.to_owned(),
            read_only: mount::is_read_only(image.directory())?,
            nosuid: attributes.contains(mount::Attr::MOUNT_ATTR_NOSUID),
            noexec: attributes.contains(mount::Attr::MOUNT_ATTR_NOEXEC),
            submounts: submounts(image.path(), mounts),
            account,
            pythons,
            places,
            release: release(image)?,
            starts_services: image.has("usr/sbin/invoke-rc.d"),
        };
        Ok((survey, resolver.into_directories()))
    }

    /// Where `path`, one that the plan asked for, ends in the image.
    pub fn place(&self, path: &Path) -> Option<&Place> {
        // By their bytes: paths are compared component by component, which takes much longer.
        self.places.get(path.as_os_str())
    }

    /// The submount that covers `path`, if one does.
    pub fn submount_over(&self, path: &Inside) -> Option<&Submount> {
        self.submounts.iter().find(|m| path.is_below(&m.at))
    }
}

fn release(image: &Image) -> Result<Option<String>> {
    let text = match image.read_small("etc/os-release", 1 << 16)? {
        Some(text) => Some(text),
        None => image.read_small("usr/lib/os-release", 1 << 16)?,
    };
    let release = text.and_then(|text| release_of(&String::from_utf8_lossy(&text)));
    Ok(release.map(|release| format!("{release}-{}", std::env::consts::ARCH)))
}

/// Only what may be part of a file name: the image is not trusted.
fn release_of(text: &str) -> Option<String> {
    let value = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        let plain = value.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect::<String>();
        Some(plain.trim_start_matches('.').to_owned()).filter(|plain| !plain.is_empty())
    };
    let id = value("ID")?;
    // Debian's testing has a name only.
    let version = value("VERSION_ID").or_else(|| value("VERSION_CODENAME"));
    Some(version.map_or(id.clone(), |version| format!("{id}-{version}")))
}

/// An entry with an owner that the user namespace does not have.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Foreign {
    /// Where, inside the image.
    pub path: Inside,
    /// Owner, as the namespace shows it.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Directories in which users and services have their own, or whoever unpacks or copies an image leaves owners; no more are
/// looked into: the start of a step must not depend on the size of its image.
const LOOKED_INTO: [&[u8]; 6] = [b"", b"home", b"opt", b"srv", b"var", b"var/lib"];
/// So many of the directories in each, and of its other entries.
const LOOKED_AT: (usize, usize) = (6, 2);
/// What belongs to groups and users of the system where packages of Debian, Fedora, Arch or Alpine were installed by root.
const OWNED: [&[u8]; 9] = [
    b"etc/shadow",
    b"usr/bin/chage",
    b"usr/bin/wall",
    b"var/cache/apt/archives/partial",
    b"var/lib/rpm",
    b"var/local",
    b"var/log/wtmp",
    b"var/mail",
    b"var/spool/mail",
];
/// More are not told.
const FOREIGN_SHOWN: usize = 5;

/// Looks for owners without a place where they would be.
fn foreign(image: &Image, maps: Option<&Maps>) -> Result<Vec<Foreign>> {
    let mut found = Vec::new();
    if maps.is_none() {
        return Ok(found);
    }
    for path in OWNED {
        let entry = Inside::from_names(path);
        let Some((above, name)) = entry.split() else { continue };
        let Ok(directory) = fs::try_open_dir_below(image.directory(), above.bytes()) else { continue };
        found.extend(foreign_entry(directory.as_fd(), &above, name)?);
    }
    for path in LOOKED_INTO {
        let Ok(directory) = fs::try_open_dir_below(image.directory(), path) else { continue };
        let above = Inside::from_names(path);
        let mut seen = (0, 0);
        for entry in fs::entries(directory.as_fd())? {
            let (seen, most) = match entry.kind {
                FileType::Directory => (&mut seen.0, LOOKED_AT.0),
                // Nothing but an open(2) tells, and that goes through a link.
                FileType::Symlink => continue,
                _ => (&mut seen.1, LOOKED_AT.1),
            };
            *seen += 1;
            if *seen <= most || above.is_root() {
                let entry = foreign_entry(directory.as_fd(), &above, &entry.name)?;
                found.extend(entry.filter(|entry| !found.contains(entry)));
            }
            if found.len() >= FOREIGN_SHOWN {
                found.truncate(FOREIGN_SHOWN);
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// The entry `name` of a directory, if its owner or its group has no place.
fn foreign_entry(directory: BorrowedFd<'_>, above: &Inside, name: &[u8]) -> Result<Option<Foreign>> {
    let Some(stat) = fs::stat(directory, name)? else { return Ok(None) };
    // The overflow ids: those without a place, or somebody's by right.
    if stat.st_uid != OVERFLOW_ID && stat.st_gid != OVERFLOW_ID {
        return Ok(None);
    }
    let openable = [FileType::RegularFile, FileType::Directory].contains(&FileType::from_raw_mode(stat.st_mode));
    let foreign = openable && !fs::may_own(directory, name);
    Ok(foreign.then(|| Foreign { path: above.join(name), uid: stat.st_uid, gid: stat.st_gid }))
}

/// The kernel shows ids without a place as the overflow ids, user_namespaces(7), and those may be mapped themselves. Only what
/// it lets us do tells: root of the namespace has an owner's rights on every file whose owner has a place.
fn owner_is_foreign(image: &Image, root: &Stat) -> bool {
    root.st_uid == OVERFLOW_ID && !fs::may_own(image.directory(), b".")
}

fn is_host_root(image: &Image) -> Result<bool> {
    let root = fs::fstat(mount::open_path(Path::new("/"))?.as_fd()).doing(|| "cannot look at /")?;
    Ok(Identity::of(&root) == image.identity())
}

fn parent_device(path: &Path) -> Option<u64> {
    let parent = mount::open_path(path.parent()?).ok()?;
    fs::fstat(parent.as_fd()).ok().map(|stat| stat.st_dev)
}

/// The mounts at and below the image.
fn mounts(image: &Image) -> Result<Vec<mountinfo::Mount>> {
    match statmount::at_and_below(image.path(), image.directory()) {
        Some(mounts) => Ok(mounts),
        None => Ok(mountinfo::at_and_below(image.path())?),
    }
}

fn submounts(root: &Path, mounts: Vec<mountinfo::Mount>) -> Vec<Submount> {
    let mut found: Vec<Submount> = mounts
        .into_iter()
        .filter(|m| m.point != root)
        .filter_map(|m| Some(Submount { at: Inside::lexical(m.point.strip_prefix(root).ok()?)?, kind: m.kind }))
        .collect();
    // Several mounts stacked on one place look like one from outside.
    found.sort_by(|a, b| a.at.cmp(&b.at));
    found.dedup_by(|a, b| a.at == b.at);
    found
}
