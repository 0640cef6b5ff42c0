//! What the sandbox's first process and the supervisor tell each other, over one socket.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Fault, Result};
use crate::image::{Identity, Inside};
use crate::sys::process::Ended;

/// From the sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// Everything is set up and the step runs, on a terminal whose master side comes with this.
    Running,
    /// Setting up failed, or the step could not be executed; nothing of the step ran.
    Failed(Fault),
    /// The step was stopped by job control.
    Stopped,
    /// The step ended, every other process is dead, and the overlay said nothing was lost (or what was).
    Ended {
        /// How.
        ended: Ended,
        /// An error of writing back the upper, if there was one.
        lost: Option<String>,
        /// Overrides in memory that the step wrote to.
        touched: Vec<Inside>,
        /// What watches the network did not live to the end.
        unwatched: bool,
        /// No other process is in its pid namespace, not even one that entered it from outside.
        alone: bool,
    },
}

/// To the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInit {
    /// The transaction that was promised is in this directory (its path in bytes).
    Place(Vec<u8>, Identity),
    /// Pass this signal to the step.
    Signal(i32),
    /// Kill it and everything it left.
    Kill,
}

/// Sends one message, with a descriptor if there is one.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    let bytes = serde_json::to_vec(message)?;
    crate::sys::socket::send(socket, &bytes, descriptor)
        .doing(|| "cannot send a message between the sandbox and its supervisor")
}

/// Receives one message; `None` when the other side is gone.
pub fn receive<T: for<'de> Deserialize<'de>>(socket: BorrowedFd<'_>) -> Result<Option<(T, Option<OwnedFd>)>> {
    let (bytes, descriptor) = crate::sys::socket::receive(socket)
        .doing(|| "cannot receive a message between the sandbox and its supervisor")?;
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes)?, descriptor)))
}
