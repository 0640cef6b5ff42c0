//! The plan: pure data, all that will be done. What is printed by `dropcloth plan` is what is executed.

pub mod caches;
pub mod describe;
pub mod door;
pub mod environment;
pub mod layers;
pub mod mounts;
pub mod refuse;
pub mod traces;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Result;
use crate::host::ids::Maps;
use crate::host::{Host, Source};
use crate::image::account::Account;
use crate::image::pythons::Pythons;
use crate::image::survey::Survey;
use crate::mirror::layout::{Arrangement, Layout};
use crate::pypi::{self, Indexes, overrides};
use crate::settings::{Backend, Dev, Fsync, Mode, Network, OnFailure, Settings};

pub use door::{Door, Watch};
pub use layers::{Content, Entry, Scaffold};
pub use mounts::{Mount, MountPlan};

/// Port of the mirror's http view where the step has a network of its own: devpi's, which people know.
const VIEW_PORT: u16 = 3141;

/// Where the transaction's directory is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// In `.dropcloth` beside the image, on its file system: commit is renames.
    Beside(PathBuf),
    /// In a directory elsewhere: commit copies.
    Elsewhere(PathBuf),
    /// In memory, nothing on any disk: only for what is discarded.
    Memory,
}

/// Python packaging in this run.
#[derive(Debug, Clone, Serialize)]
pub struct Python {
    /// The indexes in order.
    pub indexes: Indexes,
    /// The mirror directory that is bound, if there is one.
    pub mirror: Option<PathBuf>,
    /// The mirror lacks pages, which are made for the run.
    pub completed: bool,
    /// A view of the mirror by http on the loopback interface, for tools that read no `file://`: the port; 0: a free one.
    pub view: Option<u16>,
}

/// Everything that will be done.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The image's absolute path.
    pub image: PathBuf,
    /// Commit, discard or through.
    pub mode: Mode,
    /// After a failed step.
    pub on_failure: OnFailure,
    /// Overlay or copy, never auto; none: the step works in the image itself.
    pub backend: Option<Backend>,
    /// Why that one, when it was not the user's choice.
    pub backend_reason: Option<String>,
    /// It runs in a user namespace: the overlay keeps its attributes in user.* and renames no directory of the image.
    pub user_namespace: bool,
    /// Id maps of a user namespace inside this one, for an image whose root is a subordinate id.
    pub inner_maps: Option<Maps>,
    /// Where the transaction stands.
    pub storage: Storage,
    /// The layer of overrides and mount points.
    pub scaffold: Scaffold,
    /// Mounts in the order they are made.
    pub mounts: Vec<MountPlan>,
    /// Keep nosuid of the image's mount.
    pub nosuid: bool,
    /// Keep noexec of the image's mount.
    pub noexec: bool,
    /// The network.
    pub network: Network,
    /// What watches it; none: nothing does, and there is no proxy.
    pub watch: Option<Watch>,
    /// Host name of the step; none: the host's.
    pub hostname: Option<String>,
    /// Capabilities of the step, `CAP_` names.
    pub capabilities: Vec<String>,
    /// The environment of the step.
    pub environment: Vec<(String, OsStringText)>,
    /// chown(2) succeeds and does nothing.
    pub suppress_chown: bool,
    /// fsync(2) and its kin succeed and do nothing; the image is synced at the end.
    pub suppress_sync: bool,
    /// Who the step runs as.
    pub account: Account,
    /// Working directory inside the image.
    pub workdir: PathBuf,
    /// Program and arguments.
    pub command: Vec<OsStringText>,
    /// Python packaging; none: nothing is laid over for it.
    pub python: Option<Python>,
    /// Give the step a pseudo-terminal.
    pub terminal: bool,
    /// Seconds between a first INT or TERM and SIGKILL.
    pub grace: u32,
    /// What the user should know, a sentence each.
    pub notes: Vec<String>,
}

/// An OS string that is printed with its odd bytes escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsStringText(pub OsString);

