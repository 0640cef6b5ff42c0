//! What a transaction keeps on disk: its state, and from the commit point on the list of records.
//!
//! `plan.tmp` is written and synced with all that the step wrote, then renamed to `plan`: from there the commit is decided and is
//! finished by whoever comes next. `plan` renamed to `done`: finished, only the directory is left to remove. Neither: nothing has
//! happened to the image.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::points::Sync;
use crate::changes::gate::Rules;
use crate::changes::leaks::Remembered;
use crate::changes::marks::Prefix;
use crate::changes::record::Record;
use crate::changes::{Policy, Stamp};
use crate::error::{Fault, Result, refuse};
use crate::image::{Identity, Image};
use crate::settings::{Backend, Mode};
use crate::sys::fs;
use crate::sys::volume;

/// The format of everything below; another version is refused, never guessed at.
pub const VERSION: u32 = 1;

const END: &str = "end";

/// What a transaction is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Format.
    pub version: u32,
    /// Its name in commands.
    pub id: String,
    /// The image's path when it began.
    pub image: PathBuf,
    /// Which directory that was.
    pub root: Identity,
    /// The number that the image's file system carries, where it has one.
    #[serde(default)]
    pub file_system: Option<String>,
    /// The transaction is on the image's own file system.
    #[serde(default)]
    pub same_file_system: bool,
    /// Commit or discard.
    pub mode: Mode,
    /// Kept on purpose (`--on-failure keep`): no later run removes it.
    pub kept: bool,
    /// Its name, when it was begun by name.
    #[serde(default)]
    pub name: Option<String>,
    /// It belongs to `attach`, and stays until `detach`; `kept` says that the first is complete.
    #[serde(default)]
    pub attached: bool,
    /// Process id of the runner, for people.
    pub pid: u32,
    /// Seconds since 1970 when it began.
    pub started: u64,
    /// Of one step that has not come to its end: policy and rules may be missing, and nobody commits it by hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub brief: bool,
    /// Overrides and mount points of the scaffold.
    pub policy: Policy,
    /// Where overlayfs keeps its attributes.
    pub prefix: Prefix,
    /// The commit goes on in this directory of the image's own file system (name in the image's root), because the
    /// transaction is on another one.
    #[serde(default)]
    pub moved_to: Option<String>,
    /// What its commit has to respect.
    #[serde(default)]
    pub rules: Rules,
    /// Traces of secrets that its steps left.
    #[serde(default)]
    pub secret_leaks: Vec<Remembered>,
    /// When it began, by the clock that stamps the image's files.
    #[serde(default)]
    pub begun: Option<Stamp>,
    /// Overlay or copy; never auto.
    #[serde(default = "overlay")]
    pub backend: Backend,
    /// The copy backend: every entry of the copy with a later change time was touched by the step.
    #[serde(default)]
    pub copied: Option<Stamp>,
    /// The copy backend: the copy that is being exchanged with the image.
    #[serde(default)]
    pub exchanged: Option<Identity>,
    /// The copy backend: `i` and `a` flags of the image's root before and after, cleared for the exchange.
    #[serde(default)]
    pub root_flags: (u32, u32),
    /// Times of the image's root without that directory in it.
    #[serde(default)]
    pub root_times: Option<fs::Times>,
    /// That directory is being removed: when it is gone, only those times may be missing.
    #[serde(default)]
    pub leaving: bool,
}

fn overlay() -> Backend {
    Backend::Overlay
}

/// How far a transaction got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is decided.
    Open,
    /// The commit point is passed.
    Decided(Vec<Record>),
    /// Committed.
    Done,
}

impl State {
    /// Writes the first one. Whoever finds half of it finds a transaction that has touched nothing yet.
    pub fn begin(&mut self, directory: BorrowedFd<'_>) -> Result<()> {
        let text = self.first_text()?;
        let ordered = self.mode == Mode::Through && Sync::durable(directory, self.same_file_system) == Sync::Ordered;
        if ordered && write_as_name(directory, b"state", &text)? {
            return Ok(());
        }
        write(directory, b"state", &text).map(drop)
    }

