//! What a step did, read from the upper directory of its overlay; and commit and discard.

pub mod commit;
mod conflicts;
pub mod copy;
pub mod diff;
pub mod discard;
mod fresh;
pub mod gate;
pub mod laid;
pub mod leaks;
pub mod links;
mod lower;
pub mod marks;
pub mod orphan;
mod overrides;
pub mod owners;
pub mod record;
pub mod redo;
pub mod replica;
mod restore;
mod root_times;
pub mod scan;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::image::Inside;
use crate::settings::WhenChanged;

pub use conflicts::{Stamp, stamp};
pub use restore::disinherit;
pub use scan::scan;

/// What happened to one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is new.
    Added,
    /// It was there and is another now (content or attributes).
    Modified,
    /// It is gone.
    Removed,
    /// A directory was moved here from another place.
    Renamed,
    /// Only owner, mode or attributes of a directory changed.
    Attributes,
}

/// What kind of entry it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, fifo or socket.
    Special,
}

impl Kind {
    /// The kind in a file mode.
    pub fn of(mode: u32) -> Kind {
        use rustix::fs::FileType;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        }
    }
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where.
    pub path: Inside,
    /// What happened.
    pub what: What,
    /// What is there now (for a removed path: what was).
    pub kind: Kind,
    /// Bytes of a regular file.
    #[serde(default, skip_serializing_if = "no_bytes")]
    pub bytes: u64,
    /// Where a renamed directory came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Inside>,
}

fn no_bytes(bytes: &u64) -> bool {
    *bytes == 0
}

/// The whole of what a step did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Changes {
    /// Every changed path, in the order of the walk.
    pub list: Vec<Change>,
    /// Overrides that the step changed and whose change is dropped.
    pub dropped: Vec<Inside>,
    /// Overrides that the step changed and whose rule forbids it.
    pub forbidden: Vec<Inside>,
    /// What somebody else changed in the image since the transaction began, and the step too.
    pub conflicts: Vec<Inside>,
    /// Traces of the run.
    pub leaks: Vec<leaks::Leak>,
    /// Where the result is not what a plain chroot leaves.
    pub inexact: Vec<String>,
}

impl Changes {
    /// Where the image has today what is at `path` after the commit: elsewhere, below a renamed directory.
    pub fn origin(&self, path: &Inside) -> Inside {
        let renamed = |c: &&Change| c.from.is_some() && path.is_below(&c.path);
        let Some(deepest) = self.list.iter().filter(renamed).max_by_key(|c| c.path.depth()) else {
            return path.clone();
        };
        let from = deepest.from.clone().unwrap_or_default();
        path.components().skip(deepest.path.depth()).fold(from, |at, name| at.join(name))
    }

    /// Number of changed entries that are not directories, and their bytes.
    pub fn files(&self) -> (usize, u64) {
        let files = self.list.iter().filter(|c| c.kind != Kind::Directory && c.what != What::Removed);
        files.fold((0, 0), |(n, bytes), c| (n + 1, bytes + c.bytes))
    }
}

/// What commit has to know about the scaffold: which paths are not the image's business.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Policy {
    /// Override files and their rules.
    pub overrides: BTreeMap<Inside, WhenChanged>,
    /// Directories and mount points that only the scaffold has.
    pub made: BTreeSet<Inside>,
    /// What the overrides hold, where it is known: an override that was only opened for writing is unchanged.
    #[serde(default)]
    pub contents: BTreeMap<Inside, Digest>,
}

/// Length and FNV-1a of some bytes. Tells an accident from no change; nothing depends on it that somebody could gain by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(u64, u64);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01b3;
        Digest(bytes.len() as u64, bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)))
    }
}

impl Policy {
    /// The policy of a scaffold.
    pub fn of(scaffold: &crate::plan::Scaffold) -> Policy {
        use crate::plan::{Content, Entry};
        let mut policy = Policy::default();
        for (path, entry) in &scaffold.entries {
            match entry {
                Entry::Clone => {}
                Entry::Directory { .. } => drop(policy.made.insert(path.clone())),
                Entry::Point => {
                    policy.overrides.insert(path.clone(), WhenChanged::Drop);
                    policy.contents.insert(path.clone(), Digest::of(b""));
                }
                Entry::File { when_changed, content, .. } => {
                    policy.overrides.insert(path.clone(), *when_changed);
                    let digest = match content {
                        Content::Text(text) => Some(Digest::of(text.as_bytes())),
                        Content::Resolver(bytes) => Some(Digest::of(bytes)),
                        Content::File(_) => None,
                    };
                    policy.contents.extend(digest.map(|digest| (path.clone(), digest)));
                }
            }
        }
        policy
    }
}
