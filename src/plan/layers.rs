//! The scaffold: the topmost lower layer, with every override file and every mount point that the image lacks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::refuse::Refusals;
use super::{Python, caches};
use crate::host::Host;
use crate::image::Inside;
use crate::image::inside::Place;
use crate::image::survey::Survey;
use crate::pypi::{self, overrides};
use crate::settings::{Network, Settings, WhenChanged};

/// What an override file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// These bytes.
    Text(String),
    /// A copy of this host file.
    File(PathBuf),
    /// The host's resolver file.
    #[serde(serialize_with = "resolver_size")]
    Resolver(Vec<u8>),
}

fn resolver_size<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{} bytes", bytes.len()))
}

/// One entry of the scaffold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A directory that the image has too: owner, mode, times, attributes and flags are the image's.
    Clone,
    /// A directory that the image lacks: at commit it is made only if something of the step's own is in it.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// An override.
    File {
        /// Its bytes.
        content: Content,
        /// Permission bits.
        mode: u32,
        /// Owner and group.
        owner: (u32, u32),
        /// What a change by the step does.
        when_changed: WhenChanged,
        /// What it is for, in a few words.
        what: String,
    },
    /// An empty file to bind a file on.
    Point,
}

/// The layer, by path inside the image.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Scaffold {
    /// Entries; every parent directory of an entry is one.
    pub entries: BTreeMap<Inside, Entry>,
}

impl Scaffold {
    /// An empty layer: only the root, which has the image's attributes.
    pub fn new(_survey: &Survey) -> Scaffold {
        Scaffold { entries: BTreeMap::from([(Inside::root(), Entry::Clone)]) }
    }

    /// Puts the directories above `place` in.
    fn parents(&mut self, place: &Place) {
        let (mut path, mut depth) = (place.path.parent(), place.path.depth());
        // What stands above an entry is one too.
        while !self.entries.contains_key(&path) {
            depth -= 1;
            let above = path.parent();
            let entry = if depth <= place.existing { Entry::Clone } else { Entry::Directory { mode: 0o755 } };
            self.entries.insert(path, entry);
            path = above;
        }
    }

    /// Puts an override file in.
    pub fn file(&mut self, place: &Place, entry: Entry) {
        self.parents(place);
        self.entries.insert(place.path.clone(), entry);
    }

    /// dropcloth's own directory, where the image has none. It is bound as a whole over a root in which the step works itself:
    /// nobody else writes to it, but for a file of the user's there whose change is kept.
    fn own(&self) -> Option<Inside> {
        let own = Inside::lexical(Path::new(pypi::OWN_DIRECTORY))?;
        let kept = |(path, entry): (&Inside, &Entry)| {
            path.is_below(&own) && matches!(entry, Entry::File { when_changed: WhenChanged::Keep, .. })
        };
        let whole = matches!(self.entries.get(&own), Some(Entry::Directory { .. })) && !self.entries.iter().any(kept);
        whole.then_some(own)
    }

    /// Entries but for those that come with dropcloth's own directory.
    fn laid_one_by_one(&self) -> impl Iterator<Item = (&Inside, &Entry)> {
        let own = self.own();
        self.entries.iter().filter(move |(path, _)| own.as_ref().is_none_or(|own| *path == own || !path.is_below(own)))
    }

    /// What is bound over a root in which the step works itself.
    pub fn bound(&self) -> impl Iterator<Item = &Inside> {
        let own = self.own();
        let bound =
            move |path: &Inside, entry: &Entry| matches!(entry, Entry::File { .. }) || own.as_ref() == Some(path);
        self.laid_one_by_one().filter(move |(path, entry)| bound(path, entry)).map(|(path, _)| path)
    }

    /// What such a root has to have: with a mode a directory, without one a file.
    pub fn points(&self) -> impl Iterator<Item = (Inside, Option<u32>)> {
        self.laid_one_by_one().filter(|(_, entry)| **entry != Entry::Clone).map(|(path, entry)| {
            let mode = if let Entry::Directory { mode } = entry { Some(*mode) } else { None };
            (path.clone(), mode)
        })
    }

    /// Puts a mount point in, unless the image has it.
    pub fn point(&mut self, place: &Place, directory: bool, mode: u32) {
        if place.entry.is_some() {
            return;
        }
        self.parents(place);
        let entry = if directory { Entry::Directory { mode } } else { Entry::Point };
        self.entries.entry(place.path.clone()).or_insert(entry);
    }
}

/// Asks whoever watches the network, who answers at once.
const WATCHED_RESOLVER: &[u8] = b"# Laid over by dropcloth for the length of one step.\nnameserver 127.0.0.1\n";

/// How the step gets to hosts.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    /// The network.
    pub network: Network,
    /// Something in it answers names.
    pub watched: bool,
}

