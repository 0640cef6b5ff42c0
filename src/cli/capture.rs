//! A step of dropcloth's own whose output is read: discarded, without a terminal, with memory files for 0, 1 and 2.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::common::Prepared;
use super::run;
use crate::error::{Doing, Result};
use crate::sandbox::{self, Outcome};
use crate::sys::process;
use crate::transaction;

/// More output than this is not read, bytes.
const LIMIT: u64 = 64 << 20;

/// What a captured step left.
pub struct Captured {
    /// Its end.
    pub outcome: Outcome,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// Runs the step of `prepared`, whose mode is discard, with `input` as its standard input.
pub fn step(prepared: &mut Prepared, input: &[u8]) -> Result<Captured> {
    prepared.read_inputs()?;
    prepared.plan.terminal = false;
    transaction::lock_image(&prepared.image, prepared.plan.mode)?;
    let signals = sandbox::hold_signals()?;
    let mut transaction = run::begin(prepared)?;
    let (mut stdin, stdout, stderr) = (memory()?, memory()?, memory()?);
    stdin.write_all(input)?;
    stdin.rewind()?;
    let redirected = Redirected::to([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    let outcome = run::step(prepared, transaction.as_mut(), signals);
    drop(redirected);
    if let Some(transaction) = transaction {
        transaction.remove()?;
    }
    Ok(Captured { outcome: outcome?, stdout: contents(stdout)?, stderr: contents(stderr)? })
}

fn memory() -> Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(File::from(rustix::fs::memfd_create("dropcloth-step", flags).doing(|| "cannot make a file in memory")?))
}

fn contents(mut file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The standard descriptors of this process, put back at the end.
struct Redirected(Vec<OwnedFd>);

impl Redirected {
    fn to(targets: [BorrowedFd<'_>; 3]) -> Result<Redirected> {
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let saved = own.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3));
        let redirected = Redirected(saved.into_iter().collect::<std::result::Result<_, _>>()?);
        for (number, target) in (0..).zip(targets) {
            process::become_standard(target, number)?;
        }
        Ok(redirected)
    }
}

impl Drop for Redirected {
    fn drop(&mut self) {
        for (number, saved) in (0..).zip(&self.0) {
            // A descriptor that was there a moment ago can be put back.
            let _ = process::become_standard(saved.as_fd(), number);
        }
    }
}
