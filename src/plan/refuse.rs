//! What cannot be done, found before anything is changed, and told all at once.

use std::path::Path;

use crate::error::{Fault, Result, refuse};
use crate::host::ids;
use crate::host::{Host, Source};
use crate::image::survey::Survey;
use crate::plan::Storage;
use crate::settings::{Backend, Leaks, Mode, OnFailure, Settings};

/// Everything found so far that stands against the plan.
#[derive(Debug, Default)]
pub struct Refusals(Vec<(String, String)>);

impl Refusals {
    /// One more: what is wrong, and a full sentence with what to do.
    pub fn add(&mut self, what: impl Into<String>, hint: impl Into<String>) {
        self.0.push((what.into(), hint.into()));
    }

    /// An error with all of them, if there are any.
    pub fn into_result(self, image: &Path) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let fault = Fault::new(format!("cannot run a step in {}", image.display()));
        let fault = self.0.into_iter().fold(fault, |fault, (what, hint)| {
            let fault = fault.because(what);
            if hint.is_empty() || fault.hints.contains(&hint) { fault } else { fault.hint(hint) }
        });
        refuse(fault)
    }
}

/// The checks that concern the run as a whole.
pub fn check(settings: &Settings, host: &Host, survey: &Survey, storage: &Storage, faults: &mut Refusals) {
    let writes = settings.mode.value != Mode::Discard;
    if !host.may_mount {
        faults.add(
            "mounting needs the capability CAP_SYS_ADMIN, which this process does not have",
            "Run it as root: `sudo dropcloth …`.",
        );
    }
    if survey.host_root && writes {
        faults.add(
            "the image is this machine's own root directory, which dropcloth never writes to",
            "Use --mode discard to try something on this machine without a trace, or name an image directory.",
        );
    }
    user_namespace(settings, host, survey, faults);
    if survey.foreign_owner && writes {
        faults.add(
            "the image belongs to an id that has no place in your user namespace",
            format!("Make it yours (`sudo chown -R \"$USER\" {}` loses its owners), unpack it again with `dropcloth unpack`, or run dropcloth with sudo.", survey.path.display()),
        );
    }
    if survey.read_only && writes && !survey.host_root {
        faults.add(
            "the image is mounted read-only, so nothing could be written to it",
            "Remount it with `mount -o remount,rw`, or use --mode discard.",
        );
    }
    if survey.path.components().any(|c| c.as_os_str() == ".dropcloth") {
        faults.add(
            "the image lies inside a transaction directory of dropcloth (.dropcloth)",
            "Name the image itself; `dropcloth list` shows the transactions and the image of each.",
        );
    }
    if let Storage::Elsewhere(directory) = storage {
        let inside = directory.starts_with(&survey.path) && !survey.host_root;
        if inside {
            faults.add(
                format!("the scratch directory {} lies inside the image", directory.display()),
                "Name a directory outside the image with --scratch.",
            );
        }
    }
    directories(survey, faults);
    sources(settings, host, faults);
}

/// What cannot be done without root.
fn user_namespace(settings: &Settings, host: &Host, survey: &Survey, faults: &mut Refusals) {
    let Some(maps) = &host.caller.maps else { return };
    let account = &survey.account;
    if ids::outside(&maps.users, account.uid).is_none() || ids::outside(&maps.groups, account.gid).is_none() {
        faults.add(
            format!("user {}:{} of the image has no place in your user namespace", account.uid, account.gid),
            "Run the step as root of the image, or get more subordinate ids: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER` as root.",
        );
    }
    for path in &survey.foreign {
        faults.add(
            format!("{}{} belongs to {}:{}, who has no place in your user namespace", survey.path.display(), path.path, path.uid, path.gid),
            "Give it to an id of yours as root (`chown`), unpack the image again with `dropcloth unpack`, or run dropcloth with sudo.",
        );
    }
    if survey.noexec {
        faults.add(
            "the image is on a file system mounted noexec, which an ordinary user cannot change",
            "Move the image to another file system (`findmnt -T DIR` shows the options), or run dropcloth with sudo.",
        );
    }
    if settings.backend.value != Backend::Copy && !survey.submounts.is_empty() {
        let places: Vec<String> = survey.submounts.iter().take(5).map(|m| m.at.to_string()).collect();
        let rest = survey.submounts.len() - places.len();
        let more = if rest > 0 { format!(" and {rest} more places") } else { String::new() };
        faults.add(
            format!("something is mounted at {}{more} of the image, and the kernel lets an ordinary user lay no overlay over that", places.join(", ")),
            "Name an image without mounts below it, or run dropcloth with sudo.",
        );
    }
}