/// Lays every override over.
#[expect(clippy::too_many_arguments, reason = "the inputs of the whole plan; a struct would only rename them")]
pub fn lay(
    scaffold: &mut Scaffold,
    settings: &Settings,
    host: &Host,
    survey: &Survey,
    python: Option<&Python>,
    ways: Ways,
    faults: &mut Refusals,
    notes: &mut Vec<String>,
) {
    if let Some(python) = python {
        lay_configuration(scaffold, survey, python, notes);
    }
    let resolver = match ways.network {
        Network::Host => host.resolv_conf.as_deref(),
        // Also where the image's own is asked for: its servers are out of reach, and some programs wait for them.
        Network::None | Network::Mirrors => ways.watched.then_some(WATCHED_RESOLVER),
    };
    if let Some(bytes) = resolver {
        let entry = Entry::File {
            content: Content::Resolver(bytes.to_vec()),
            mode: 0o644,
            owner: (0, 0),
            when_changed: WhenChanged::KeepSymlink,
            what: "resolver".to_owned(),
        };
        put(scaffold, survey, Path::new("/etc/resolv.conf"), entry, &mut |why| notes.push(why));
    }
    if survey.starts_services {
        let mut entry = text("#!/bin/sh\nexit 101\n".to_owned(), "no services are started");
        if let Entry::File { mode, .. } = &mut entry {
            *mode = 0o755;
        }
        put(scaffold, survey, Path::new("/usr/sbin/policy-rc.d"), entry, &mut |why| notes.push(why));
    }
    for (path, entry, only_where_present) in caches::overrides(settings) {
        let there = survey.place(path).is_some_and(|place| place.entry.is_some());
        // Without apt's folder there is no apt, and none is made.
        let apt = survey.place(path).is_some_and(|place| place.existing + 1 >= place.path.depth());
        if there || apt && !only_where_present {
            put(scaffold, survey, path, entry, &mut |why| notes.push(why));
        }
    }
    lay_files(scaffold, settings, survey, faults);
}

/// The configuration of pip, distutils, uv and pdm.
fn lay_configuration(scaffold: &mut Scaffold, survey: &Survey, python: &Python, notes: &mut Vec<String>) {
    for file in overrides::files(&python.indexes, &super::homes(&survey.account), super::others(&survey.pythons)) {
        if file.only_where_present && survey.place(&file.path).is_none_or(|place| place.entry.is_none()) {
            continue;
        }
        let mut entry = text(file.text, file.what);
        own(&mut entry, survey, &file.path);
        put(scaffold, survey, &file.path, entry, &mut |why| notes.push(why));
    }
}

/// The files of `--lay`.
fn lay_files(scaffold: &mut Scaffold, settings: &Settings, survey: &Survey, faults: &mut Refusals) {
    for lay in &settings.lay.value {
        let place = survey.place(&lay.path);
        let (mode, owner) =
            place.and_then(|p| p.entry).map_or((0o644, (0, 0)), |found| (found.mode, (found.uid, found.gid)));
        let content = Content::File(lay.source.clone());
        let entry = Entry::File { content, mode, owner, when_changed: lay.when_changed, what: "--lay".to_owned() };
        put(scaffold, survey, &lay.path, entry, &mut |why| {
            faults.add(why, "Choose another path for --lay, or mend the image.");
        });
    }
}

fn text(text: String, what: &str) -> Entry {
    Entry::File {
        content: Content::Text(text),
        mode: 0o644,
        owner: (0, 0),
        when_changed: WhenChanged::Drop,
        what: what.to_owned(),
    }
}

/// A file in the home of the step's user belongs to that user: pip refuses to trust some that do not.
fn own(entry: &mut Entry, survey: &Survey, path: &Path) {
    let account = &survey.account;
    if let Entry::File { owner, .. } = entry
        && account.home != Path::new("/")
        && path.starts_with(&account.home)
    {
        *owner = (account.uid, account.gid);
    }
}

fn put(scaffold: &mut Scaffold, survey: &Survey, path: &Path, entry: Entry, failed: &mut dyn FnMut(String)) {
    let Some(place) = survey.place(path) else { return };
    if let Some(why) = &place.obstacle {
        return failed(format!("{} cannot be laid over: {why}.", path.display()));
    }
    if place.entry.is_some_and(|e| !e.file) {
        return failed(format!(
            "{} cannot be laid over: the image has something there that is not a file.",
            path.display()
        ));
    }
    if let Some(submount) = survey.submount_over(&place.path) {
        return failed(format!(
            "{} cannot be laid over: a {} file system is mounted at {} of the image.",
            path.display(),
            submount.kind,
            submount.at
        ));
    }
    scaffold.file(place, entry);
}
