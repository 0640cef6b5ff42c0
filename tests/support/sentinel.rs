//! A private network in which every host of the world exists, answers on ports 80 and 443 with nothing, and is remembered.
#![allow(dead_code, missing_docs, clippy::disallowed_methods, reason = "each test target uses a part of this")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use nix::sched::{CloneFlags, unshare};

#[derive(Default)]
struct Seen {
    /// Addresses given to names.
    names: BTreeMap<Ipv4Addr, String>,
    /// Connections, by host and port.
    connections: Vec<String>,
}

/// What listens in the namespace.
#[derive(Clone, Default)]
pub struct Sentinel(Arc<Mutex<Seen>>);

impl Sentinel {
    /// Runs `body` in a thread with network and mounts of its own; programs that it starts are in there too.
    pub fn inside<T: Send>(body: impl FnOnce(&Sentinel) -> T + Send) -> T {
        let run = || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            tool("mount", &["--make-rprivate", "/"]);
            tool("ip", &["link", "set", "lo", "up"]);
            // Every address is this machine's own.
            tool("ip", &["route", "add", "local", "0.0.0.0/0", "dev", "lo"]);
            let sentinel = Sentinel::default();
            sentinel.listen();
            body(&sentinel)
        };
        std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn listen(&self) {
        let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
        let own = self.clone();
        std::thread::spawn(move || own.answer_names(&socket));
        for port in [80, 443] {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            let own = self.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    own.remember(&stream, port);
                }
            });
        }
    }

    fn remember(&self, stream: &std::net::TcpStream, port: u16) {
        let Ok(std::net::SocketAddr::V4(address)) = stream.local_addr() else { return };
        let mut seen = self.0.lock().unwrap();
        let name = seen.names.get(address.ip()).cloned().unwrap_or_else(|| address.ip().to_string());
        seen.connections.push(format!("{name}:{port}"));
    }

    /// A resolver: each name gets an address of its own (RFC 1035). There is no IPv6.
    fn answer_names(&self, socket: &UdpSocket) {
        let mut question = [0_u8; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            if let Some(answer) = self.answer(&question[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (mut at, mut labels) = (12, Vec::new());
        while *question.get(at)? != 0 {
            let length = usize::from(question[at]);
            labels.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).into_owned());
            at += 1 + length;
        }
        let end = at + 5;
        let kind = u16::from_be_bytes([*question.get(at + 1)?, *question.get(at + 2)?]);
        let mut answer = question.get(..2)?.to_vec();
        let count = u16::from(kind == 1);
        answer.extend([0x81, 0x80, 0, 1]);
        answer.extend(count.to_be_bytes());
        answer.extend([0, 0, 0, 0]);
        answer.extend(question.get(12..end)?);
        if count == 1 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(self.address_of(&labels.join(".")).octets());
        }
        Some(answer)
    }

    fn address_of(&self, name: &str) -> Ipv4Addr {
        let mut seen = self.0.lock().unwrap();
        if let Some((address, _)) = seen.names.iter().find(|(_, known)| *known == name) {
            return *address;
        }
        let number = u32::try_from(seen.names.len()).unwrap() + 1;
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
        seen.names.insert(address, name.to_owned());
        address
    }

    /// Connections since the last time, each host once.
    pub fn take(&self) -> Vec<String> {
        let mut seen = std::mem::take(&mut self.0.lock().unwrap().connections);
        seen.sort();
        seen.dedup();
        seen
    }
}

fn tool(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A root with files of its own over another that stays as it is. Unmounted when dropped.
pub struct Layered {
    directory: tempfile::TempDir,
}

impl Layered {
    pub fn over(root: &Path, files: &[(&str, &str)]) -> Layered {
        let directory = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "root", "scratch"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        for (path, text) in files {
            let path = directory.path().join("upper").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let options = format!("lowerdir={},upperdir={},workdir={}", root.display(), at("upper"), at("work"));
        tool("mount", &["-t", "overlay", "overlay", "-o", &options, &at("root")]);
        Layered { directory }
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Layered {
    fn drop(&mut self) {
        // A panic may come with the mount busy; what is below it is not to be deleted through it then.
        let done = Command::new("umount").arg(self.path("root")).status().is_ok_and(|status| status.success());
        if !done && !std::thread::panicking() {
            panic!("{} is still mounted", self.path("root"));
        }
    }
}
