//! The local mirror by http on the loopback interface, for tools that read no `file://`.
//!
//! A run that nobody asks anything costs one socket: the server is forked from pid 1 when the first client comes, and dies with
//! the pid namespace.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, ResolveFlags};

use super::privileges;
use crate::error::Result;
use crate::image::account::Account;
use crate::mirror::{relay, serve};
use crate::plan::{Mount, Plan};
use crate::sys::process::{self, Forked};
use crate::sys::{fs, socket};

/// Gives the view of the indexes, which stands outside, a listener in this network namespace. Runs in pid 1.
pub fn send_listener(relay: BorrowedFd<'_>) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, relay::OWN_PORT))?;
    Ok(socket::send(relay, b"listener", Some(listener.as_fd()))?)
}

/// The socket, and the server once there is one.
pub struct View {
    listener: TcpListener,
    mirror: OwnedFd,
    server: Option<i32>,
}

impl View {
    /// Listens, when the plan has a view. Runs in pid 1, in the merged root.
    pub fn open(plan: &Plan) -> Result<Option<View>> {
        let Some(port) = plan.python.as_ref().and_then(|python| python.view) else { return Ok(None) };
        let Some(at) = plan.mounts.iter().find(|m| matches!(m.mount, Mount::Mirror { .. })) else { return Ok(None) };
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => listener,
            Err(error) => {
                log::warn!("there is no view of the mirror by http: port {port} of the loopback interface: {error}");
                return Ok(None);
            }
        };
        let root = fs::open_dir(rustix::fs::CWD, b"/")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mirror = fs::openat2(root.as_fd(), at.at.bytes(), flags, ResolveFlags::IN_ROOT)?;
        Ok(Some(View { listener, mirror, server: None }))
    }

    /// The port.
    pub fn port(&self) -> Option<u16> {
        self.listener.local_addr().ok().map(|address| address.port())
    }

    /// What to poll for a first client.
    pub fn waiting(&self) -> Option<BorrowedFd<'_>> {
        self.server.is_none().then(|| self.listener.as_fd())
    }

    /// A client is there.
    pub fn start(&mut self) -> Result<()> {
        match process::fork()? {
            Forked::Parent { pid, .. } => self.server = Some(pid),
            Forked::Child => {
                let code = if self.serve().is_ok() { 0 } else { 125 };
                process::exit_now(code)
            }
        }
        Ok(())
    }

    /// Child of pid 1: root's, since the mirror may be readable for its owner only, with one right and no other.
    fn serve(&self) -> Result<()> {
        let account = Account { uid: 0, gid: 0, groups: Vec::new(), home: "/".into(), name: None };
        privileges::lower(&account, &["CAP_DAC_READ_SEARCH".to_owned()])?;
        let (listener, mirror) = (self.listener.try_clone()?, self.mirror.try_clone()?);
        serve::serve(listener, mirror)
    }

    /// A child of pid 1 has ended: another server is started for the next client.
    pub fn ended(&mut self, pid: i32) {
        if self.server == Some(pid) {
            self.server = None;
        }
    }
}
