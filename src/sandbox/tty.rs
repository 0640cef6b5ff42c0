//! The relay between the user's terminal and the step's: keys one way, output the other, and the window's size.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::termios::{self, SetArg, Termios};

use crate::error::{Doing, Result};
use crate::sys::tty;

/// A terminal in raw mode whose keys go to the step. Dropping it puts the terminal back.
pub struct Relay {
    master: OwnedFd,
    keyboard: std::io::Stdin,
    before: Termios,
    /// No more keys come: the user's side was closed.
    ended: bool,
}

impl Relay {
    /// Takes the user's terminal (standard input) and gives its size to the step's.
    pub fn start(master: OwnedFd) -> Result<Relay> {
        let keyboard = std::io::stdin();
        let before = termios::tcgetattr(&keyboard).doing(|| "cannot read the terminal's settings")?;
        let relay = Relay { master, keyboard, before, ended: false };
        relay.resize();
        relay.raw()?;
        Ok(relay)
    }

    fn raw(&self) -> Result<()> {
        let mut raw = self.before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&self.keyboard, SetArg::TCSADRAIN, &raw).doing(|| "cannot set the terminal to raw mode")
    }

    /// What to wait for: the step's output, then the keyboard.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let keyboard = (!self.ended).then(|| self.keyboard.as_fd());
        std::iter::once(self.master.as_fd()).chain(keyboard)
    }

    /// The window changed its size.
    pub fn resize(&self) {
        if let Some(size) = tty::size(self.keyboard.as_fd()) {
            tty::set_size(self.master.as_fd(), size);
        }
    }

    /// Copies what is there.
    pub fn pump(&mut self, keyboard: bool, screen: bool) {
        let mut buffer = [0_u8; 1 << 14];
        if keyboard {
            match rustix::io::read(&self.keyboard, &mut buffer[..]) {
                Ok(0) | Err(rustix::io::Errno::IO) => self.ended = true,
                Ok(length) => write_all(self.master.as_fd(), &buffer[..length]),
                Err(_) => {}
            }
        }
        if screen {
            // EIO: every slave is closed, the step's end follows.
            if let Ok(length) = rustix::io::read(&self.master, &mut buffer[..]) {
                write_all(self.screen(), &buffer[..length]);
            }
        }
    }

    /// Copies the last output after the step's end.
    pub fn drain(&mut self) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        loop {
            let mut wait = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut wait, PollTimeout::ZERO).is_ok_and(|n| n > 0);
            if !ready || !wait[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN)) {
                return;
            }
            self.pump(false, true);
        }
    }

    /// The user's terminal is the shell's again while the step is stopped.
    pub fn pause(&mut self) {
        self.restore();
    }

    /// The step goes on.
    pub fn resume(&mut self) -> Result<()> {
        self.resize();
        self.raw()
    }

    /// The user's terminal: standard output may be a file that the step writes to by itself.
    fn screen(&self) -> BorrowedFd<'_> {
        match [1, 2].into_iter().find(|number| tty::is_terminal(*number)) {
            Some(1) => rustix::stdio::stdout(),
            Some(_) => rustix::stdio::stderr(),
            None => self.keyboard.as_fd(),
        }
    }

    fn restore(&self) {
        let _ = termios::tcsetattr(&self.keyboard, SetArg::TCSADRAIN, &self.before);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.restore();
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
