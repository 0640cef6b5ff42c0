//! What is known of each file, kept beside the mirror so that nothing is read twice.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};
use crate::mirror::{artifact, replace};
use crate::pypi::metadata;

/// Where it is kept, in the mirror.
pub const FILE: &str = ".dropcloth-index.json";
const VERSION: u32 = 1;
/// Smaller artifacts are read once into memory, for hash and metadata; of larger ones the archive is read by parts.
const IN_MEMORY: u64 = 64 << 20;

/// Everything by `NAME/FILE`.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Of the form of the file.
    pub version: u32,
    /// By `NAME/FILE`.
    pub files: BTreeMap<String, Facts>,
}

/// Size and time of change: a file that has both as before is taken for the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    mtime: i64,
}

impl Look {
    /// Of an open or found file.
    pub fn of(data: &Metadata) -> Look {
        use std::os::unix::fs::MetadataExt;
        Look { size: data.size(), mtime: data.mtime().wrapping_mul(1_000_000_000).wrapping_add(data.mtime_nsec()) }
    }
}

/// What is known of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// When that was.
    pub look: Look,
    /// Lower case hex.
    pub sha256: String,
    /// `Requires-Python`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub requires_python: Option<String>,
    /// The core metadata beside a wheel: its hash, and its look.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub metadata: Option<(String, Look)>,
    /// Why it is no archive of its kind.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unreadable: Option<String>,
    /// Yanked, and why: from the pages.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub yanked: Option<String>,
    /// When it was uploaded, RFC 3339: from the pages.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub upload_time: Option<String>,
}

impl Known {
    /// What an earlier run left. One that cannot be read is as good as none.
    pub fn read(directory: &Path) -> Known {
        let text = std::fs::read(directory.join(FILE)).unwrap_or_default();
        let known: Known = serde_json::from_slice(&text).unwrap_or_default();
        if known.version == VERSION { known } else { Known::default() }
    }

    /// Keeps it for the next run.
    pub fn write(mut self, directory: &Path) -> Result<()> {
        self.version = VERSION;
        replace::write(&directory.join(FILE), &serde_json::to_vec(&self)?)?;
        Ok(())
    }
}

/// What is known of the file at `path` now, and whether it was read for that. Writes the core metadata of a wheel beside it.
pub fn look(path: &Path, before: Option<&Facts>) -> Result<(Facts, bool)> {
    let doing = || format!("cannot read {}", path.display());
    let look = Look::of(&std::fs::metadata(path).doing(doing)?);
    if let Some(before) = before.filter(|before| before.look == look && is_there(path, before)) {
        return Ok((before.clone(), false));
    }
    let mut facts = Facts { look, ..Facts::default() };
    let inside = if look.size <= IN_MEMORY {
        let bytes = std::fs::read(path).doing(doing)?;
        facts.sha256 = artifact::sha256_of(&bytes);
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        artifact::of(name, std::io::Cursor::new(bytes))
    } else {
        facts.sha256 = artifact::sha256(path)?.0;
        artifact::read(path)
    };
    let wheel = path.extension().is_some_and(|e| e == "whl");
    match inside {
        Ok(inside) => {
            facts.requires_python =
                metadata::Metadata::parse(&String::from_utf8_lossy(&inside.metadata)).requires_python;
            if wheel {
                let beside = metadata_path(path);
                replace::write(&beside, &inside.metadata)?;
                let data = std::fs::metadata(&beside).doing(|| format!("cannot read {}", beside.display()))?;
                facts.metadata = Some((artifact::sha256_of(&inside.metadata), Look::of(&data)));
            }
        }
        // Old sdists have no PKG-INFO, and some kinds of archive are not read here: installers know better.
        Err(error) if wheel => facts.unreadable = Some(format!("{error:#}")),
        Err(_) => {}
    }
    Ok((facts, true))
}

/// `FILE.metadata`, PEP 658.
pub fn metadata_path(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".metadata");
    name.into()
}

fn is_there(path: &Path, before: &Facts) -> bool {
    before.metadata.as_ref().is_none_or(|(_, look)| {
        std::fs::metadata(metadata_path(path)).is_ok_and(|data| data.is_file() && Look::of(&data) == *look)
    })
}
