//! The child's part: mounts of its own, the overrides bound, chroot(2), credentials, exec.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, ResolveFlags};

use super::credentials::Credentials;
use super::points::Wanted;
use crate::error::{Doing, Fault, Result};
use crate::image::{Image, Inside};
use crate::plan::{Entry, Mount, MountPlan, Plan};
use crate::sandbox::mounts;
use crate::sandbox::{Inputs, scaffold};
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::{fs, process};

/// What of a plan a command in chroot gets: no /proc, /sys and /dev, which are the framework's to mount, nothing that the
/// framework has mounted bound again, no `policy-rc.d`.
pub fn reduced(mut plan: Plan) -> Plan {
    plan.mounts.retain(|m| {
        matches!(
            m.mount,
            Mount::Mirror { .. } | Mount::Bind { .. } | Mount::Cache { .. } | Mount::Tmpfs | Mount::Secrets { .. }
        )
    });
    let entries = &mut plan.scaffold.entries;
    entries.retain(|_, entry| !matches!(entry, Entry::File { what, .. } if what == "no services are started"));
    without_early_directories(entries, &mut plan.mounts);
    let needed: Vec<Inside> = entries
        .iter()
        .filter(|(_, entry)| matches!(entry, Entry::File { .. } | Entry::Point))
        .map(|(path, _)| path.clone())
        .chain(plan.mounts.iter().map(|m| m.at.clone()))
        .collect();
    entries.retain(|path, _| needed.iter().any(|other| other.is_below(path)));
    plan
}

/// Every place that something is mounted on, with what is above it: also what was there when the plan was made, since that
/// may have been the point of another command, which is gone by now.
pub fn wanted(plan: &Plan) -> Wanted {
    let mut wanted = Wanted::new();
    for (path, entry) in plan.scaffold.entries.iter().filter(|(path, _)| !path.is_root()) {
        let mode = match entry {
            Entry::Directory { mode } => Some(*mode),
            Entry::Clone => Some(0o755),
            Entry::File { .. } | Entry::Point => None,
        };
        wanted.insert(path.clone(), mode);
    }
    for mount in plan.mounts.iter().filter(|m| !matches!(m.mount, Mount::Bind { .. })) {
        let mut path = mount.at.clone();
        while !path.is_root() {
            wanted.entry(path.clone()).or_insert(Some(0o755));
            path = path.parent();
        }
    }
    wanted
}

/// Directories that are made where the root lacks them: installers' own. Any other that is missing comes with a package still:
/// made by us, it would have our owner and mode, and nothing is laid below it until it is there.
const OURS: [&[u8]; 8] = [b"pip", b"uv", b"pdm", b".pip", b".config", b"xdg", b"dropcloth", b"pypi"];

fn without_early_directories(entries: &mut BTreeMap<Inside, Entry>, mounts: &mut Vec<MountPlan>) {
    let early = |path: &Inside, entry: &Entry| {
        let ours = path.split().is_none_or(|(_, name)| OURS.contains(&name));
        matches!(entry, Entry::Directory { .. }) && !ours
    };
    let early: Vec<Inside> =
        entries.iter().filter(|(path, entry)| early(path, entry)).map(|(p, _)| p.clone()).collect();
    let asked = |m: &MountPlan| !matches!(m.mount, Mount::Mirror { .. });
    let kept: Vec<Inside> = mounts.iter().filter(|m| asked(m)).map(|m| m.at.clone()).collect();
    let dropped = |path: &Inside| {
        early.iter().any(|e| path.is_below(e)) && !kept.iter().any(|at| at.is_below(path) || path.is_below(at))
    };
    entries.retain(|path, _| !dropped(path));
    mounts.retain(|m| !dropped(&m.at));
}

/// Mounts everything in a mount namespace of this process's own. What is mounted outside later is seen here, and nothing of
/// here outside.
pub fn mount_all(plan: &Plan, image: &Image, inputs: &Inputs) -> Result<()> {
    crate::sys::userns::unshare_mounts().doing(|| "cannot make a mount namespace")?;
    mount::make_all_slaves().doing(|| "cannot keep mounts to ourselves")?;
    let image = Image::reopen(image.path(), image.identity())?;
    let mut sources = mounts::open_sources(plan, &image, &inputs.secrets)?;
    let files = files(plan, &image)?;
    mounts::make_all(plan, image.directory(), None, &mut sources, &inputs.pages)?;
    for (path, file) in &files {
        let doing = || format!("cannot lay {path} over");
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let target = fs::openat2(image.directory(), path.bytes(), flags, resolve).doing(doing)?;
        mount::attach(file.as_fd(), target.as_fd()).doing(doing)?;
    }
    Ok(())
}

/// The overrides, each as a detached mount of a file in memory.
fn files(plan: &Plan, image: &Image) -> Result<Vec<(Inside, OwnedFd)>> {
    let tmpfs = FsContext::open("tmpfs")?;
    tmpfs.set("source", "dropcloth")?;
    tmpfs.set("mode", "0755")?;
    let attributes = Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID;
    let mounted = tmpfs.mount(attributes)?;
    // A file of a detached mount cannot be bound before Linux 6.15: it is attached where this namespace needs nothing.
    let point = mount::open_path(std::path::Path::new("/sys"))?;
    mount::attach(mounted.as_fd(), point.as_fd())?;
    let root = fs::open_dir(mounted.as_fd(), b".")?;
    scaffold::fill(plan, image, root.as_fd(), &scaffold::Ids(None))?;
    let mut found = Vec::new();
    for (path, entry) in &plan.scaffold.entries {
        if matches!(entry, Entry::File { .. }) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let file = fs::openat2(root.as_fd(), path.bytes(), OFlags::PATH | OFlags::NOFOLLOW, resolve)?;
            let bound = mount::clone_mount(file.as_fd(), false)?;
            mount::set_attributes(bound.as_fd(), attributes, false)?;
            found.push((path.clone(), bound));
        }
    }
    drop(root);
    mount::detach(std::path::Path::new("/sys"))?;
    Ok(found)
}

/// chroot(2), by descriptor.
pub fn change_root(directory: BorrowedFd<'_>, stay: bool) -> crate::sys::SysResult<()> {
    if stay {
        return Ok(());
    }
    process::chroot(directory)
}

/// Becomes who was asked for. Groups first, while the right is there.
pub fn become_whom(credentials: &Credentials) -> Result<()> {
    let text = |what: &str, error: nix::errno::Errno| Fault::new(format!("failed to set {what}: {}", error.desc()));
    if let Some(groups) = &credentials.groups {
        let groups: Vec<nix::unistd::Gid> = groups.iter().map(|id| nix::unistd::Gid::from_raw(*id)).collect();
        nix::unistd::setgroups(&groups).map_err(|e| text("supplemental groups", e))?;
    }
    if let Some(gid) = credentials.gid {
        nix::unistd::setgid(nix::unistd::Gid::from_raw(gid)).map_err(|e| text("group-ID", e))?;
    }
    if let Some(uid) = credentials.uid {
        nix::unistd::setuid(nix::unistd::Uid::from_raw(uid)).map_err(|e| text("user-ID", e))?;
    }
    Ok(())
}