impl Serialize for OsStringText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl OsStringText {
    /// As text for people and JSON.
    pub fn text(&self) -> String {
        crate::image::path::escape(std::os::unix::ffi::OsStrExt::as_bytes(&*self.0))
    }
}

/// The paths inside the image that [`build`] has to know about.
pub fn wanted(settings: &Settings, account: &Account, pythons: &Pythons) -> Vec<PathBuf> {
    let fixed = [
        "/proc",
        "/sys",
        "/dev",
        "/tmp",
        "/etc/resolv.conf",
        "/usr/sbin/policy-rc.d",
        pypi::MIRROR_MOUNT,
        mounts::SECRETS,
    ];
    let mut paths: Vec<PathBuf> = fixed.iter().map(PathBuf::from).collect();
    paths.extend(overrides::paths(&homes(account), others(pythons)));
    paths.extend(settings.lay.value.iter().map(|l| l.path.clone()));
    paths.extend(settings.bind.value.iter().map(|b| b.target.clone()));
    paths.extend(settings.tmpfs.value.iter().cloned());
    paths.extend(caches::wanted(settings, account));
    paths
}

/// Directories in which the step's Python may have a configuration of its own: its command's, those of its PATH, and where it
/// works.
pub fn hints(settings: &Settings, command: &[OsString]) -> Vec<PathBuf> {
    let program = command.first().map(PathBuf::from).filter(|p| p.has_root());
    let variable =
        |name: &str| settings.env.value.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref());
    let path = variable("PATH").unwrap_or_default().split(':').map(|directory| Path::new(directory).join("python"));
    let mut hints: Vec<PathBuf> =
        program.into_iter().chain(path).filter_map(|p| Some(p.parent()?.parent()?.to_owned())).collect();
    hints.extend(variable("VIRTUAL_ENV").map(PathBuf::from));
    let workdir = &settings.workdir.value;
    hints.extend(["", ".venv", "venv"].map(|name| workdir.join(name)));
    // The system's own prefixes are known, and the search goes there by itself.
    hints.retain(|hint| hint.has_root() && !["/", "/usr", "/usr/local"].contains(&hint.to_str().unwrap_or_default()));
    hints
}

fn others(pythons: &Pythons) -> overrides::Others<'_> {
    overrides::Others { prefixes: &pythons.prefixes, distutils: &pythons.distutils, homes: &pythons.homes }
}

fn homes(account: &Account) -> Vec<PathBuf> {
    let root = PathBuf::from("/root");
    if account.home == root || account.home == Path::new("/") { vec![root] } else { vec![root, account.home.clone()] }
}

/// Makes the plan, or refuses with everything that stands against it at once.
pub fn build(settings: &Settings, host: &Host, survey: &Survey, command: &[OsString]) -> Result<Plan> {
    let mut faults = refuse::Refusals::default();
    let mut notes = settings.notes.clone();
    let mut python = python(settings, host, &mut faults, &mut notes);
    let network = network(settings, python.as_ref());
    if let Some(python) = &mut python {
        python.view = view(python, network);
    }
    let watch = door::watch(settings, network, python.as_ref(), &mut faults, &mut notes);
    let storage = storage(settings, host, survey);
    let through = settings.mode.value == Mode::Through;
    let (backend, backend_reason) = backend(settings, host, survey, &storage);
    let backend = Some(backend).filter(|_| !through);
    let backend_reason = backend_reason.filter(|_| !through);
    refuse::check(settings, host, survey, &storage, &mut faults);
    match backend {
        Some(backend) => refuse::check_backend(settings, host, survey, &storage, backend, &mut faults),
        None => refuse::through(settings, &mut faults),
    }
    notes.extend(single(settings, host));
    notes.extend(backend_reason.clone().filter(|_| backend == Some(Backend::Copy)));
    notes.extend(without_effect(settings, through));
    let mut scaffold = Scaffold::new(survey);
    let ways = layers::Ways { network, watched: watch.is_some() };
    layers::lay(&mut scaffold, settings, host, survey, python.as_ref(), ways, &mut faults, &mut notes);
    let mounts = mounts::plan(&mut scaffold, settings, host, survey, python.as_ref(), &mut faults, &mut notes);
    faults.into_result(&survey.path)?;
    Ok(Plan {
        image: survey.path.clone(),
        mode: settings.mode.value,
        on_failure: settings.on_failure.value,
        user_namespace: host.user_namespace,
        inner_maps: inner_maps(host, survey),
        backend,
        backend_reason,
        storage,
        scaffold,
        mounts,
        nosuid: survey.nosuid,
        noexec: survey.noexec,
        network,
        hostname: settings.hostname.value.clone(),
        capabilities: environment::capabilities(settings)?,
        environment: environment::build(settings, host, survey, python.as_ref(), network, watch.as_ref())?,
        watch,
        suppress_chown: settings.suppress_chown.value,
        suppress_sync: through && settings.fsync.value == Fsync::Off,
        account: survey.account.clone(),
        workdir: settings.workdir.value.clone(),
        command: environment::command(command, host),
        python,
        terminal: host.terminal,
        grace: settings.grace.value,
        notes,
    })
}

