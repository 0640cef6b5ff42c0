//! Mirrors on the disk and on the network: what is in them, and a view of one by http.

pub mod artifact;
pub mod build;
mod client;
pub mod diff;
pub mod holds;
pub mod index;
pub mod layout;
pub mod parallel;
pub mod relay;
pub mod replace;
pub mod serve;
pub mod source;
pub mod synthesise;
pub mod verify;
