//! The files of a record (`dropcloth run --record`), from a mirror of this machine or from where they came, several at a time.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use super::Build;
use crate::error::{Doing, Fault, Result, refuse};
use crate::mirror::relay::record::{Kind, Served};
use crate::mirror::source::{self, Source};
use crate::mirror::{artifact, parallel};
use crate::pypi::simple_page::{self, FileLink};
use crate::pypi::{MIRROR_URL, distribution, is_local};

/// Downloads at a time: more do not make a server faster.
const AT_A_TIME: usize = 8;

/// Where files may come from, besides where the record says.
pub struct Places<'a> {
    /// A mirror of this machine.
    pub mirror: Option<&'a Path>,
    /// Indexes with their credentials, which a record does not have.
    pub indexes: &'a [String],
}

impl Build {
    /// Brings all files of a record that the mirror does not have. `progress` gets how many of how many are there.
    ///
    /// # Errors
    /// A file that is nowhere, or that has another hash than the record says; names that are none of files.
    pub fn fetch(&self, record: &[Served], from: &Places<'_>, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<()> {
        let files = files(record)?;
        let all: Vec<&Served> = files.into_values().collect();
        let done = AtomicUsize::new(0);
        let fetched = parallel::map_by(AT_A_TIME, &all, |served| {
            let fetched = self.one(served, from);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all.len());
            fetched
        });
        fetched.into_iter().collect::<Result<Vec<()>>>()?;
        self.mark(&all)
    }

    /// A file goes to the cache first, by its hash, so that an interrupted build goes on from there.
    fn one(&self, served: &Served, from: &Places<'_>) -> Result<()> {
        let name = served.file.as_deref().unwrap_or_default();
        let to = self.files().join(name);
        let has = |path: &Path| artifact::sha256(path).is_ok_and(|(sha256, _)| sha256 == served.sha256);
        let candidates = [Some(self.into.as_path()), from.mirror].into_iter().flatten();
        let here = candidates.flat_map(|mirror| places(mirror, served)).find(|path| path.is_file() && has(path));
        if let Some(path) = here {
            std::fs::copy(&path, &to).doing(|| format!("cannot copy {}", path.display()))?;
            return Ok(());
        }
        let cached = self.into.join(super::WORK).join("cache").join(&served.sha256);
        if !has(&cached) {
            if is_local(&served.url) {
                return refuse(
                    Fault::new(format!("{name} came from a local mirror, and is not there"))
                        .because(format!("no file of that name has sha256 {}", served.sha256))
                        .hint("Name the mirror that the step had with --mirror DIR."),
                );
            }
            download(served, from, &cached).doing(|| format!("cannot download {name}"))?;
        }
        std::fs::rename(&cached, &to).doing(|| format!("cannot move {name}"))
    }

    /// What only pages know: the index takes it from them.
    fn mark(&self, all: &[&Served]) -> Result<()> {
        let mut projects: BTreeMap<&str, Vec<FileLink>> = BTreeMap::new();
        for served in all.iter().filter(|served| served.yanked.is_some() || served.upload_time.is_some()) {
            let link = FileLink {
                filename: served.file.clone().unwrap_or_default(),
                yanked: served.yanked.clone(),
                upload_time: served.upload_time.clone(),
                ..FileLink::default()
            };
            projects.entry(&served.project).or_default().push(link);
        }
        for (project, links) in projects {
            let folder = self.into.join(project);
            if folder.join("index.html").exists() {
                continue;
            }
            std::fs::create_dir_all(&folder).doing(|| format!("cannot make {}", folder.display()))?;
            let href = |link: &FileLink| link.filename.clone();
            std::fs::write(folder.join("index.json"), simple_page::project_json(project, &links, &href))?;
            std::fs::write(folder.join("index.html"), simple_page::project_page(project, &links, &href))?;
        }
        Ok(())
    }
}

/// The wheels and sdists of a record by name, each once.
fn files(record: &[Served]) -> Result<BTreeMap<&str, &Served>> {
    let mut files: BTreeMap<&str, &Served> = BTreeMap::new();
    for served in record.iter().filter(|served| served.kind == Kind::File) {
        let name = served.file.as_deref().unwrap_or_default();
        let parsed = distribution::parse(name, Some(&served.project));
        let plain = !name.contains('/') && served.sha256.len() == 64;
        if !plain
            || !served.sha256.bytes().all(|b| b.is_ascii_hexdigit())
            || parsed.is_none_or(|p| p.name != served.project)
        {
            return refuse(
                Fault::new(format!("the record has {name:?}, which is no file of {:?}", served.project))
                    .hint("Name a file that `dropcloth run --record FILE` has written."),
            );
        }
        if let Some(other) = files.insert(name, served).filter(|other| other.sha256 != served.sha256) {
            return refuse(
                Fault::new(format!("the record has two files {name} with different contents"))
                    .because(format!("{}: sha256 {}", other.index, other.sha256))
                    .because(format!("{}: sha256 {}", served.index, served.sha256))
                    .hint("A mirror has one file of a name: record with one index, such as --no-official."),
            );
        }
    }
    Ok(files)
}

/// Where a mirror may have the file: in a folder of its project, beside all others, or where the step saw it.
fn places(mirror: &Path, served: &Served) -> Vec<PathBuf> {
    let name = served.file.as_deref().unwrap_or_default();
    let mut places = vec![mirror.join(&served.project).join(name), mirror.join(name)];
    places.push(mirror.join("simple").join(&served.project).join(name));
    let as_seen = Source::open(MIRROR_URL, Some((mirror, &BTreeMap::new())));
    places.extend(as_seen.and_then(|source| source.local(&served.url)));
    places
}

fn download(served: &Served, from: &Places<'_>, to: &Path) -> Result<()> {
    let index = from.indexes.iter().find(|index| source::same_host(index, &served.url));
    let url = index.map_or_else(|| served.url.clone(), |index| source::with_credentials(&served.url, index));
    let Some(source) = Source::open(index.unwrap_or(&served.index), None) else {
        return refuse(Fault::new(format!("{} is neither http nor https", served.index)));
    };
    let (mut stream, _) = source.stream(&url)?;
    let part = to.with_extension("part");
    let mut file = std::fs::File::create(&part)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length => {
                hasher.update(&buffer[..length]);
                file.write_all(&buffer[..length])?;
            }
        }
    }
    let found = artifact::hex(&hasher.finalize());
    if found != served.sha256 {
        std::fs::remove_file(&part)?;
        return refuse(
            Fault::new(format!("{} is not what the step got", served.url))
                .because(format!("sha256 {found}, and the record says {}", served.sha256))
                .hint("Somebody has replaced the file there: take it from a mirror that has the old one, with --mirror DIR."),
        );
    }
    Ok(std::fs::rename(&part, to)?)
}
