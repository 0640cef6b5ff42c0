//! The process of a server, in a pid namespace of its own: whatever it starts ends with it, and it with the runner.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Doing, Fault, Result, refuse};
use crate::sys::fs;
use crate::sys::process::{self, Ended, Forked};
use crate::sys::signal::{self, Signals};

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A started server.
pub struct Process {
    /// pid 1 of its namespace.
    pid: i32,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it writes goes to a log beside its directory. The process must have one thread.
    pub fn start(command: &[OsString], directory: &Path) -> Result<Process> {
        let log = directory.with_extension("log");
        let file = std::fs::File::create(&log).doing(|| format!("cannot write {}", log.display()))?;
        let namespaces = libc::CLONE_NEWPID;
        match process::clone_into(namespaces).doing(|| "cannot make a pid namespace for the server")? {
            Forked::Child => init(command, &file),
            Forked::Parent { pid, .. } => Ok(Process { pid, log }),
        }
    }

    /// Waits for its end. Returns what it wrote when it ended badly.
    pub fn finish(self) -> Result<Option<String>> {
        let ended = process::wait_for(self.pid, 0)?.map(|(_, ended)| ended);
        Ok((ended != Some(Ended::Exited(0))).then(|| self.last_lines()))
    }

    /// Waits until something on `port` answers a request for `path`, with whatever status.
    pub fn wait_for_answer(&self, port: u16, path: &str) -> Result<()> {
        let begun = Instant::now();
        while !answers(port, path) {
            let because = match process::peek(self.pid) {
                Some(ended) => format!("it ended with code {}", ended.code()),
                None if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                None => format!("nothing answers on port {port} after {} s", PATIENCE.as_secs()),
            };
            let fault = Fault::new("the server of --serve does not serve").because(because).because(self.last_lines());
            return refuse(fault.hint(format!(
                "See {}. A command of your own has to listen on 127.0.0.1:$PORT and to stay in the foreground.",
                self.log.display()
            )));
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }

    /// Ends it, and everything that it has started.
    pub fn stop(&self) {
        process::kill(self.pid, libc::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < GRACE {
            match process::wait_for(self.pid, libc::WNOHANG) {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        process::kill(self.pid, libc::SIGKILL);
        let _ = process::wait_for(self.pid, 0);
    }
}

fn answers(port: u16, path: &str) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
        )?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(start == *b"HTTP/")
    };
    ask().unwrap_or(false)
}

/// pid 1: starts the server, passes SIGTERM, reaps. Never returns.
fn init(command: &[OsString], log: &std::fs::File) -> ! {
    let code = match serve(command, log) {
        Ok(ended) => ended.code().into(),
        Err(error) => {
            let _ = writeln!(&mut &*log, "{error:#}");
            125
        }
    };
    process::exit_now(code)
}

fn serve(command: &[OsString], log: &std::fs::File) -> Result<Ended> {
    process::die_with_parent()?;
    // Signals of the terminal are for the step.
    nix::unistd::setsid()?;
    let signals = Signals::block(&[libc::SIGTERM, libc::SIGCHLD])?;
    let child = match process::fork()? {
        Forked::Child => become_server(command, log),
        Forked::Parent { pid, .. } => pid,
    };
    loop {
        while let Some(number) = signals.next() {
            if number == libc::SIGTERM {
                process::kill(child, number);
            }
        }
        while let Ok(Some((pid, ended))) = process::reap() {
            if pid == child && !matches!(ended, Ended::Stopped(_)) {
                return Ok(ended);
            }
        }
        let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut ready, PollTimeout::NONE);
    }
}

fn become_server(command: &[OsString], log: &std::fs::File) -> ! {
    let started = || -> Result<i32> {
        signal::reset_for_step();
        let nothing = fs::open_read(rustix::fs::CWD, b"/dev/null")?;
        process::become_standard(nothing.as_fd(), 0)?;
        process::become_standard(log.as_fd(), 1)?;
        process::become_standard(log.as_fd(), 2)?;
        process::close_on_exec_from(3)?;
        if let Some((uid, gid)) = crate::host::caller::behind_sudo() {
            process::become_user(uid, gid, &[])?;
        }
        let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        Ok(process::exec_path(command, &environment))
    };
    let text = match started() {
        Ok(errno) => nix::errno::Errno::from_raw(errno).desc().to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let _ = writeln!(&mut &*log, "cannot run {}: {text}", command[0].display());
    process::exit_now(127)
}