fn python(settings: &Settings, host: &Host, faults: &mut refuse::Refusals, notes: &mut Vec<String>) -> Option<Python> {
    let directory = &settings.mirror.value;
    let present = host.source(directory) == Source::Directory;
    let local = settings.indexes.value.is_empty() || settings.indexes.value.iter().any(|u| pypi::is_local(u));
    if local && !present {
        if settings.mirror_asked_for() {
            faults.add(
                format!("the mirror directory {} does not exist", directory.display()),
                format!(
                    "Make a PEP 503 tree in {} (README.md, \"A mirror in two minutes\"), name another with --mirror DIR, or use a mirror on the network with --index URL.",
                    directory.display()
                ),
            );
        } else {
            notes.push(format!(
                "No mirror: {} does not exist and none was asked for, so no Python configuration is laid over.",
                directory.display()
            ));
        }
        return None;
    }
    let layout = host.mirror.as_ref().filter(|_| present);
    let tree = layout.map(|layout| match &layout.arrangement {
        Arrangement::Nested(below) => below.as_path(),
        _ => Path::new(""),
    });
    if let Some(Layout { arrangement: Arrangement::Empty, .. }) = layout {
        notes.push(format!("The mirror {} holds no wheel and no sdist.", directory.display()));
    }
    let completed = layout.is_some_and(Layout::lacks_pages) && settings.record.value.is_none();
    Some(Python {
        indexes: Indexes::from(settings, tree),
        // What a step reads from the directory itself nobody could record.
        mirror: present.then(|| directory.clone()).filter(|_| settings.record.value.is_none()),
        completed,
        view: None,
    })
}

/// Tools that read no `file://` get the local mirror by http. In a network of its own the port is always the same.
fn view(python: &Python, network: Network) -> Option<u16> {
    let local = python.mirror.is_some() && python.indexes.iter().any(|index| pypi::is_local(&index.url));
    local.then_some(if network == Network::Host { 0 } else { VIEW_PORT })
}

fn network(settings: &Settings, python: Option<&Python>) -> Network {
    let needs_network = python.is_some_and(|p| p.indexes.needs_network());
    match settings.network.value {
        Some(network) => network,
        None if settings.offline.value && !needs_network => Network::None,
        None => Network::Host,
    }
}

fn storage(settings: &Settings, host: &Host, survey: &Survey) -> Storage {
    let beside = survey.path.parent().map(|parent| parent.join(".dropcloth"));
    match (&host.scratch, beside) {
        (Some(scratch), _) => Storage::Elsewhere(scratch.clone()),
        (None, _) if survey.host_root => Storage::Memory,
        (None, Some(beside)) if survey.parent_on_same_device && !survey.mount_point => Storage::Beside(beside),
        (None, _) if survey.read_only && settings.mode.value == Mode::Discard => Storage::Memory,
        (None, _) => Storage::Elsewhere(host.state.clone()),
    }
}

