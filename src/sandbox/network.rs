//! The empty network namespace: only the loopback interface, brought up.

use crate::error::{Doing, Result};

/// Brings `lo` up, netdevice(7). In a new network namespace it is down, and programs that talk to themselves would fail.
pub fn loopback_up() -> Result<()> {
    crate::sys::net::interface_up("lo").doing(|| "cannot bring up the loopback interface of the empty network")
}