/// What is asked for and makes no sense where the step writes straight to the image.
pub fn through(settings: &Settings, faults: &mut Refusals) {
    if settings.backend.value != Backend::Auto {
        faults.add(
            "with --mode through the step works in the image itself, so there is nothing for a --backend to do",
            "Leave --backend out, or use --mode commit.",
        );
    }
    if settings.on_failure.value == OnFailure::Keep {
        faults.add(
            "with --mode through there is nothing to keep after a failure: what the step wrote is in the image",
            "Leave --on-failure keep out, or use --mode commit.",
        );
    }
    if settings.leaks.value == Leaks::Fail {
        faults.add(
            "with --mode through no commit can be refused, so --leaks fail has no effect",
            "Leave --leaks out, or use --mode commit, which looks for traces of the run before anything is in the image.",
        );
    }
}

/// What stands against the chosen backend.
pub fn check_backend(
    settings: &Settings,
    host: &Host,
    survey: &Survey,
    storage: &Storage,
    backend: Backend,
    faults: &mut Refusals,
) {
    let beside = matches!(storage, Storage::Beside(_));
    if backend == Backend::Copy && !beside {
        faults.add(
            "the copy backend needs the transaction beside the image, on the same file system",
            "Leave --scratch out, and name an image that is neither a mount point nor this machine's root.",
        );
    }
    if backend == Backend::Copy && settings.mode.value == Mode::Commit {
        for submount in &survey.submounts {
            faults.add(
                format!(
                    "a {} file system is mounted at {} of the image, and would stay behind in the exchange",
                    submount.kind, submount.at
                ),
                format!(
                    "Unmount it first, or use --backend overlay: `umount {}{}`.",
                    survey.path.display(),
                    submount.at
                ),
            );
        }
    }
    if let Some(kind) = super::overlay_obstacle(host, survey, storage).filter(|_| backend == Backend::Overlay) {
        let hint = match beside {
            true => "Use --backend copy, or keep the transaction on ext4, xfs, btrfs or tmpfs with --scratch DIR.",
            false => "Name a directory on ext4, xfs, btrfs or tmpfs with --scratch DIR.",
        };
        faults.add(format!("an overlay cannot write to the {kind} file system of the transaction"), hint);
    }
}

/// A /proc, /sys or /dev that is a link or a file is how images have led runners to write to the host (CVE-2019-16884,
/// CVE-2026-41579): such an image is refused.
fn directories(survey: &Survey, faults: &mut Refusals) {
    for name in ["/proc", "/sys", "/dev"] {
        let Some(place) = survey.place(Path::new(name)) else { continue };
        let elsewhere = place.path.to_string() != name;
        let no_directory = place.entry.is_some_and(|e| !e.directory) || place.obstacle.is_some();
        if elsewhere || no_directory {
            faults.add(
                format!("{name} of the image is not a directory"),
                format!("Make it one: remove {name} in the image and `mkdir` it. An image whose {name} is a link or a file can lead mounts out of the image."),
            );
        }
    }
}

fn sources(settings: &Settings, host: &Host, faults: &mut Refusals) {
    for lay in &settings.lay.value {
        match host.source(&lay.source) {
            Source::File => {}
            Source::Directory => faults.add(
                format!("{} is a directory, and --lay takes a file", lay.source.display()),
                format!("Use --bind {}:{}:ro for a directory.", lay.source.display(), lay.path.display()),
            ),
            Source::Missing => faults.add(
                format!("the file {} for --lay does not exist or cannot be read", lay.source.display()),
                "Check the part after the = of --lay PATH=FILE: it is a file of this machine.",
            ),
            Source::Other => faults.add(
                format!("{} is not a regular file", lay.source.display()),
                "Give --lay a regular file, or use --bind for a device or socket.",
            ),
        }
    }
    for bind in &settings.bind.value {
        if host.source(&bind.source) == Source::Missing {
            faults.add(
                format!("the bind source {} does not exist or cannot be reached", bind.source.display()),
                "Make it first, or correct the part before the first : of --bind SRC:DST.",
            );
        }
    }
    for secret in &settings.secret.value {
        if matches!(host.source(&secret.source), Source::Missing | Source::Directory) {
            faults.add(
                format!(
                    "the file {} of the secret {} does not exist or cannot be read",
                    secret.source.display(),
                    secret.id
                ),
                "Check the part after the = of --secret ID=FILE: it is a file of this machine.",
            );
        }
    }
    if let crate::settings::Resolver::File(path) = &settings.resolver.value
        && host.resolv_conf.is_none()
    {
        faults.add(
            format!("the resolver file {} cannot be read", path.display()),
            "Name a readable file with --resolver, or use --resolver host.",
        );
    }
}
