//! What a mirror was built for, kept in it, with the files that each request brought.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::mirror::replace;

/// Where it is kept, in the mirror.
const FILE: &str = ".dropcloth-build.json";

/// By request: `PROJECT/FILE` of what dropcloth put there for it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// By the hash of what was asked for.
    pub requests: BTreeMap<String, BTreeSet<String>>,
}

impl Requests {
    /// What is known of the mirror in `directory`. A file that cannot be read is as good as none.
    pub fn read(directory: &Path) -> Requests {
        let text = std::fs::read(directory.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Keeps it.
    pub fn write(&self, directory: &Path) -> Result<()> {
        replace::write(&directory.join(FILE), &serde_json::to_vec(self)?)?;
        Ok(())
    }

    /// Whether dropcloth brought this file.
    pub fn brought(&self, place: &str) -> bool {
        self.requests.values().any(|files| files.contains(place))
    }
}
