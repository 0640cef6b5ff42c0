//! `dropcloth-chroot`: chroot(8)'s interface, with the mirror and its configuration bound over the root while the command runs.
//!
//! For frameworks that call chroot themselves. Unlike `run` it is not a sandbox: environment, descriptors, umask, process and
//! session are the caller's, writes go straight to the root, and what the command leaves running goes on.
//!
//! ```text
//! parent: points made, waits, points removed ── fork ──► child: mounts of its own, chroot, credentials, exec
//! ```

pub mod credentials;
pub mod lay;
pub mod loops;
pub mod options;
pub mod points;
pub mod wrap;