    /// Without the long lists where nobody will read them from the disk: a transaction of one step is removed, or kept, which
    /// writes the whole of it, and who finishes a decided commit asks for none of them.
    fn first_text(&mut self) -> Result<Vec<u8>> {
        if !self.brief {
            return Ok(serde_json::to_vec(self)?);
        }
        let lists = (std::mem::take(&mut self.policy), std::mem::take(&mut self.rules));
        let text = serde_json::to_vec(self);
        (self.policy, self.rules) = lists;
        Ok(text?)
    }

    /// Writes it, replacing an older one in one step. A power cut may leave neither, so it is for a beginning, which nothing
    /// stands on yet.
    pub fn save(&self, directory: BorrowedFd<'_>) -> Result<()> {
        remove_if_there(directory, b"state.tmp")?;
        write(directory, b"state.tmp", &serde_json::to_vec(self)?)?;
        Ok(fs::rename(directory, b"state.tmp", directory, b"state")?)
    }

    /// Puts the one that was written when the transaction began on the disk. Its name is there, and with [`Sync::Ordered`] the
    /// rest, when what is done next has been written down.
    pub fn sync(&self, directory: BorrowedFd<'_>, how: Sync) -> Result<()> {
        if is_name(directory, b"state")? {
            return Ok(());
        }
        let file = fs::open_read(directory, b"state")?;
        match how {
            Sync::Never => Ok(()),
            Sync::Ordered => Ok(fs::write_out(file.as_fd())?),
            Sync::Each => Ok(fs::fsync(file.as_fd())?),
        }
    }

    /// The same; on return it is on the disk.
    pub fn save_durably(&self, directory: BorrowedFd<'_>) -> Result<()> {
        remove_if_there(directory, b"state.tmp")?;
        fs::fsync(write(directory, b"state.tmp", &serde_json::to_vec(self)?)?.as_fd())?;
        fs::rename(directory, b"state.tmp", directory, b"state")?;
        Ok(fs::fsync(directory)?)
    }

    /// Reads it back. One that is missing or torn belongs to a runner that died at once: an empty state, to be removed.
    pub fn load(directory: BorrowedFd<'_>) -> Result<State> {
        let read = read_text(directory, b"state").ok().flatten();
        let state = read.and_then(|text| serde_json::from_slice::<State>(&text).ok()).unwrap_or_else(State::unknown);
        if state.version == VERSION {
            return Ok(state);
        }
        refuse(
            Fault::new(format!("the transaction has format {}, this dropcloth knows format {VERSION}", state.version))
                .hint("Finish it with the version of dropcloth that made it: `dropcloth recover`."),
        )
    }

    /// Whether the transaction in `directory` was begun on `image`. A device number is good until the next mount only, and a
    /// power cut is followed by one: where something better is known, that decides.
    pub fn is_of(&self, directory: BorrowedFd<'_>, image: &Image) -> Result<bool> {
        let now = image.identity();
        let exchanged = self.exchanged.is_some_and(|tree| tree.inode == now.inode);
        if self.root.inode != now.inode && !exchanged {
            return Ok(false);
        }
        if self.same_file_system {
            return Ok(fs::fstat(directory)?.st_dev == now.device);
        }
        // Nobody else makes this name.
        if let Some(name) = &self.moved_to
            && fs::stat(image.directory(), name.as_bytes())?.is_some()
        {
            return Ok(true);
        }
        let carried = volume::file_system_id(image.directory());
        match (&self.file_system, &carried) {
            (Some(then), Some(now)) if then != now => Ok(false),
            (Some(_), Some(_)) => Ok(self.root == image.identity() || self.image == image.path()),
            _ => Ok(self.root == now),
        }
    }

    fn unknown() -> State {
        State {
            version: VERSION,
            id: String::new(),
            image: PathBuf::new(),
            root: Identity { device: 0, inode: 0 },
            file_system: None,
            same_file_system: false,
            mode: Mode::Discard,
            kept: false,
            name: None,
            attached: false,
            pid: 0,
            started: 0,
            brief: false,
            policy: Policy::default(),
            prefix: Prefix::Trusted,
            moved_to: None,
            rules: Rules::default(),
            secret_leaks: Vec::new(),
            begun: None,
            backend: Backend::Overlay,
            copied: None,
            exchanged: None,
            root_flags: (0, 0),
            root_times: None,
            leaving: false,
        }
    }
}

