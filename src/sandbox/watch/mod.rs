//! What watches a network of the step's own. Outside it is the door ([`outer`]), which opens connections; inside it is the
//! warden ([`warden`]), a process beside the step: the proxy, a resolver that knows nobody, and the reader of connect(2) calls.
//!
//! Escapes are told to the supervisor over one socket, each before whoever tried has his answer.

pub mod names;
pub mod outer;
pub mod warden;
pub mod who;

use std::os::fd::OwnedFd;

/// The ends of sockets that go into the sandbox.
#[derive(Debug)]
pub struct Lines {
    /// Takes escapes to the supervisor.
    pub records: OwnedFd,
    /// Takes questions to the door, where there is one.
    pub asks: Option<OwnedFd>,
}
