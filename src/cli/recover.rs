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
    let roots = match root {
        Some(root) => vec![root.to_owned()],
        None => {
            let mut images: Vec<_> =
                recover::list(&common::places(None, scratch), None)?.into_iter().map(|t| t.image).collect();
            images.sort();
            images.dedup();
            images
        }
    };
    let mut nothing = true;
    for root in roots {
        let image = Image::open(&root)?;
        transaction::lock_image(&image, Mode::Commit)?;
        for (path, what) in recover::recover(&common::places(Some(image.path()), scratch), &image)? {
            nothing = false;
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
            nothing = false;
            common::say(&format!("took the mount points of a killed command out of {}", root.display()));
        }
    }
    if nothing {
        common::say("nothing to recover");
    }
    Ok(0)
}