/// Bytes of a link's target that every file system takes: a block without its end.
const LONGEST_TARGET: usize = 4095;

/// Writes a short text as the target of a link: a file system's journal has that in the order of the calls, as it has names, and
/// what is in a file it has not. `false`: it is too long for that.
pub fn write_as_name(directory: BorrowedFd<'_>, name: &[u8], text: &[u8]) -> Result<bool> {
    if text.len() > LONGEST_TARGET {
        return Ok(false);
    }
    fs::symlink(text, directory, name)?;
    Ok(true)
}

fn is_name(directory: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
    let stat = fs::stat(directory, name)?;
    Ok(stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink))
}

/// A new file.
pub fn write(directory: BorrowedFd<'_>, name: &[u8], text: &[u8]) -> Result<std::fs::File> {
    let mut file = std::fs::File::from(fs::create(directory, name, 0o600)?);
    file.write_all(text)?;
    Ok(file)
}

/// What either of them wrote. None: there is nothing, or nothing that can be read after a power cut.
pub fn read_text(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>> {
    if is_name(directory, name)? {
        return Ok(Some(fs::readlink(directory, name)?));
    }
    let Ok(file) = fs::open_read(directory, name) else { return Ok(None) };
    let mut text = Vec::new();
    let read = std::fs::File::from(file).read_to_end(&mut text);
    Ok(read.is_ok().then_some(text))
}

/// Removes a file that may be gone already.
pub fn remove_if_there(directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match fs::unlink(directory, name) {
        Err(error) if error.errno == libc::ENOENT => Ok(()),
        other => Ok(other?),
    }
}

/// Writes the records down. They have to be on the disk before [`decide`], by a syncfs(2) that the data needs in any case.
pub fn propose(directory: BorrowedFd<'_>, records: &[Record]) -> Result<()> {
    remove_if_there(directory, b"plan.tmp")?;
    let file = std::fs::File::from(fs::create(directory, b"plan.tmp", 0o600)?);
    let mut file = BufWriter::with_capacity(64 << 10, file);
    for record in records {
        serde_json::to_writer(&mut file, record).map_err(std::io::Error::from)?;
        file.write_all(b"\n")?;
    }
    writeln!(file, "{END}")?;
    Ok(file.flush()?)
}

/// Passes the commit point: when this returns, the records will be applied, by us or by the next.
pub fn decide(directory: BorrowedFd<'_>) -> Result<()> {
    fs::rename(directory, b"plan.tmp", directory, b"plan")?;
    fs::fsync(directory)?;
    Ok(())
}

/// Marks the commit finished.
pub fn finish(directory: BorrowedFd<'_>) -> Result<()> {
    fs::rename(directory, b"plan", directory, b"done")?;
    fs::fsync(directory)?;
    Ok(())
}

/// How far it got.
pub fn progress(directory: BorrowedFd<'_>) -> Result<Progress> {
    if fs::stat(directory, b"done")?.is_some() {
        return Ok(Progress::Done);
    }
    if fs::stat(directory, b"plan")?.is_none() {
        return Ok(Progress::Open);
    }
    Ok(Progress::Decided(read(directory, b"plan")?))
}

/// The records of a finished commit.
pub fn finished(directory: BorrowedFd<'_>) -> Result<Vec<Record>> {
    read(directory, b"done")
}

fn read(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<Record>> {
    let file = BufReader::new(std::fs::File::from(fs::open_read(directory, name)?));
    let mut records = Vec::new();
    for line in file.lines() {
        let line = line?;
        if line == END {
            return Ok(records);
        }
        records.push(serde_json::from_str(&line)?);
    }
    refuse(
        Fault::new("the journal of a decided commit ends too early")
            .hint("The disk lost data that it had confirmed. Compare the image with its source before you use it, then remove the transaction by hand."),
    )
}
