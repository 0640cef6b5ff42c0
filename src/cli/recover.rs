//! `dropcloth recover`: finishes interrupted commits and removes what dead runs left.

use std::path::Path;

use super::args::Cli;
use super::common;
use crate::error::Result;
use crate::front::points::Points;
use crate::image::Image;
use crate::settings::Mode;
use crate::transaction::{self, recover};

/// Recovers the transactions of `root`, or those of every image that `list` shows here.
pub fn recover(_cli: &Cli, scratch: Option<&Path>, root: Option<&Path>) -> Result<u8> {
    let images = match root {
        Some(root) => vec![root.to_owned()],
        None => {
            let found = recover::list(&common::places(None, scratch), None)?.into_iter();
            let mut images: Vec<_> = found.filter(|t| t.status != recover::RUNNING).map(|t| t.image).collect();
            images.sort();
            images.dedup();
            images
        }
    };
    let mut nothing = true;
    for path in images {
        match recover_image(&path, scratch) {
            // Nobody has named this one.
            Err(error) if root.is_none() => log::warn!("left what is known of {}: {error:#}", path.display()),
            done => nothing &= !done?,
        }
    }
    common::tidy();
    if nothing {
        common::say("nothing to recover");
    }
    Ok(0)
}

/// Whether there was anything to do, which is told.
fn recover_image(path: &Path, scratch: Option<&Path>) -> Result<bool> {
    let image = Image::open(path)?;
    transaction::lock_image(&image, Mode::Commit)?;
    let mut something = false;
    for (path, what) in recover::recover(&common::places(Some(image.path()), scratch), &image)? {
        something = true;
        let text = match what {
            recover::Recovered::Finished => "finished the interrupted commit",
            recover::Recovered::Removed => "removed the uncommitted transaction",
            recover::Recovered::Cleared => "took out of the image what a killed run had made in it, and removed",
            recover::Recovered::Kept => "left the transaction that is kept or attached,",
            recover::Recovered::Busy => "left the running transaction",
        };
        common::say(&format!("{text} {}", path.display()));
    }
    if Points::recover(&common::state(), &image)? {
        something = true;
        common::say(&format!("took the mount points of a killed command out of {}", image.path().display()));
    }
    Ok(something)
}
