//! Processes of the sandbox, by what they are known by: a thread, or the port of a socket. Everything here is a best effort:
//! whoever asked may be gone.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::escape::cause::Process;

/// Bytes of a file of the step, and of a command line.
const FILE: u64 = 1 << 20;
const WORDS: u64 = 4 << 10;
/// Ancestors that are looked at.
const ANCESTORS: usize = 8;

/// Whether /proc numbers processes as we do: where the kernel lets us mount none, it is that of a container outside.
pub fn proc_is_ours() -> bool {
    let own = std::fs::read_link("/proc/self").ok();
    own.is_some_and(|link| link == Path::new(&std::process::id().to_string()))
}

/// The process of a thread.
pub fn of_thread(thread: i32) -> Option<i32> {
    status(thread, "Tgid")
}

fn status(pid: i32, field: &str) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// The process with a socket of `kind` (`tcp` or `udp`) whose own port is `port`.
pub fn of_port(kind: &str, port: u16) -> Option<i32> {
    // A socket of IPv6 reaches addresses of IPv4 too.
    let inode = [kind.to_owned(), format!("{kind}6")].iter().find_map(|table| inode(table, port))?;
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let pids = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let own = std::process::id().cast_signed();
    pids.filter(|pid| *pid != own && *pid != 1).find(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| link == wanted)
    })
}

/// The inode of a socket, proc_net(5): local address, remote address, state, …, and tenth the inode.
fn inode(table: &str, port: u16) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/net/{table}")).ok()?;
    let local = format!(":{port:04X}");
    text.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // One that waits for its last packets belongs to nobody.
        words.get(9)?.parse().ok().filter(|inode| *inode != 0 && words[1].ends_with(&local))
    })
}

/// A process and its ancestors, nearest first, below pid 1.
pub fn chain(pid: i32) -> Vec<Process> {
    let parents = std::iter::successors(Some(pid), |pid| status(*pid, "PPid").filter(|parent| *parent > 1));
    parents.take(ANCESTORS).map(process).collect()
}

fn process(pid: i32) -> Process {
    let words = |name: &str, limit: u64| -> Vec<String> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(format!("/proc/{pid}/{name}"));
        let _ = file.and_then(|file| file.take(limit).read_to_end(&mut bytes));
        let parts = bytes.split(|b| *b == 0).filter(|part| !part.is_empty());
        parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    };
    let pair = |text: String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    Process {
        command: words("cmdline", WORDS),
        variables: words("environ", 16 * WORDS).into_iter().filter_map(pair).collect(),
        directory: std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| "/".into()),
    }
}

/// A file that the step sees, if it is one and not too long.
pub fn read(path: &Path) -> Option<String> {
    // NONBLOCK: a fifo there stops nobody.
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    let data = file.metadata().ok()?;
    if !data.is_file() || data.len() > FILE {
        return None;
    }
    let mut text = String::new();
    file.take(FILE).read_to_string(&mut text).ok()?;
    Some(text)
}
