//! Exit codes: those of chroot(1) and of the shell.

use serde::{Deserialize, Serialize};

/// Why dropcloth itself ends; the step's own status passes through untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// 123: the step ended well, and asked for a host that it must not have (`--escape fail`).
    Escaped,
    /// 125: dropcloth failed before, around or after the step.
    Dropcloth,
    /// 126: the command was found and cannot be executed.
    NotExecutable,
    /// 127: the command was not found in the image.
    NotFound,
}

impl Exit {
    /// The process exit status, see chroot(1), "Exit status".
    pub fn code(self) -> u8 {
        match self {
            Exit::Escaped => 123,
            Exit::Dropcloth => 125,
            Exit::NotExecutable => 126,
            Exit::NotFound => 127,
        }
    }
}
