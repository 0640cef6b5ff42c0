//! Who called, as it was before dropcloth entered a user namespace of its own.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::ids::Maps;
use crate::error::{Doing, Result};

/// The caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The id maps of the user namespace that dropcloth entered; none: it did not need one.
    pub maps: Option<Maps>,
    /// Why the namespace has one id only, when that is no choice of the user.
    pub single_because: Option<String>,
}

static CALLER: OnceLock<Caller> = OnceLock::new();

impl Caller {
    /// Whoever runs this process.
    pub fn of_process() -> Caller {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Caller { uid, gid, maps: None, single_because: None }
    }

    /// Remembers who called. Once, before anything asks.
    pub fn remember(self) {
        let _ = CALLER.set(self);
    }

    /// Who called.
    pub fn get() -> Caller {
        CALLER.get().cloned().unwrap_or_else(Caller::of_process)
    }

    /// The home directory in passwd(5).
    pub fn home(&self) -> Option<PathBuf> {
        nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(self.uid)).ok().flatten().map(|user| user.dir)
    }
}

/// The user behind sudo, when this is root of the machine: whose home and caches are meant.
pub fn behind_sudo() -> Option<(u32, u32)> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok().filter(|id| *id != 0);
    (Caller::get().uid == 0 && Caller::get().maps.is_none())
        .then(|| Some((number("SUDO_UID")?, number("SUDO_GID")?)))?
}

/// Makes a directory with all above it, as the caller's own through sudo too.
///
/// # Errors
/// What mkdir(2) and chown(2) say.
pub fn make_directory(directory: &Path) -> Result<()> {
    let doing = || format!("cannot make {}", directory.display());
    let mut missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    std::fs::create_dir_all(directory).doing(doing)?;
    missing.reverse();
    if let Some((uid, gid)) = behind_sudo() {
        for path in missing {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).doing(doing)?;
        }
    }
    Ok(())
}
