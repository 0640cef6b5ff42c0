//! Signals as data: blocked, and read from a signalfd(2).

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::error::{SysResult, check};

/// Signals that dropcloth passes on to the step.
pub const FORWARDED: [i32; 7] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// A set of blocked signals and the descriptor that reports them.
pub struct Signals {
    fd: OwnedFd,
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set; sigaddset then gets an initialised one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

impl Signals {
    /// Blocks `signals` for this process and makes a descriptor on which they arrive.
    pub fn block(signals: &[i32]) -> SysResult<Signals> {
        let set = set_of(signals);
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let result = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        check(result.into(), || "rt_sigprocmask(SIG_BLOCK)".to_owned())?;
        // SAFETY: `set` is initialised and only read.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        let fd = check(fd.into(), || "signalfd4()".to_owned())?;
        // SAFETY: the descriptor was just made for us.
        Ok(Signals { fd: unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) } })
    }

    /// The next signal that arrived, if any.
    pub fn next(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has exactly the size given; a full read initialises it, and only then is it used.
        unsafe {
            let read = libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size);
            (read == size.cast_signed()).then(|| info.assume_init().ssi_signo.cast_signed())
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Signal mask empty and every disposition as the kernel starts a program: what the step must find. Rust's runtime ignores
/// SIGPIPE, and a caller like nohup may have ignored others; the latter stay ignored, as chroot(1) leaves them.
pub fn reset_for_step() {
    let none = set_of(&[]);
    // SAFETY: an initialised set; SIG_DFL is a valid disposition for SIGPIPE.
    unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Ignores `signal` in this process.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Ends this process by `signal`, as its child ended: whoever waits sees that. Returns where the signal does not end it.
pub fn die_of(signal: i32) {
    reset_for_step();
    // SAFETY: SIG_DFL is a valid disposition; raise takes any number.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Whether the process gets `SIGPIPE` by default again: for the command line, so that `dropcloth list | head` ends quietly.
pub fn default_sigpipe() {
    // SAFETY: SIG_DFL is a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
