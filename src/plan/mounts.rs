//! What is mounted inside the merged root, in order.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::layers::Scaffold;
use super::refuse::Refusals;
use super::{Python, caches, host_dev};
use crate::host::{Host, Source, ids};
use crate::image::Inside;
use crate::image::inside::Place;
use crate::image::survey::{Submount, Survey};
use crate::pypi::MIRROR_MOUNT;
use crate::settings::{Mode, Settings, Sharing};

/// Where the step sees its secrets, as in Docker's and Podman's builds.
pub const SECRETS: &str = "/run/secrets";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "mount", rename_all = "snake_case")]
pub enum Mount {
    /// What the host has mounted there below the image.
    Submount {
        /// File system type.
        kind: String,
        /// Read-only: the run must not change it.
        read_only: bool,
    },
    /// A procfs of the sandbox's pid namespace, with the dangerous parts masked.
    Proc,
    /// A read-only sysfs.
    Sys,
    /// A small private /dev.
    Dev,
    /// The host's /dev.
    HostDev,
    /// A host directory or file.
    Bind {
        /// Host path.
        source: PathBuf,
        /// Read-only.
        read_only: bool,
    },
    /// A cache that steps share; never part of the image.
    Cache {
        /// Its name.
        name: String,
        /// Host path.
        source: PathBuf,
        /// For several runs.
        sharing: Sharing,
        /// User and group of it, as ids of the supervisor's user namespace.
        owner: (u32, u32),
    },
    /// The local mirror, read-only.
    Mirror {
        /// Host path.
        source: PathBuf,
        /// Pages that it lacks are laid over it, in memory.
        completed: bool,
    },
    /// The secrets of the step, in memory.
    Secrets {
        /// Their names.
        ids: Vec<String>,
    },
    /// A fresh tmpfs.
    Tmpfs,
}

/// A mount and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountPlan {
    /// Where, inside the image, links resolved.
    pub at: Inside,
    /// What.
    #[serde(flatten)]
    pub mount: Mount,
}

/// The mounts in order, with the points that the image lacks put into the scaffold.
pub fn plan(
    scaffold: &mut Scaffold,
    settings: &Settings,
    host: &Host,
    survey: &Survey,
    python: Option<&Python>,
    faults: &mut Refusals,
    notes: &mut Vec<String>,
) -> Vec<MountPlan> {
    let mut mounts = submounts(settings, survey, notes);
    let dev = if host_dev(settings) { Mount::HostDev } else { Mount::Dev };
    for (path, mount, mode) in [("/proc", Mount::Proc, 0o555), ("/sys", Mount::Sys, 0o555), ("/dev", dev, 0o755)] {
        if let Some(place) = survey.place(Path::new(path)) {
            scaffold.point(place, true, mode);
            mounts.push(MountPlan { at: place.path.clone(), mount });
        }
    }
    let mut add = |path: &Path, directory: bool, mode: u32, mount: Mount| {
        let Some(place) = survey.place(path) else { return };
        if let Some((what, hint)) = against(path, place, directory, survey) {
            return faults.add(what, hint);
        }
        scaffold.point(place, directory, mode);
        mounts.push(MountPlan { at: place.path.clone(), mount });
    };
    if let Some((python, mirror)) = python.and_then(|p| Some((p, p.mirror.as_ref()?))) {
        let mount = Mount::Mirror { source: mirror.clone(), completed: python.completed };
        add(Path::new(MIRROR_MOUNT), true, 0o755, mount);
    }
    if !settings.secret.value.is_empty() {
        let ids = settings.secret.value.iter().map(|s| s.id.clone()).collect();
        add(Path::new(SECRETS), true, 0o755, Mount::Secrets { ids });
    }
    for path in &settings.tmpfs.value {
        add(path, true, 0o1777, Mount::Tmpfs);
    }
    for cache in &settings.caches.value {
        let owner = owner(host, survey);
        let source = caches::source(cache, settings, survey, owner.0);
        let mount = Mount::Cache { name: cache.name.clone(), source, sharing: cache.sharing, owner };
        add(&caches::target(cache, &survey.account), true, 0o755, mount);
    }
    for bind in &settings.bind.value {
        let directory = host.source(&bind.source) == Source::Directory;
        add(&bind.target, directory, 0o755, Mount::Bind { source: bind.source.clone(), read_only: bind.read_only });
    }
    let ours = |m: &MountPlan| {
        matches!(m.mount, Mount::Tmpfs | Mount::Bind { .. } | Mount::Cache { .. } | Mount::Mirror { .. })
    };
    if mounts.iter().any(ours) {
        temporary_directory(scaffold, survey);
    }
    mounts
}

