//! A fault: what dropcloth was doing, why it failed, and what to do next.

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::sys::SysError;

/// Every fallible function of the crate returns this; a [`Fault`] travels inside as the error.
pub type Result<T> = anyhow::Result<T>;

/// An error for people: one line of what was being done, the chain of causes, hints with the next step in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What dropcloth was doing, in the user's words, lower case, no full stop.
    pub doing: String,
    /// The causes, outermost first.
    pub because: Vec<String>,
    /// The kernel's own text (the fs context log of fsopen(2)), if it said anything.
    pub kernel: Option<String>,
    /// Full sentences, each naming a command, flag or file.
    pub hints: Vec<String>,
    /// The system call and error number at the bottom of the chain, for [`crate::explain`].
    pub call: Option<(String, i32)>,
    /// The exit status.
    pub exit: Exit,
}

impl Fault {
    /// A fault of dropcloth's own (exit 125) with nothing beneath it.
    pub fn new(doing: impl Into<String>) -> Fault {
        Fault {
            doing: doing.into(),
            because: Vec::new(),
            kernel: None,
            hints: Vec::new(),
            call: None,
            exit: Exit::Dropcloth,
        }
    }

    /// Adds a cause.
    pub fn because(mut self, cause: impl Into<String>) -> Fault {
        self.because.push(cause.into());
        self
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hints.push(hint.into());
        self
    }

    /// Sets the exit status.
    pub fn exit(mut self, exit: Exit) -> Fault {
        self.exit = exit;
        self
    }

    /// Any error as a fault: one that is a fault already stays as it is.
    pub fn from_error(error: anyhow::Error) -> Fault {
        match error.downcast::<Fault>() {
            Ok(fault) => fault,
            Err(error) => {
                let mut chain = error.chain().map(|cause| cause.to_string());
                let mut fault = Fault::new(chain.next().unwrap_or_default());
                fault.because = chain.collect();
                if let Some(sys) = error.chain().find_map(|cause| cause.downcast_ref::<SysError>()) {
                    fault.call = Some((sys.call_name().to_owned(), sys.errno));
                    fault.kernel = sys.kernel.clone();
                } else if let Some(errno) = error.chain().find_map(errno_of_std) {
                    // std does not say which call it was.
                    fault.call = Some((String::new(), errno));
                }
                fault
            }
        }
    }

    /// The error number at the bottom of an error, if a system call is there.
    pub fn errno(error: &anyhow::Error) -> Option<i32> {
        match error.downcast_ref::<Fault>() {
            Some(fault) => fault.call.as_ref().map(|(_, errno)| *errno),
            None => error.chain().find_map(|cause| cause.downcast_ref::<SysError>()).map(|sys| sys.errno),
        }
    }

    fn under(mut self, doing: String) -> Fault {
        let inner = std::mem::replace(&mut self.doing, doing);
        self.because.insert(0, inner);
        self
    }
}

fn errno_of_std(cause: &(dyn std::error::Error + 'static)) -> Option<i32> {
    cause.downcast_ref::<std::io::Error>()?.raw_os_error()
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.doing)?;
        self.because.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Fault {}

/// Says what was being done when a call failed, and what to do about it.
pub trait Doing<T> {
    /// Names the action around the error.
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
    /// Adds a hint to the error.
    fn hint<S: Into<String>>(self, hint: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Fault::from_error(error.into()).under(what().into()).into())
    }

    fn hint<S: Into<String>>(self, hint: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Fault::from_error(error.into()).hint(hint()).into())
    }
}

/// Ends a function with a fault of dropcloth's own.
pub fn refuse<T>(fault: Fault) -> Result<T> {
    Err(fault.into())
}
