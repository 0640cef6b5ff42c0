//! Mirrors on the disk and on the network: what is in them, and a view of one by http.

pub mod artifact;
pub mod layout;
pub mod serve;
pub mod source;
pub mod synthesise;
