//! Who called, as it was before dropcloth entered a user namespace of its own.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::ids::Maps;

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
