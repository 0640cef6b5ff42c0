//! Where Python environments, users' homes and distutils directories of the image keep configuration of their own.
//!
//! Not the whole image is walked for them: the start of a step must not depend on the size of its image.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::FileType;

use super::account::homes;
use super::inside::Resolver;
use super::{Image, Inside};
use crate::error::Result;
use crate::sys::fs;
use crate::sys::volume;

/// What was found; all paths are absolute inside the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pythons {
    /// Directories that are `sys.prefix` of a Python with a site file of its own: virtual environments, conda's, pyenv's.
    pub prefixes: Vec<PathBuf>,
    /// Directories in which distutils looks for its `distutils.cfg`.
    pub distutils: Vec<PathBuf>,
    /// Homes of the users in passwd(5), each once.
    pub homes: Vec<PathBuf>,
}

/// No more directories than these are looked into for prefixes.
const LOOKED_INTO: usize = 128;

/// The system's own directories below the root: what is in them is no environment, but for the places in [`STARTS`].
const SYSTEM: [&[u8]; 18] = [
    b"bin",
    b"boot",
    b"dev",
    b"etc",
    b"lib",
    b"lib32",
    b"lib64",
    b"libx32",
    b"lost+found",
    b"media",
    b"mnt",
    b"proc",
    b"run",
    b"sbin",
    b"sys",
    b"tmp",
    b"usr",
    b"var",
];
const STARTS: [&str; 4] = ["/usr/local", "/var/lib", "/var/www", "/usr/share/python"];
/// Hidden directories in which tools keep environments: pipx, virtualenvwrapper, pyenv, and by hand.
const HIDDEN: [&[u8]; 6] = [b".local", b".virtualenvs", b".pyenv", b".venv", b".venvs", b".conda"];
const NEVER: [&[u8]; 4] = [b"node_modules", b"__pycache__", b"site-packages", b"dist-packages"];
/// What package managers and services keep in [`LIBRARY`] for themselves, in every image.
const LIBRARY: &str = "/var/lib";
const KEPT: [&[u8]; 10] = [b"apk", b"apt", b"dnf", b"dpkg", b"pacman", b"pam", b"python", b"rpm", b"systemd", b"ucf"];

/// Looks for them. `hints` are directories that the step names: they are looked at first.
pub fn find(image: &Image, resolver: &mut Resolver<'_>, passwd: &str, hints: &[PathBuf]) -> Result<Pythons> {
    Ok(Pythons {
        prefixes: prefixes(image, hints, LOOKED_INTO)?,
        distutils: distutils(image, resolver)?,
        homes: homes(resolver, passwd)?,
    })
}

/// Every prefix of the image, however deep: for commands that may take their time.
pub fn all_prefixes(image: &Image) -> Result<Vec<PathBuf>> {
    prefixes(image, &[PathBuf::from("/usr"), PathBuf::from("/var")], usize::MAX)
}

fn prefixes(image: &Image, hints: &[PathBuf], limit: usize) -> Result<Vec<PathBuf>> {
    let mut next: VecDeque<Inside> = hints.iter().filter_map(|hint| Inside::lexical(hint)).collect();
    next.extend(STARTS.iter().filter_map(|path| Inside::lexical(path.as_ref())));
    next.push_back(Inside::root());
    // File systems whose directories are sure to have a link for each directory in them.
    let counts = ["ext4", "tmpfs"].contains(&volume::kind(image.directory())?);
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some(path) = next.pop_front() {
        if seen.len() == limit {
            break;
        }
        if !seen.insert(path.clone()) {
            continue;
        }
        let Ok(directory) = fs::try_open_dir_below(image.directory(), path.bytes()) else { continue };
        let entries = fs::entries(directory.as_fd())?;
        let has = |name: &[u8]| entries.iter().any(|e| e.name == name);
        if !path.is_root() && (has(b"pyvenv.cfg") || has(b"conda-meta") || has(b"pip.conf") && has(b"bin")) {
            found.push(path.to_path());
            continue;
        }
        // Without directories in it (`.` and the name above are two) it is no environment and leads to none.
        let leads_on = |name: &[u8]| {
            !counts || fs::stat(directory.as_fd(), name).is_ok_and(|stat| stat.is_some_and(|stat| stat.st_nlink != 2))
        };
        let below = entries.iter().filter(|e| e.kind == FileType::Directory && may_hold(&path, &e.name));
        // A directory of thousands must not use up what is left for its neighbours.
        let share = if limit == usize::MAX { limit } else { limit / 4 };
        next.extend(below.take(share).filter(|e| leads_on(&e.name)).map(|e| path.join(&e.name)));
    }
    Ok(found)
}

