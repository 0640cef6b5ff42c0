//! The warden: a child of pid 1 in the step's network. It has the rights to look at the step's processes, and no other.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::{Lines, names, who};
use crate::error::{Doing, Result};
use crate::escape::{Escape, How, cause, shortened};
use crate::image::account::Account;
use crate::plan::Plan;
use crate::proxy::serve::{self, Dialed, Doors};
use crate::proxy::{Answer, Ask};
use crate::sandbox::message::{receive, send};
use crate::sandbox::privileges;
use crate::settings::Allow;
use crate::settings::allow::canonical;
use crate::sys::process::{self, Forked};
use crate::sys::{notify, socket};

/// Attempts that are told; of a step that asks for more, the first.
const TOLD: usize = 1000;

/// What pid 1 keeps of it.
pub struct Warden {
    listeners: OwnedFd,
    pid: i32,
    /// It is gone: the step has the right to kill it.
    pub gone: bool,
}

/// What it listens on.
struct Ears {
    names: UdpSocket,
    proxy: Option<TcpListener>,
    listeners: OwnedFd,
}

impl Warden {
    /// Starts it, where the plan has one. Runs in pid 1, in the merged root and the step's network, which has one thread.
    pub fn start(plan: &Plan, lines: Option<Lines>) -> Result<Option<Warden>> {
        let (Some(watch), Some(lines)) = (&plan.watch, lines) else { return Ok(None) };
        let here = |what: &str| format!("cannot listen for {what} in the network of the step");
        let names = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).doing(|| here("look-ups of names"))?;
        let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).doing(|| here("clients of the proxy"));
        let proxy = watch.door.as_ref().map(|door| listen(door.port)).transpose()?;
        let admitted = watch.door.iter().flat_map(|door| door.admitted.clone()).collect();
        let (ours, theirs) = socket::pair()?;
        match process::fork()? {
            Forked::Parent { pid, .. } => Ok(Some(Warden { listeners: ours, pid, gone: false })),
            Forked::Child => {
                drop(ours);
                let ears = Ears { names, proxy, listeners: theirs };
                let code = if stand(lines, ears, admitted).is_ok() { 0 } else { 125 };
                process::exit_now(code)
            }
        }
    }

    /// A child of pid 1 has ended.
    pub fn ended(&mut self, pid: i32) {
        self.gone |= self.pid == pid;
    }

    /// Has the warden told of the connections of this process and its children. Runs in the step's process, while it has all
    /// rights of pid 1.
    pub fn watch_me(&self) -> Result<()> {
        match notify::tell_of_connections() {
            Ok(listener) => send(self.listeners.as_fd(), &(), Some(listener.as_fd())),
            Err(error) if error.errno == libc::EBUSY => {
                log::warn!(
                    "connections past the proxy are refused and not told: a filter of this machine has the place of ours"
                );
                Ok(())
            }
            Err(error) => Err(error).doing(|| "cannot have the connections of the step told"),
        }
    }
}

/// Child of pid 1.
fn stand(lines: Lines, ears: Ears, admitted: Vec<Allow>) -> Result<()> {
    let account = Account { uid: 0, gid: 0, groups: Vec::new(), home: "/".into(), name: None };
    privileges::lower(&account, &["CAP_SYS_PTRACE".to_owned(), "CAP_DAC_READ_SEARCH".to_owned()])?;
    let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let teller = Arc::new(Teller {
        records: lines.records,
        admitted,
        proxied: ears.proxy.is_some(),
        proc_is_ours: who::proc_is_ours(),
        seen: Mutex::default(),
    });
    let own = Arc::clone(&teller);
    std::thread::spawn(move || names::answer(&ears.names, &|name, port| own.name(name, &hostname, port)));
    if let (Some(listener), Some(asks)) = (ears.proxy, lines.asks) {
        let (own, known) = (Arc::clone(&teller), Arc::clone(&teller));
        let doors = Doors {
            dial: Box::new(move |ask| dial(asks.as_fd(), ask, &known.admitted)),
            refused: Box::new(move |from, ask| own.refused(from, ask)),
        };
        std::thread::spawn(move || serve::serve(&listener, doors));
    }
    while let Some(((), Some(listener))) = receive::<()>(ears.listeners.as_fd())? {
        let own = Arc::clone(&teller);
        std::thread::spawn(move || read_calls(&listener, &own));
    }
    Ok(())
}

