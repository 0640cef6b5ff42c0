//! dropcloth runs the steps of an image build inside a target root and lays things over it while they run.
//!
//! ```text
//! flags, YAML, DIB_* ─► settings ─┐
//! machine            ─► host     ─┼─► plan ─► sandbox ─► changes ─► commit | discard ─► report
//! target root        ─► image    ─┘              └──── transaction (lock, journal) ────┘
//! ```
//!
//! One room a word: `plan` and `pypi` are pure (no file system, no environment, no system call), `sys` is the only
//! room with unsafe code, `image` is the only door into the target root.
#![deny(unsafe_code)]

pub mod changes;
pub mod check;
pub mod cli;
pub mod error;
pub mod escape;
pub mod exit;
pub mod explain;
pub mod front;
pub mod host;
pub mod image;
pub mod mirror;
pub mod plan;
pub mod proxy;
pub mod pypi;
pub mod report;
pub mod sandbox;
pub mod server;
pub mod settings;
#[allow(unsafe_code)]
pub mod sys;
pub mod transaction;
