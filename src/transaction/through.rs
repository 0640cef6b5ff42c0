//! A run that writes straight to the image keeps here only what it has to take out of the image again.

use std::os::fd::BorrowedFd;

use super::Transaction;
use super::points::{Journal, Points, Sync};
use crate::changes::laid;
use crate::error::{Doing, Result};
use crate::sys::fs;

/// Says that the step has ended and what it wrote into its overrides is whole.
pub const ENDED: &[u8] = b"ended";

impl Transaction {
    /// Where the lists of mount points are.
    pub fn journal(&self) -> Journal<'_> {
        let directory = self.directory();
        Journal { directory, sync: Sync::durable(directory, self.state.same_file_system) }
    }

    /// Marks the end of the step.
    pub fn ended(&self) -> Result<()> {
        match fs::create(self.directory(), ENDED, 0o600) {
            Err(error) if error.errno != libc::EEXIST => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Takes out of `root` what the run made there. Can be repeated after a crash at any point.
    pub fn clear(&mut self, root: BorrowedFd<'_>) -> Result<()> {
        let image = self.state.image.clone();
        self.clear_all(root)
            .doing(|| format!("cannot take what dropcloth made out of {}", image.display()))
            .hint(|| format!("Remove what stands against it, then run `dropcloth recover {}`.", image.display()))
    }

    fn clear_all(&mut self, root: BorrowedFd<'_>) -> Result<()> {
        if fs::stat(self.directory(), ENDED)?.is_some() {
            laid::keep(self, root)?;
        }
        let made = self.points.take().map_or_else(|| Points::load(self.directory()), |points| Ok(Some(points)))?;
        if let Some(points) = made {
            points.remove(root, Some(self.journal()))?;
        }
        // The list goes next: on another file system the disk could lose it before it has what the list stands for.
        if !self.state.same_file_system {
            fs::syncfs(root)?;
        }
        Ok(())
    }
}