/// The step's user outside of the image's own user namespace.
fn owner(host: &Host, survey: &Survey) -> (u32, u32) {
    let account = &survey.account;
    match super::inner_maps(host, survey) {
        None => (account.uid, account.gid),
        Some(maps) => {
            let outer = |extents, id| ids::outside(extents, id).unwrap_or(id);
            (outer(&maps.users, account.uid), outer(&maps.groups, account.gid))
        }
    }
}

/// What stands against a mount at `place`, and what to do about it.
fn against(path: &Path, place: &Place, directory: bool, survey: &Survey) -> Option<(String, String)> {
    let shown = path.display();
    if let Some(why) = &place.obstacle {
        return Some((
            format!("nothing can be mounted at {shown}: {why}"),
            "Choose another path, or mend the image.".to_owned(),
        ));
    }
    if place.path.is_root() {
        return Some((format!("{shown} is the root of the image"), "Mount at a directory below it.".to_owned()));
    }
    if place.entry.is_some_and(|e| e.directory != directory) {
        let (is, takes) = if directory { ("not a directory", "a directory") } else { ("a directory", "a file") };
        let what = format!("{shown} of the image is {is}, and what is bound there is {takes}");
        return Some((what, "Choose another path.".to_owned()));
    }
    match (place.entry, survey.submount_over(&place.path)) {
        (None, Some(over)) => Some((
            format!(
                "{shown} does not exist on the {} file system that is mounted at {} of the image",
                over.kind, over.at
            ),
            format!("Make it there first with `mkdir -p`, or unmount {}.", over.at),
        )),
        _ => None,
    }
}

/// /tmp made for a mount point below it has the mode of every /tmp.
fn temporary_directory(scaffold: &mut Scaffold, survey: &Survey) {
    let Some(place) = survey.place(Path::new("/tmp")) else { return };
    if let Some(super::Entry::Directory { mode }) = scaffold.entries.get_mut(&place.path) {
        *mode = 0o1777;
    }
}

/// Mounts that stand below the image on the host are seen by the step too, except where dropcloth mounts its own. What a
/// discarded run writes must go nowhere, so there they are read-only.
fn submounts(settings: &Settings, survey: &Survey, notes: &mut Vec<String>) -> Vec<MountPlan> {
    let discard = settings.mode.value == Mode::Discard;
    let own = ["proc", "sys", "dev"].map(|name| Inside::from_components([name.as_bytes()]));
    let kept: Vec<&Submount> =
        survey.submounts.iter().filter(|s| !own.iter().any(|path| s.at.is_below(path))).collect();
    if !kept.is_empty() {
        let names: Vec<String> = kept.iter().map(|s| s.at.to_string()).collect();
        let how = if discard { "read-only in the step" } else { "seen and written by the step directly" };
        notes.push(format!("Mounted below the image, {how}, and no part of the transaction: {}.", names.join(", ")));
    }
    let plan = |s: &Submount| MountPlan {
        at: s.at.clone(),
        mount: Mount::Submount { kind: s.kind.clone(), read_only: discard },
    };
    kept.into_iter().map(plan).collect()
}
