//! The arguments of `dropcloth mirror`.

use std::path::PathBuf;

use clap::Subcommand;

/// What is done with a mirror.
#[derive(Debug, Subcommand)]
pub enum MirrorVerb {
    /// Make any folder of wheels and source distributions an index, in place: files go into folders of their names, pages for
    /// pip and uv are written, by file and by http; a second time only what is new is read
    Index {
        /// The folder
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Serve a mirror by http until it is stopped
    Serve {
        /// The mirror
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Address and port; port 0: any free one
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3141")]
        listen: String,
    },
    /// Read a whole mirror and name what is broken, for which installer, and what mends it; 0: nothing is, 1: something is
    Verify {
        /// The mirror
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// A file of requirements that it should satisfy, dependencies and build requirements included
        #[arg(short = 'r', long = "requirement", value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
}

impl MirrorVerb {
    /// Whether a step is run in an image.
    pub fn needs_image(&self) -> bool {
        false
    }
}
