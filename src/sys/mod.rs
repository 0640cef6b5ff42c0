//! The only room that talks to the kernel below the safe crates, and the only one with unsafe code.

pub mod error;
pub mod fs;
pub mod handle;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod net;
pub mod notify;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod statmount;
pub mod trampoline;
pub mod tty;
pub mod userns;
pub mod volume;
pub mod xattr;

pub use error::{SysError, SysResult};
