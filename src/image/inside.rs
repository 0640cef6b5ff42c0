//! Resolving a path inside the image as a chroot would, without ever leaving it.
//!
//! Each component is opened with O_NOFOLLOW from the handle of the one before, and links are followed by hand: what comes
//! out is a path without links, and how much of it is there. openat2(2) alone could not tell the second.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::{Image, Inside};
use crate::error::{Doing, Result};
use crate::sys::fs;

/// As many links as the kernel follows, path_resolution(7).
const MAX_LINKS: usize = 40;

/// Where a path ends inside the image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// The path with all links resolved; the part that does not exist is kept as it was asked for.
    pub path: Inside,
    /// How many leading components exist (as directories, but for the last).
    pub existing: usize,
    /// What is there.
    pub entry: Option<Found>,
    /// Why nothing can be laid there, if so: a file or device stands in the way, or the links go round.
    pub obstacle: Option<String>,
}

/// An existing entry at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// It is a directory.
    pub directory: bool,
    /// It is a regular file.
    pub file: bool,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Found {
    fn of(stat: &Stat) -> Found {
        let kind = FileType::from_raw_mode(stat.st_mode);
        Found {
            directory: kind == FileType::Directory,
            file: kind == FileType::RegularFile,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }
}

/// Resolves many paths of one image: directories that several of them go through are opened once, and what is missing is looked
/// for once.
pub struct Resolver<'a> {
    image: &'a Image,
    known: Known,
}

/// Directories by path; none: there is nothing.
type Known = BTreeMap<Inside, Option<Rc<OwnedFd>>>;

impl<'a> Resolver<'a> {
    /// One that knows no directory yet.
    pub fn new(image: &'a Image) -> Resolver<'a> {
        Resolver { image, known: BTreeMap::new() }
    }

    /// Resolves `path`, following a link at its end as well.
    pub fn resolve(&mut self, path: &Inside) -> Result<Place> {
        self.walk(path).doing(|| format!("cannot resolve {path} inside {}", self.image.path().display()))
    }

    fn walk(&mut self, path: &Inside) -> Result<Place> {
        let mut todo: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        todo.reverse();
        let mut walk = Walk { image: self.image, known: &mut self.known, stack: Vec::new(), todo, links: 0 };
        while let Some(name) = walk.todo.pop() {
            match walk.step(name)? {
                Step::Down => {}
                Step::Missing(name) => return Ok(walk.finish(Some(name), None, None)),
                Step::End(name, stat) => return Ok(walk.finish(Some(name), Some(stat), None)),
                Step::Obstacle(why) => return Ok(walk.finish(None, None, Some(why))),
            }
        }
        let at = walk.stack.last().map_or(walk.image.directory(), |(_, fd)| fd.as_fd());
        let stat = fs::fstat(at)?;
        Ok(walk.finish(None, Some(stat), None))
    }
}

struct Walk<'a> {
    image: &'a Image,
    known: &'a mut Known,
    /// Directories from the root down to where the walk stands; the root itself is not in it.
    stack: Vec<(Vec<u8>, Rc<OwnedFd>)>,
    /// Components still to do, last first.
    todo: Vec<Vec<u8>>,
    links: usize,
}

enum Step {
    Down,
    Missing(Vec<u8>),
    End(Vec<u8>, Stat),
    Obstacle(String),
}

impl Image {
    /// Resolves `path`, following a link at its end as well.
    pub fn resolve(&self, path: &Inside) -> Result<Place> {
        Resolver::new(self).resolve(path)
    }

    /// Opens the file at `path` for reading, resolved in the image; `None` when it is missing or not a regular file.
    pub fn read_small(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        use std::io::Read;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match fs::openat2(self.directory(), path.as_bytes(), flags, ResolveFlags::IN_ROOT) {
            Ok(file) => file,
            Err(error) if [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::ENXIO].contains(&error.errno) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let stat = fs::fstat(file.as_fd())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        // One read for the whole, and one that says so.
        let size = usize::try_from(stat.st_size).unwrap_or(0).min(limit);
        let mut bytes = Vec::with_capacity(size + 1);
        std::fs::File::from(file).take(limit as u64).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Whether something is there, resolved in the image.
    pub fn has(&self, path: &str) -> bool {
        let flags = OFlags::PATH;
        fs::openat2(self.directory(), path.as_bytes(), flags, ResolveFlags::IN_ROOT).is_ok()
    }
}

impl Walk<'_> {
    fn step(&mut self, name: Vec<u8>) -> Result<Step> {
        if name == b".." {
            // Above the root is the root, as in a chroot.
            self.stack.pop();
            return Ok(Step::Down);
        }
        let here = self.here(Some(&name));
        match self.known.get(&here) {
            Some(Some(directory)) => {
                self.stack.push((name, Rc::clone(directory)));
                return Ok(Step::Down);
            }
            Some(None) => return Ok(Step::Missing(name)),
            None => {}
        }
        let at = self.stack.last().map_or(self.image.directory(), |(_, fd)| fd.as_fd());
        let stat = match fs::stat(at, &name) {
            Ok(Some(stat)) => stat,
            Ok(None) => {
                self.known.insert(here, None);
                return Ok(Step::Missing(name));
            }
            Err(error) if error.errno == libc::EACCES => {
                return Ok(Step::Obstacle(format!("{} may not be searched by this user", self.here(None))));
            }
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = fs::readlink(at, &name)?;
                Ok(self.follow(&target))
            }
            FileType::Directory => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let next = Rc::new(rustix::fs::openat(at, &name[..], flags, Mode::empty())?);
                self.known.insert(here, Some(Rc::clone(&next)));
                self.stack.push((name, next));
                Ok(Step::Down)
            }
            _ if self.todo.is_empty() => Ok(Step::End(name, stat)),
            _ => Ok(Step::Obstacle(format!("{} is not a directory", self.here(Some(&name))))),
        }
    }

    fn follow(&mut self, target: &[u8]) -> Step {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Step::Obstacle("its symbolic links go round in a circle".to_owned());
        }
        if target.starts_with(b"/") {
            self.stack.clear();
        }
        let parts = target.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".");
        let mut parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
        parts.reverse();
        self.todo.append(&mut parts);
        Step::Down
    }

    fn here(&self, name: Option<&[u8]>) -> Inside {
        Inside::from_components(self.stack.iter().map(|(n, _)| &n[..]).chain(name))
    }

    fn finish(mut self, last: Option<Vec<u8>>, stat: Option<Stat>, obstacle: Option<String>) -> Place {
        let mut obstacle = obstacle;
        let existing = self.stack.len() + usize::from(stat.is_some() && last.is_some());
        self.todo.reverse();
        if self.todo.iter().any(|c| c == b"..") {
            obstacle
                .get_or_insert_with(|| "it goes through a directory that does not exist and back with ..".to_owned());
        }
        let names =
            self.stack.iter().map(|(n, _)| &n[..]).chain(last.as_deref()).chain(self.todo.iter().map(|t| &t[..]));
        let path = Inside::from_components(names);
        Place { path, existing, entry: stat.as_ref().map(Found::of), obstacle }
    }
}