/// Asks the door. The step's own loopback interface is here, for tools that send everything to the proxy; only where that of
/// this machine is admitted, the same name means that.
fn dial(asks: BorrowedFd<'_>, ask: &Ask, admitted: &[Allow]) -> Dialed {
    if is_loopback(&canonical(&ask.host)) && !admitted.iter().any(|allow| allow.admits(&ask.host, ask.port)) {
        let own = TcpStream::connect((Ipv4Addr::LOCALHOST, ask.port));
        return own.map_or(Dialed::Refused, |stream| Dialed::Open(stream, None));
    }
    let answer = || -> Result<Option<(Answer, Option<OwnedFd>)>> {
        let (ours, theirs) = socket::pair()?;
        send(asks, ask, Some(theirs.as_fd()))?;
        drop(theirs);
        receive::<Answer>(ours.as_fd())
    };
    match answer() {
        Ok(Some((Answer::Open { via }, Some(stream)))) => Dialed::Open(TcpStream::from(stream), via),
        Ok(Some((Answer::Refused, _))) => Dialed::Refused,
        Ok(Some((Answer::Failed(why), _))) => Dialed::Failed(why),
        Ok(_) => Dialed::Failed("the door is closed".to_owned()),
        Err(error) => Dialed::Failed(error.to_string()),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Tells of every connection, and lets it happen: what it leads to is not in this network, so the kernel refuses it at once.
fn read_calls(listener: &OwnedFd, teller: &Teller) {
    while let Ok(told) = notify::next(listener.as_fd()) {
        let Some(told) = told else { continue };
        if let Some(address) = notify::address(told) {
            teller.address(address, told.thread);
        }
        notify::go_on(listener.as_fd(), told);
    }
}

/// Host, port and process.
type Attempt = (String, Option<u16>, Option<i32>);

/// Where escapes go.
struct Teller {
    records: OwnedFd,
    admitted: Vec<Allow>,
    proxied: bool,
    proc_is_ours: bool,
    seen: Mutex<HashSet<Attempt>>,
}

impl Teller {
    fn refused(&self, from: SocketAddr, ask: &Ask) {
        let pid = self.find(|| who::of_port("tcp", from.port()));
        self.tell(canonical(&ask.host), Some(ask.port), How::Refused, pid);
    }

    fn name(&self, name: &str, hostname: &str, port: u16) {
        let host = names::host(name);
        if !names::is_own(host, hostname) {
            let pid = self.find(|| who::of_port("udp", port));
            self.tell(host.to_owned(), None, How::Name, pid);
        }
    }

    fn address(&self, address: SocketAddr, thread: i32) {
        let ip = address.ip().to_canonical();
        // Port 0 is no destination: programs find out their own address so.
        let own = ip.is_loopback() || ip.is_unspecified() || address.port() == 0;
        let multicast = ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        if !own && !multicast {
            let pid = self.find(|| who::of_thread(thread));
            self.tell(ip.to_string(), Some(address.port()), How::Address, pid);
        }
    }

    fn find(&self, look: impl FnOnce() -> Option<i32>) -> Option<i32> {
        // To look costs milliseconds, which a step that asks for thousands of hosts would have to wait for.
        let full = self.seen.lock().is_ok_and(|seen| seen.len() >= TOLD);
        if self.proc_is_ours && !full { look() } else { None }
    }

    fn tell(&self, host: String, port: Option<u16>, how: How, pid: Option<i32>) {
        if let Ok(mut seen) = self.seen.lock()
            && (seen.len() >= TOLD || !seen.insert((host.clone(), port, pid)))
        {
            return;
        }
        // A message holds 64 KiB, and every text here may be the step's.
        let host = shortened(&host, 255);
        let chain = pid.map(who::chain).unwrap_or_default();
        let past =
            self.proxied && how == How::Name && self.admitted.iter().any(|a| a.admits(&host, a.port.unwrap_or(443)));
        let cause = match past {
            true => "it is admitted, and asked for past the proxy that $https_proxy names".to_owned(),
            false => shortened(&cause::cause(&host, &chain, &who::read), 300),
        };
        let command = chain.into_iter().next().map(|process| process.command).unwrap_or_default();
        // The supervisor may be gone; then nobody asks.
        let _ = send(self.records.as_fd(), &Escape { host, port, how, pid, command, cause }, None);
    }
}
