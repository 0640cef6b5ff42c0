//! `dropcloth mirror build`: what an image would install, downloaded by its own pip, with all that builds of sources need.

pub mod fetch;
pub mod prune;
pub mod request;
mod requests;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use self::prune::Prune;
use self::request::Request;
use self::requests::Requests;
use super::index::known;
use super::layout::{self, Arrangement};
use super::{artifact, index, parallel, replace};
use crate::error::{Doing, Fault, Result, refuse};
use crate::pypi::LINKS_PAGE;
use crate::pypi::distribution;

/// In the mirror: what is on its way, so that it gets to its place by rename. An interrupted build leaves it, and the next goes
/// on from its cache.
pub const WORK: &str = ".dropcloth-new";
/// The directory in it of files that were downloaded ahead of pip, by SHA-256.
pub const AHEAD: &str = "ahead";
/// The directories in it that pip writes to.
pub const WRITTEN: [&str; 3] = ["cache", "files", "tmp"];
/// Where the step sees these three.
pub const WORK_MOUNT: &str = "/tmp/dropcloth-new";
/// Where the step sees the mirror, and the files of the request in it.
pub const MIRROR_MOUNT: &str = "/tmp/dropcloth-mirror";
/// What every mirror has: pip of a new environment, and what builds old sources.
pub const ALWAYS: [&str; 3] = ["pip", "setuptools", "wheel"];
/// A chain of sources that are built by sources is not longer.
const MOST_SETS: usize = 500;

/// A mirror that is being built.
pub struct Build {
    into: PathBuf,
    request: Request,
    /// The mirror is no index for pip: a view of the others gives its files.
    alone: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Built {
    /// Files that were not there before.
    pub new: usize,
    /// Files that pip chose in all.
    pub chosen: usize,
    /// Files that were removed, `PROJECT/FILE`.
    pub removed: Vec<String>,
    /// The index of them.
    pub index: index::Summary,
}

/// The image's own pip: gets its arguments, and fails with its words.
pub type Pip<'a> = dyn FnMut(&[String]) -> Result<()> + 'a;

/// Makes the directory, so that settings may name it before it has anything.
pub fn make(into: &Path) -> Result<PathBuf> {
    let doing = || format!("cannot make the mirror {}", into.display());
    for name in WRITTEN.iter().chain(&[AHEAD]) {
        std::fs::create_dir_all(into.join(WORK).join(name)).doing(doing)?;
    }
    let path = into.canonicalize().doing(doing)?;
    if path.to_str().is_none_or(|text| text.contains(':')) {
        return refuse(
            Fault::new(doing())
                .because("its path has a colon, or is no UTF-8")
                .hint("Name another directory with --into."),
        );
    }
    Ok(path)
}

impl Build {
    /// Looks whether `into` is for this request. One that has files of other requests is only added to when `add` says so, or
    /// when they are to go.
    pub fn begin(into: PathBuf, request: Request, add: bool, prune: Option<Prune>) -> Result<Build> {
        let build = Build { into, request, alone: false };
        let has = layout::look(&build.into).map_or(Arrangement::Empty, |layout| layout.arrangement);
        let requests = Requests::read(&build.into).requests;
        let replaces = prune == Some(Prune::All) || prune.is_some() && !requests.is_empty();
        if has != Arrangement::Empty && !add && !replaces && !requests.contains_key(&build.key()) {
            return refuse(
                Fault::new(format!("{} has files that were not built for these requirements", build.into.display()))
                    .hint("To add to them: --add. To have these requirements only: --prune, which removes what earlier builds brought, or --prune=all. For a mirror of nothing else name a new directory."),
            );
        }
        if has != Arrangement::Empty {
            // pip looks there before it downloads.
            index::index(&build.into)?;
        }
        let files = build.files();
        for name in names(&files) {
            // pip copies: what an interrupted one left may be half a file. It is still in the cache.
            std::fs::remove_file(files.join(&name)).doing(|| format!("cannot remove {name}"))?;
        }
        for (name, text) in &build.request.files {
            replace::write(&build.into.join(WORK).join(name), text.as_bytes())?;
        }
        Ok(build)
    }

    /// Keeps the mirror itself from pip's indexes.
    pub fn without_itself(mut self) -> Build {
        self.alone = true;
        self
    }

    fn files(&self) -> PathBuf {
        self.into.join(WORK).join("files")
    }

    fn key(&self) -> String {
        let text: String = self.request.files.iter().map(|(name, text)| format!("{name}\n{text}\n")).collect();
        artifact::sha256_of(text.as_bytes())
    }

    /// Downloads until nothing is missing to build what was downloaded. `applies`: whether a requirement counts for the image's
    /// Python.
    pub fn download(&self, applies: &dyn Fn(&str) -> bool, pip: &mut Pip<'_>) -> Result<()> {
        for (file, dependencies) in &self.request.sets {
            let mut what = vec!["-r".to_owned(), format!("{MIRROR_MOUNT}/{WORK}/{file}")];
            what.extend((!dependencies).then(|| "--no-deps".to_owned()));
            pip(&self.arguments(&what))?;
        }
        let mut next = vec![("every mirror".to_owned(), ALWAYS.map(str::to_owned).to_vec())];
        let (mut seen, mut done) = (BTreeSet::new(), BTreeSet::new());
        while let Some((whom, set)) = next.pop() {
            // Each build has an environment of its own, so what two builds need may contradict each other.
            if done.len() < MOST_SETS && done.insert(set.clone()) {
                pip(&self.arguments(&set)).doing(|| format!("cannot download what {whom} needs to be built"))?;
                next.extend(self.builds(&mut seen, applies));
            }
        }
        Ok(())
    }