fn may_hold(parent: &Inside, name: &[u8]) -> bool {
    let system = parent.is_root() && SYSTEM.contains(&name);
    let hidden = name.starts_with(b".") && !HIDDEN.contains(&name);
    let kept = KEPT.contains(&name) && parent.bytes() == &LIBRARY.as_bytes()[1..];
    !system && !hidden && !kept && !NEVER.contains(&name)
}

/// The standard library's distutils (until Python 3.11) and setuptools' copy of it.
fn distutils(image: &Image, resolver: &mut Resolver<'_>) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for library in ["/usr/lib", "/usr/local/lib"] {
        let Some(path) = Inside::lexical(library.as_ref()) else { continue };
        let Ok(directory) = fs::open_dir_below(image.directory(), path.bytes()) else { continue };
        for entry in fs::entries(directory.as_fd())? {
            if entry.kind != FileType::Directory || !entry.name.starts_with(b"python") {
                continue;
            }
            let version = path.join(&entry.name);
            for place in ["distutils", "dist-packages/setuptools/_distutils", "site-packages/setuptools/_distutils"] {
                let candidate = place.split('/').fold(version.clone(), |path, name| path.join(name.as_bytes()));
                let place = resolver.resolve(&candidate)?;
                if place.path == candidate && place.entry.is_some_and(|entry| entry.directory) {
                    found.push(candidate.to_path());
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn found_in(image: &Image, hints: &[PathBuf]) -> Pythons {
        find(image, &mut Resolver::new(image), "", hints).unwrap()
    }

    fn image(files: &[&str]) -> (tempfile::TempDir, Image) {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            if file.ends_with("pyvenv.cfg") {
                std::fs::create_dir_all(path.with_file_name("lib")).unwrap();
            }
        }
        let image = Image::open(directory.path()).unwrap();
        (directory, image)
    }

    #[test]
    fn environments_are_found_where_people_put_them_and_not_in_the_system() {
        let (_directory, image) = image(&[
            "opt/app/venv/pyvenv.cfg",
            "opt/app/venv/lib/inner/pyvenv.cfg",
            "root/.local/share/pipx/venvs/black/pyvenv.cfg",
            "root/.cache/x/pyvenv.cfg",
            "srv/conda/conda-meta/history",
            "home/me/.pyenv/versions/3.12.1/pip.conf",
            "home/me/.pyenv/versions/3.12.1/bin/python",
            "venv/pyvenv.cfg",
            "etc/venv/pyvenv.cfg",
            "usr/share/deep/pyvenv.cfg",
        ]);
        let mut found = found_in(&image, &[]).prefixes;
        found.sort();
        let expected = [
            "/home/me/.pyenv/versions/3.12.1",
            "/opt/app/venv",
            "/root/.local/share/pipx/venvs/black",
            "/srv/conda",
            "/venv",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        let hinted = found_in(&image, &[PathBuf::from("/usr/share/deep")]).prefixes;
        assert_eq!(hinted[0], Path::new("/usr/share/deep"));
        assert!(all_prefixes(&image).unwrap().contains(&PathBuf::from("/usr/share/deep")));
    }

    #[test]
    fn a_wide_directory_is_not_walked_to_its_end_and_hides_no_other() {
        let many: Vec<String> = (0..3 * LOOKED_INTO).map(|n| format!("data/{n}/pyvenv.cfg")).collect();
        let mut files: Vec<&str> = many.iter().map(String::as_str).collect();
        files.push("opt/venv/pyvenv.cfg");
        let (_directory, image) = image(&files);
        let found = found_in(&image, &[]).prefixes;
        assert!(found.contains(&PathBuf::from("/opt/venv")) && found.len() < LOOKED_INTO, "{}", found.len());
        assert_eq!(all_prefixes(&image).unwrap().len(), 3 * LOOKED_INTO + 1);
    }

    #[test]
    fn distutils_directories_are_those_that_exist() {
        let (_directory, image) = image(&[
            "usr/lib/python3.11/distutils/x.py",
            "usr/lib/python3/dist-packages/setuptools/_distutils/x.py",
            "usr/lib/python3.13/os.py",
        ]);
        let expected = ["/usr/lib/python3.11/distutils", "/usr/lib/python3/dist-packages/setuptools/_distutils"];
        let mut expected = expected.map(PathBuf::from).to_vec();
        expected.sort();
        assert_eq!(found_in(&image, &[]).distutils, expected);
    }
}
