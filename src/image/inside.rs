//! Resolving a path inside the image as a chroot would, without ever leaving it.
//!
//! Each component is opened with O_NOFOLLOW from the handle of the one before, and links are followed by hand: what comes
//! out is a path without links, and how much of it is there. openat2(2) alone could not tell the second.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{Image, Inside};
use crate::error::{Doing, Result};
use crate::sys::error::Called;
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
    known: Directories,
}

/// Directories of an image that are open, by path.
#[derive(Debug, Default)]
pub struct Directories(Vec<Known>);

/// One of them, or the root, which comes first.
#[derive(Debug, Default)]
struct Known {
    /// None: the root, which is the image's own.
    opened: Option<Opened>,
    /// What was looked for in it, with its number; none: there is nothing.
    below: Vec<(Box<[u8]>, Option<usize>)>,
}

/// A directory.
#[derive(Debug)]
struct Opened {
    handle: OwnedFd,
    /// Its attributes can be read by the handle; one that this user may only search is O_PATH.
    readable: bool,
}

impl Directories {
    /// The directory at `path`, if it is one of them and open for reading.
    pub fn get(&self, path: &Inside) -> Option<BorrowedFd<'_>> {
        let mut known = self.0.first()?;
        for name in path.components() {
            known = self.0.get(known.look(name)??)?;
        }
        known.opened.as_ref().filter(|directory| directory.readable).map(|directory| directory.handle.as_fd())
    }
}

impl Known {
    /// What is known of the entry `name`; `Some(None)`: it is not there.
    fn look(&self, name: &[u8]) -> Option<Option<usize>> {
        self.below.iter().find(|(known, _)| **known == *name).map(|(_, number)| *number)
    }
}

impl<'a> Resolver<'a> {
    /// One that knows no directory yet.
    pub fn new(image: &'a Image) -> Resolver<'a> {
        Resolver { image, known: Directories(vec![Known::default()]) }
    }

    /// The directories that were gone through.
    pub fn into_directories(self) -> Directories {
        self.known
    }

    /// Resolves `path`, following a link at its end as well.
    pub fn resolve(&mut self, path: &Inside) -> Result<Place> {
        self.walk(path).doing(|| format!("cannot resolve {path} inside {}", self.image.path().display()))
    }

    fn walk(&mut self, path: &Inside) -> Result<Place> {
        let mut walk = Walk {
            image: self.image,
            known: &mut self.known,
            path: Vec::with_capacity(2 * path.bytes().len()),
            stack: Vec::new(),
            todo: path.bytes().to_vec(),
            next: 0,
            links: 0,
        };
        while let Some((start, end)) = walk.next_component() {
            match walk.step(start, end)? {
                Step::On => {}
                Step::Missing => return Ok(walk.finish(None, None)),
                Step::End(stat) => return Ok(walk.finish(Some(stat), None)),
                Step::Obstacle(why) => return Ok(walk.finish(None, Some(why))),
            }
        }
        let stat = fs::fstat(walk.at())?;
        Ok(walk.finish(Some(stat), None))
    }
}

struct Walk<'a> {
    image: &'a Image,
    known: &'a mut Directories,
    /// Where the walk stands: names without links.
    path: Vec<u8>,
    /// The directories on that path by their numbers, each with the length of the path above it; the root itself is not in it.
    stack: Vec<(usize, usize)>,
    /// What is still to do, from `next` on.
    todo: Vec<u8>,
    next: usize,
    links: usize,
}

enum Step {
    /// Into a directory, back, or along a link.
    On,
    /// The last name of the path is not there.
    Missing,
    /// The last name of the path is the end.
    End(Stat),
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
        let file = match fs::try_openat2(self.directory(), path.as_bytes(), flags, ResolveFlags::IN_ROOT) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
            other => other.called(|| format!("openat2({path:?}, RESOLVE_IN_ROOT)"))?,
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
        fs::try_openat2(self.directory(), path.as_bytes(), flags, ResolveFlags::IN_ROOT).is_ok()
    }
}

fn open_directory(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Opened> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::open_quietly(at, name, flags | OFlags::RDONLY) {
        Err(Errno::ACCESS) => {
            let handle = rustix::fs::openat(at, name, flags | OFlags::PATH, Mode::empty())?;
            Ok(Opened { handle, readable: false })
        }
        other => Ok(Opened { handle: other?, readable: true }),
    }
}

