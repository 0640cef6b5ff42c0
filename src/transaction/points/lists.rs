//! The lists of mount points on the disk: three files, each with what it adds to those before.

use std::os::fd::{AsFd, BorrowedFd};

use serde::{Deserialize, Serialize};

use super::{Parent, Phase, Point, Points, Time};
use crate::error::{Fault, Result};
use crate::image::Inside;
use crate::sys::{fs, volume};
use crate::transaction::journal::{read_text, remove_if_there, write, write_as_name};

/// The names of the lists in the transaction. Without the first, the others say nothing.
pub const FILES: [&[u8]; 3] = [b"points", b"points.made", b"points.leaving"];

impl Phase {
    fn file(self) -> &'static [u8] {
        FILES[self as usize]
    }
}

/// Where the lists are.
#[derive(Clone, Copy)]
pub struct Journal<'a> {
    /// A directory with nothing else of these names in it.
    pub directory: BorrowedFd<'a>,
    /// When they are on the disk.
    pub sync: Sync,
}

/// What a list is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Crashes of programs.
    Never,
    /// Power cuts: each is on the disk before anything is done.
    Each,
    /// The same, on a file system whose journal has every change in the order of the calls and that the root is in, too:
    /// nothing waits for the disk.
    Ordered,
}

impl Sync {
    /// What lasts a power cut.
    pub fn durable(directory: BorrowedFd<'_>, same_file_system: bool) -> Sync {
        if same_file_system && volume::has_ext4_journal(directory) { Sync::Ordered } else { Sync::Each }
    }
}

/// What the list *made* adds, in the order of the points: the inode of each, and of a directory its time.
#[derive(Serialize, Deserialize)]
struct Made(Vec<(u64, Option<Time>)>);

/// What the list *leaving* adds: the directories that do not get their old time, or have flags.
#[derive(Serialize, Deserialize)]
struct Leaving(Vec<(Inside, Option<Time>, u32)>);

impl Points {
    /// Writes the list of the phase in which the points are.
    pub(super) fn save(&self, journal: Option<Journal<'_>>) -> Result<()> {
        let Some(Journal { directory, sync }) = journal else { return Ok(()) };
        let name = self.phase.file();
        let text = self.text()?;
        if sync == Sync::Ordered {
            match write_as_name(directory, name, &text) {
                Err(error) if Fault::errno(&error) == Some(libc::EEXIST) => {
                    remove_if_there(directory, name)?;
                    return self.save(journal);
                }
                Ok(false) => {}
                other => return other.map(drop),
            }
        }
        remove_if_there(directory, name)?;
        let file = write(directory, name, &text)?;
        match sync {
            Sync::Never => {}
            Sync::Ordered if self.phase != Phase::Making => fs::write_out(file.as_fd())?,
            // The journal has the names of the transaction when it has this file.
            Sync::Ordered => fs::fsync(file.as_fd())?,
            Sync::Each => {
                fs::fsync(file.as_fd())?;
                fs::fsync(directory)?;
            }
        }
        Ok(())
    }

    /// What the list of this phase has.
    fn text(&self) -> Result<Vec<u8>> {
        let time = |point: &Point| Some(self.parents.get(&point.path)?.before).filter(|_| point.directory.is_some());
        let changed = |(path, parent): (&Inside, &Parent)| {
            let same = parent.after.is_none() && parent.flags == 0;
            (!same).then(|| (path.clone(), parent.after, parent.flags))
        };
        Ok(match self.phase {
            Phase::Making => serde_json::to_vec(self)?,
            Phase::Made => serde_json::to_vec(&Made(self.made.iter().map(|p| (p.inode, time(p))).collect()))?,
            Phase::Leaving => serde_json::to_vec(&Leaving(self.parents.iter().filter_map(changed).collect()))?,
        })
    }

    /// What the lists in this directory say, up to the newest that is whole; none: nothing was made.
    pub fn load(directory: BorrowedFd<'_>) -> Result<Option<Points>> {
        let Some(mut points) = read_list::<Points>(directory, Phase::Making)? else { return Ok(None) };
        if let Some(Made(made)) = read_list(directory, Phase::Made)?
            && made.len() == points.made.len()
        {
            for (point, (inode, time)) in points.made.iter_mut().zip(made) {
                point.inode = inode;
                let parent = time.map(|before| Parent { inode, before, after: None, flags: 0 });
                points.parents.extend(parent.map(|parent| (point.path.clone(), parent)));
            }
            points.phase = Phase::Made;
            if let Some(Leaving(changed)) = read_list(directory, Phase::Leaving)? {
                for (path, after, flags) in changed {
                    if let Some(parent) = points.parents.get_mut(&path) {
                        (parent.after, parent.flags) = (after, flags);
                    }
                }
                points.phase = Phase::Leaving;
            }
        }
        Ok(Some(points))
    }
}

fn read_list<T: for<'de> Deserialize<'de>>(directory: BorrowedFd<'_>, phase: Phase) -> Result<Option<T>> {
    Ok(read_text(directory, phase.file())?.and_then(|text| serde_json::from_slice(&text).ok()))
}
