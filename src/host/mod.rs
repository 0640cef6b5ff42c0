//! The machine's facts, as plain data.

pub mod caller;
pub mod ids;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use self::caller::Caller;
use crate::mirror::layout::{self, Layout};
use crate::settings::{Resolver, Settings};
use crate::sys::{mount, userns, volume};

/// What a host path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Nothing there, or it cannot be reached.
    Missing,
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A device, socket or fifo.
    Other,
}

/// Facts about this machine and this invocation.
#[derive(Debug, Clone)]
pub struct Host {
    /// Who called.
    pub caller: Caller,
    /// This is not the machine's first user namespace: attributes named trusted.* are out of reach.
    pub user_namespace: bool,
    /// CAP_SYS_ADMIN is effective in the current user namespace.
    pub may_mount: bool,
    /// Working directory.
    pub cwd: PathBuf,
    /// The caller's environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// The resolver file to lay over, when one was asked for and could be read.
    pub resolv_conf: Option<Vec<u8>>,
    /// What the local mirror's directory holds; none: it is missing.
    pub mirror: Option<Layout>,
    /// What each host path of the settings is.
    pub sources: BTreeMap<PathBuf, Source>,
    /// Where transactions go that cannot stand beside their image.
    pub state: PathBuf,
    /// Type of the file system on which transactions elsewhere would be; none: it cannot be told.
    pub scratch_filesystem: Option<String>,
    /// Where transactions go by `--scratch`.
    pub scratch: Option<PathBuf>,
    /// Standard input is a terminal.
    pub terminal: bool,
}

impl Host {
    /// Looks at the machine; only at what `settings` ask about.
    pub fn look(settings: &Settings, cwd: &Path, environment: BTreeMap<OsString, OsString>) -> Host {
        let paths = [&settings.mirror.value].into_iter();
        let paths = paths.chain(settings.lay.value.iter().map(|l| &l.source));
        let paths = paths.chain(settings.bind.value.iter().map(|b| &b.source));
        let paths = paths.chain(settings.secret.value.iter().map(|s| &s.source));
        let sources = paths.map(|path| (path.clone(), look_at(path))).collect();
        let caller = Caller::get();
        let state = state_directory(&environment);
        Host {
            caller,
            user_namespace: in_user_namespace(),
            may_mount: may_mount(),
            cwd: cwd.to_owned(),
            resolv_conf: resolver(&settings.resolver.value),
            sources,
            mirror: layout::look(&settings.mirror.value),
            scratch_filesystem: filesystem(settings.scratch.value.as_deref().unwrap_or(&state)),
            scratch: settings.scratch.value.as_deref().map(scratch_directory),
            state,
            environment,
            terminal: std::io::IsTerminal::is_terminal(&std::io::stdin()),
        }
    }

    /// What `path` of the settings is.
    pub fn source(&self, path: &Path) -> Source {
        self.sources.get(path).copied().unwrap_or(Source::Missing)
    }

    /// A variable of the caller, as text.
    pub fn variable(&self, name: &str) -> Option<String> {
        self.environment.get(std::ffi::OsStr::new(name)).map(|v| v.to_string_lossy().into_owned())
    }
}

/// Of the nearest directory that exists.
fn filesystem(path: &Path) -> Option<String> {
    let existing = path.ancestors().find(|p| p.is_dir())?;
    let handle = mount::open_path(existing).ok()?;
    volume::kind(handle.as_fd()).ok().map(str::to_owned)
}

/// Whether this is another user namespace than the machine's first, whose inode number is fixed: PROC_USER_INIT_INO,
/// include/linux/proc_ns.h.
pub fn in_user_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/user").is_ok_and(|link| link.as_os_str() != "user:[4026531837]")
}

/// Whether CAP_SYS_ADMIN is effective, in whatever user namespace this is.
pub fn may_mount() -> bool {
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

fn look_at(path: &Path) -> Source {
    match std::fs::metadata(path) {
        Err(_) => Source::Missing,
        Ok(data) if data.is_dir() => Source::Directory,
        Ok(data) if data.is_file() => Source::File,
        Ok(_) => Source::Other,
    }
}

fn resolver(wish: &Resolver) -> Option<Vec<u8>> {
    match wish {
        Resolver::Image => None,
        Resolver::Host => std::fs::read("/etc/resolv.conf").ok(),
        Resolver::File(path) => std::fs::read(path).ok(),
    }
}

/// Where transactions go that cannot stand beside their image, and what has to be known from one command to the next: what
/// `DROPCLOTH_STATE` names; else the machine's own place for root, the XDG base directories' `$XDG_STATE_HOME` for others. Root
/// of a user namespace may be allowed to write to neither.
pub fn state_directory(environment: &BTreeMap<OsString, OsString>) -> PathBuf {
    let variable =
        |name: &str| environment.get(std::ffi::OsStr::new(name)).filter(|v| !v.is_empty()).map(PathBuf::from);
    // As the XDG base directories: one that means another directory in each working directory is none.
    if let Some(chosen) = variable("DROPCLOTH_STATE").filter(|path| path.is_absolute()) {
        return chosen;
    }
    let root = Some(PathBuf::from("/var/lib")).filter(|_| Caller::get().uid == 0);
    let named = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    let possible = root.into_iter().chain(named).map(|directory| directory.join("dropcloth"));
    possible.into_iter().find(|path| may_make(path)).unwrap_or_else(|| own_in(&std::env::temp_dir()))
}

/// Where transactions go in a directory that the user has chosen: in one of his own in it where everybody may make entries
/// (`/tmp`, `/dev/shm`; the sticky bit, inode(7), keeps others than its owner from replacing that), else in the directory itself.
pub fn scratch_directory(chosen: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    const SHARED: u32 = libc::S_ISVTX | libc::S_IWOTH;
    let chosen = std::path::absolute(chosen).unwrap_or_else(|_| chosen.to_owned());
    // Root of the machine has no id of its own in a user namespace.
    let outside = if Caller::get().maps.is_some() { userns::OVERFLOW_ID } else { 0 };
    let trusted = |owner: u32| [rustix::process::geteuid().as_raw(), outside].contains(&owner);
    match std::fs::metadata(&chosen) {
        Ok(data) if data.mode() & SHARED == SHARED && trusted(data.uid()) => own_in(&chosen),
        _ => chosen,
    }
}

fn own_in(shared: &Path) -> PathBuf {
    let caller = Caller::get();
    // In a namespace of dropcloth's own, the caller is known by his id outside of it.
    let user = if caller.maps.is_some() { None } else { outer_id(caller.uid) };
    shared.join(format!("dropcloth-{}", user.unwrap_or(caller.uid)))
}

/// Whether this process may write there, or make it.
fn may_make(path: &Path) -> bool {
    let there = path.ancestors().find(|above| above.exists());
    there.is_some_and(|above| rustix::fs::access(above, rustix::fs::Access::WRITE_OK).is_ok())
}

/// What this user namespace's `id` is outside of it, user_namespaces(7): on one machine, two namespaces have the same ids inside.
fn outer_id(id: u32) -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse::<u32>().ok());
        let (first, outside, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let place = id.checked_sub(first).filter(|place| *place < count)?;
        outside.checked_add(place)
    })
}
