//! A mirror server of the user's own, for as long as the run lasts: started, waited for, used as an index, stopped.

mod devpi;
mod process;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Doing, Result};
use crate::host::caller;
use process::Process;

/// The path of the simple index on a server that nobody gave one for, PEP 503's usual place.
pub const SIMPLE: &str = "/simple/";

/// A server that has not been started.
#[derive(Debug, Clone)]
pub struct Server {
    kind: Kind,
    /// Where it keeps what it knows, between runs too.
    directory: PathBuf,
    port: u16,
    /// Whether it asks nobody else.
    offline: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    /// devpi-server as a cache of these indexes; none: of the official one.
    Devpi(Vec<String>),
    /// A command of sh(1), and the path of its index.
    Command { command: String, path: String },
}

impl Server {
    /// What `--serve` says: `devpi`, `devpi=URL,URL…` or a command. `cache` is the image cache. A free port is chosen; nothing
    /// is started or written.
    ///
    /// # Errors
    ///
    /// No free port.
    pub fn new(wish: &str, path: Option<&str>, cache: &Path, offline: bool) -> Result<Server> {
        // Released at once: the server binds it itself.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| "cannot find a free port for --serve")?;
        let port = listener.local_addr()?.port();
        let (kind, directory) = match wish.split_once('=').map_or((wish, None), |(name, rest)| (name, Some(rest))) {
            ("devpi", urls) => {
                let urls = urls.map_or(Vec::new(), |urls| urls.split(',').map(str::to_owned).collect());
                (Kind::Devpi(urls), cache.join("devpi"))
            }
            _ => {
                let name = format!("{:016x}", u64::from_be_bytes(digest(wish)));
                let path = format!("/{}", path.unwrap_or(SIMPLE).trim_start_matches('/'));
                (Kind::Command { command: wish.to_owned(), path }, cache.join("serve").join(name))
            }
        };
        Ok(Server { kind, directory, port, offline })
    }

    /// The indexes that it will have, in order.
    pub fn urls(&self) -> Vec<String> {
        let at = |path: &str| format!("http://127.0.0.1:{}{path}", self.port);
        match &self.kind {
            Kind::Command { path, .. } => vec![at(path)],
            Kind::Devpi(urls) => devpi::index_paths(urls).iter().map(|path| at(path)).collect(),
        }
    }

    /// Whether its first answer may take longer than installers wait.
    pub fn is_slow_at_first(&self) -> bool {
        matches!(self.kind, Kind::Devpi(_))
    }

    /// Whether it has what the official index has.
    pub fn is_official(&self) -> bool {
        matches!(&self.kind, Kind::Devpi(urls) if urls.is_empty())
    }

    /// Starts it and waits until it answers. One that another run started in the same directory is waited for.
    ///
    /// # Errors
    ///
    /// No program, one that ends, one that does not answer within a minute; with the end of what it wrote.
    pub fn start(&self) -> Result<Running> {
        caller::make_directory(&self.directory)?;
        let lock = lock(&self.directory)?;
        let process = match &self.kind {
            Kind::Command { command, .. } => Process::start(&self.shell(command), &self.directory)?,
            Kind::Devpi(_) => {
                devpi::initialise(&self.directory)?;
                Process::start(&devpi::command(&self.directory, self.port, self.offline), &self.directory)?
            }
        };
        let running = Running { process, _lock: lock };
        let path = match &self.kind {
            Kind::Command { path, .. } => path.as_str(),
            Kind::Devpi(_) => "/+api",
        };
        running.process.wait_for_answer(self.port, path)?;
        if let Kind::Devpi(urls) = &self.kind {
            devpi::configure(self.port, urls)?;
        }
        Ok(running)
    }

    fn shell(&self, command: &str) -> Vec<std::ffi::OsString> {
        let port = format!("PORT={}", self.port);
        let mut data = std::ffi::OsString::from("DATA=");
        data.push(&self.directory);
        vec!["env".into(), port.into(), data, "sh".into(), "-c".into(), command.into()]
    }
}

/// A server at work; it ends when this goes, and with this process however that ends.
pub struct Running {
    process: Process,
    _lock: std::fs::File,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.stop();
    }
}

fn digest(text: &str) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(text)[..8]);
    first
}

/// Two servers in one directory would spoil it.
fn lock(directory: &Path) -> Result<std::fs::File> {
    let path = directory.with_extension("lock");
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.doing(|| format!("cannot open {}", path.display()))?;
    if !crate::sys::fs::try_lock(std::os::fd::AsFd::as_fd(&file), true)? {
        log::warn!("waiting for the run whose server has {}", directory.display());
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    }
    Ok(file)
}