    fn arguments(&self, what: &[String]) -> Vec<String> {
        let mut all = vec!["download".to_owned(), "--quiet".to_owned(), "--disable-pip-version-check".to_owned()];
        let mut option = |name: &str, value: String| all.extend([name.to_owned(), value]);
        option("--dest", format!("{WORK_MOUNT}/files"));
        // The view has the files on the disk, also for the next build; pip would write each once more, and slowly.
        if !self.alone {
            option("--cache-dir", format!("{WORK_MOUNT}/cache"));
        }
        option("--find-links", format!("file://{WORK_MOUNT}/files"));
        if self.into.join(LINKS_PAGE).is_file() && !self.alone {
            // Of equal candidates pip takes that of the last index, and one of find-links only when no index has it.
            option("--extra-index-url", format!("file://{MIRROR_MOUNT}"));
            option("--find-links", format!("file://{MIRROR_MOUNT}/{LINKS_PAGE}"));
        }
        all.extend(self.alone.then(|| "--no-cache-dir".to_owned()));
        all.extend(what.iter().cloned());
        all
    }

    /// What sources that have not been seen yet need to be built.
    fn builds(&self, seen: &mut BTreeSet<String>, applies: &dyn Fn(&str) -> bool) -> Vec<(String, Vec<String>)> {
        let mut sets = Vec::new();
        for name in names(&self.files()) {
            let source = distribution::parse(&name, None).is_some_and(|d| d.kind == distribution::Kind::Sdist);
            if !source || !seen.insert(name.clone()) {
                continue;
            }
            // What cannot be read here pip has read: it takes more kinds of archive.
            let Ok(inside) = artifact::read(&self.files().join(&name)) else { continue };
            let mut set: Vec<String> = inside.build_requires.into_iter().filter(|text| applies(text)).collect();
            set.sort();
            if !set.is_empty() {
                sets.push((name, set));
            }
        }
        sets
    }

    /// Puts everything in its place, and removes what is not needed any more where that was asked for.
    pub fn finish(self, prune: Option<Prune>) -> Result<Built> {
        let chosen = names(&self.files());
        let place = |name: &String| distribution::parse(name, None).map(|file| format!("{}/{name}", file.name));
        let needed: BTreeSet<String> = chosen.iter().filter_map(place).collect();
        let mut requests = Requests::read(&self.into);
        // What was there before dropcloth is not its own because pip chose it, too.
        let ours = |place: &&String| requests.brought(place) || !self.into.join(place.as_str()).exists();
        let brought = needed.iter().filter(ours).cloned().collect();
        requests.requests.insert(self.key(), brought);
        // First: a build that is interrupted from here on is known again.
        requests.write(&self.into)?;
        let before = self.count();
        self.read_ahead(&chosen)?;
        let owner = std::fs::metadata(&self.into)?;
        for name in &chosen {
            let (from, to) = (self.files().join(name), self.into.join(name));
            // The image's root may be somebody else than whoever keeps the mirror.
            std::os::unix::fs::lchown(&from, Some(owner.uid()), Some(owner.gid()))
                .and_then(|()| std::fs::rename(&from, &to))
                .doing(|| format!("cannot move {} to {}", from.display(), to.display()))?;
        }
        let mut index = index::index(&self.into)?;
        let new = index.files.saturating_sub(before);
        let mut removed = Vec::new();
        if let Some(which) = prune {
            removed = prune::prune(&self.into, &needed, &requests, which)?;
            let key = self.key();
            requests.requests.retain(|request, _| *request == key);
            requests.write(&self.into)?;
            index.files -= removed.len();
        }
        Ok(Built { new, chosen: chosen.len(), removed, index })
    }

    /// Reads the chosen files where they are still apart, and puts what is known of them, and their metadata, in place. Between the
    /// move of the first file and the last page the mirror has files without pages, and reading them takes longest of all.
    fn read_ahead(&self, chosen: &[String]) -> Result<()> {
        let looks = parallel::map(chosen, |name| known::look(&self.files().join(name), None));
        let mut all = known::Known::read(&self.into);
        for (name, look) in chosen.iter().zip(looks) {
            let (facts, _) = look?;
            let Some(project) = distribution::parse(name, None).map(|file| file.name) else { continue };
            let place = format!("{project}/{name}");
            let from = known::metadata_path(&self.files().join(name));
            if self.into.join(&place).exists() {
                // The same again: the index knows it.
                let _ = std::fs::remove_file(from);
                continue;
            }
            if facts.metadata.is_some() {
                let to = known::metadata_path(&self.into.join(&place));
                std::fs::create_dir_all(self.into.join(&project))
                    .and_then(|()| std::fs::rename(&from, &to))
                    .doing(|| format!("cannot move {} to {}", from.display(), to.display()))?;
            }
            all.files.insert(place, facts);
        }
        all.write(&self.into)
    }

    fn count(&self) -> usize {
        known::Known::read(&self.into).files.len()
    }
}

/// Regular files only: the image is not trusted, and a link would lead out of its directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