impl Walk<'_> {
    /// The next name of what is to do, as a range of it.
    fn next_component(&mut self) -> Option<(usize, usize)> {
        while self.next < self.todo.len() {
            let start = self.next;
            let end = self.todo[start..].iter().position(|b| *b == b'/').map_or(self.todo.len(), |at| start + at);
            self.next = end + 1;
            if !matches!(&self.todo[start..end], b"" | b".") {
                return Some((start, end));
            }
        }
        None
    }

    fn is_last(&self) -> bool {
        self.todo.get(self.next..).is_none_or(|rest| rest.iter().all(|b| *b == b'/'))
    }

    fn step(&mut self, start: usize, end: usize) -> Result<Step> {
        if &self.todo[start..end] == b".." {
            // Above the root is the root, as in a chroot.
            self.path.truncate(self.stack.pop().map_or(0, |(above, _)| above));
            return Ok(Step::On);
        }
        let above = self.path.len();
        if above > 0 {
            self.path.push(b'/');
        }
        let from = self.path.len();
        self.path.extend_from_slice(&self.todo[start..end]);
        match self.standing().look(&self.path[from..]) {
            Some(Some(number)) => {
                self.stack.push((above, number));
                return Ok(Step::On);
            }
            Some(None) => return Ok(Step::Missing),
            None => {}
        }
        let (at, name) = (self.at(), &self.path[from..]);
        // What a path goes through is nearly always a directory: that is asked for by opening it.
        let opened = if self.is_last() { Err(Errno::NOTDIR) } else { open_directory(at, name) };
        let stat = match opened {
            Ok(next) => return Ok(self.down(above, from, next)),
            Err(Errno::NOENT) => Ok(None),
            Err(_) => fs::stat(at, name),
        };
        let stat = match stat {
            Ok(Some(stat)) => stat,
            Ok(None) => {
                let name = name.into();
                self.standing_mut().below.push((name, None));
                return Ok(Step::Missing);
            }
            Err(error) if error.errno == libc::EACCES => {
                self.path.truncate(above);
                return Ok(Step::Obstacle(format!("{} may not be searched by this user", self.here())));
            }
            Err(error) => return Err(error.into()),
        };
        self.arrive(above, from, stat)
    }

    /// At an entry that is there and was not gone into: its name is in the path from `from` on.
    fn arrive(&mut self, above: usize, from: usize, stat: Stat) -> Result<Step> {
        let (at, name) = (self.at(), &self.path[from..]);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = fs::readlink(at, name)?;
                self.path.truncate(above);
                Ok(self.follow(target))
            }
            // Nobody may go through it.
            _ if self.is_last() => Ok(Step::End(stat)),
            // It was opened in vain: by a name that is another thing now, or by a user who may not go through it.
            FileType::Directory => {
                let next = open_directory(at, name)?;
                Ok(self.down(above, from, next))
            }
            _ => {
                let why = format!("{} is not a directory", self.here());
                self.path.truncate(above);
                Ok(Step::Obstacle(why))
            }
        }
    }

    fn number(&self) -> usize {
        self.stack.last().map_or(0, |(_, number)| *number)
    }

    /// Where the walk stands.
    fn standing(&self) -> &Known {
        &self.known.0[self.number()]
    }

    fn standing_mut(&mut self) -> &mut Known {
        let number = self.number();
        &mut self.known.0[number]
    }

    fn at(&self) -> BorrowedFd<'_> {
        self.standing().opened.as_ref().map_or(self.image.directory(), |directory| directory.handle.as_fd())
    }

    /// Into `next`, whose name is in the path from `name` on.
    fn down(&mut self, above: usize, name: usize, next: Opened) -> Step {
        let (name, number) = (self.path[name..].into(), self.known.0.len());
        self.standing_mut().below.push((name, Some(number)));
        self.known.0.push(Known { opened: Some(next), below: Vec::new() });
        self.stack.push((above, number));
        Step::On
    }

    fn follow(&mut self, mut target: Vec<u8>) -> Step {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Step::Obstacle("its symbolic links go round in a circle".to_owned());
        }
        if target.starts_with(b"/") {
            self.stack.clear();
            self.path.clear();
        }
        target.push(b'/');
        target.extend_from_slice(self.todo.get(self.next..).unwrap_or_default());
        (self.todo, self.next) = (target, 0);
        Step::On
    }

    fn here(&self) -> Inside {
        Inside::from_names(&self.path)
    }

    /// The path ends in the entry of `stat`, if there is one.
    fn finish(mut self, stat: Option<Stat>, obstacle: Option<String>) -> Place {
        let mut obstacle = obstacle;
        let depth = self.path.split(|b| *b == b'/').filter(|name| !name.is_empty()).count();
        let existing = if stat.is_some() { depth } else { self.stack.len() };
        while let Some((start, end)) = self.next_component() {
            let name = &self.todo[start..end];
            if name == b".." {
                obstacle.get_or_insert_with(|| {
                    "it goes through a directory that does not exist and back with ..".to_owned()
                });
            }
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
        }
        Place { path: self.here(), existing, entry: stat.as_ref().map(Found::of), obstacle }
    }
}