/// What a namespace of one id means for the step.
fn single(settings: &Settings, host: &Host) -> Option<String> {
    let maps = host.caller.maps.as_ref().filter(|maps| maps.is_single())?;
    let why = host.caller.single_because.as_deref().unwrap_or("--map single was asked for");
    let will = if settings.suppress_chown.value {
        "chown does nothing (--suppress-chown), so every file is yours"
    } else {
        "chown to any other fails (--suppress-chown lets it pass)"
    };
    let own = maps.users.first().map_or(0, |e| e.outside);
    Some(format!(
        "One id only, your {own} as root, since {why}: {will}, and programs that change to another user fail (apt needs -o APT::Sandbox::User=root)."
    ))
}

/// What settings do not do in this mode.
fn without_effect(settings: &Settings, through: bool) -> Option<String> {
    let note = match through {
        true if settings.source_date_epoch.value.is_some() => {
            "With --mode through the step sees SOURCE_DATE_EPOCH, and the times of what it writes are as it leaves them."
        }
        false if settings.fsync.value == Fsync::Off => {
            "--fsync off is for --mode through; what a step writes elsewhere is synced when it is committed."
        }
        _ => return None,
    };
    Some(note.to_owned())
}

/// An image made in another namespace belongs to whoever was root there: `mmdebstrap --mode=unshare` makes it of the first
/// subordinate id.
fn inner_maps(host: &Host, survey: &Survey) -> Option<Maps> {
    let maps = host.caller.maps.as_ref().filter(|maps| !maps.is_single())?;
    (survey.owner.0 != 0 && !survey.foreign_owner).then(|| maps.with_root(survey.owner.0, survey.owner.1))
}

/// The backend, and for `auto` why it is that one.
fn backend(settings: &Settings, host: &Host, survey: &Survey, storage: &Storage) -> (Backend, Option<String>) {
    if settings.backend.value != Backend::Auto {
        return (settings.backend.value, None);
    }
    match (overlay_obstacle(host, survey, storage), storage) {
        (Some(kind), Storage::Beside(_)) => (
            Backend::Copy,
            Some(format!(
                "The step works on a copy of the image, since an overlay cannot write to {kind} (--backend auto)."
            )),
        ),
        (None, Storage::Beside(_)) if host.user_namespace && settings.exact.value => {
            let why = "The step works on a copy of the image: in a user namespace an overlay breaks hard links and renames no directory (--exact).";
            (Backend::Copy, Some(why.to_owned()))
        }
        _ if host.user_namespace => {
            let why = "It costs no copy, and is exact where the step changes no hard link of the image and renames no directory of it";
            (Backend::Overlay, Some(format!("{why}; --exact takes a copy.")))
        }
        _ => (Backend::Overlay, Some("It is exact as root, and costs no copy.".to_owned())),
    }
}

/// The file system of the transaction, when it cannot carry the upper directory of an overlay.
fn overlay_obstacle<'a>(host: &'a Host, survey: &'a Survey, storage: &Storage) -> Option<&'a str> {
    let kind = match storage {
        Storage::Beside(_) => Some(survey.filesystem.as_str()),
        Storage::Elsewhere(_) => host.scratch_filesystem.as_deref(),
        Storage::Memory => None,
    };
    // overlayfs.rst, "Upper and lower": no d_type, no trusted attributes, or remote revalidation.
    kind.filter(|kind| {
        ["overlay", "nfs", "nfs4", "fuse", "vfat", "exfat", "cifs", "9p", "virtiofs", "ecryptfs"].contains(kind)
    })
}

/// Whether the host's own /dev is bound.
pub fn host_dev(settings: &Settings) -> bool {
    settings.dev.value == Dev::Host
}
