//! A failed system call, shown as strace would show it.

/// A system call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysError {
    /// The call with its arguments, as strace(1) prints it.
    pub call: String,
    /// errno(3).
    pub errno: i32,
    /// What the kernel said besides (the log of an fsopen(2) context).
    pub kernel: Option<String>,
}

impl SysError {
    /// An error of `call`.
    pub fn new(call: impl Into<String>, errno: i32) -> SysError {
        SysError { call: call.into(), errno, kernel: None }
    }

    /// The bare name of the call: what stands before the first parenthesis.
    pub fn call_name(&self) -> &str {
        self.call.split('(').next().unwrap_or(&self.call)
    }
}

impl std::fmt::Display for SysError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errno = nix::errno::Errno::from_raw(self.errno);
        write!(f, "{}: {errno:?}, {}", self.call, errno.desc().to_lowercase())
    }
}

impl std::error::Error for SysError {}

/// What every wrapper of this room returns.
pub type SysResult<T> = Result<T, SysError>;

/// Gives a failed rustix call its strace form; the text is only made on failure.
pub(crate) trait Called<T> {
    fn called<S: Into<String>>(self, call: impl FnOnce() -> S) -> SysResult<T>;
}

impl<T> Called<T> for rustix::io::Result<T> {
    fn called<S: Into<String>>(self, call: impl FnOnce() -> S) -> SysResult<T> {
        self.map_err(|errno| SysError::new(call(), errno.raw_os_error()))
    }
}

impl<T> Called<T> for nix::Result<T> {
    fn called<S: Into<String>>(self, call: impl FnOnce() -> S) -> SysResult<T> {
        self.map_err(|errno| SysError::new(call(), errno as i32))
    }
}

impl<T> Called<T> for std::io::Result<T> {
    fn called<S: Into<String>>(self, call: impl FnOnce() -> S) -> SysResult<T> {
        self.map_err(|error| SysError::new(call(), error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// The result of a raw libc call that returns -1 and sets errno.
pub(crate) fn check(value: libc::c_long, call: impl FnOnce() -> String) -> SysResult<libc::c_long> {
    if value == -1 {
        Err(SysError::new(call(), std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
    } else {
        Ok(value)
    }
}

/// Bytes as they stand in an error message: quoted, escaped where they are odd.
pub fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}
