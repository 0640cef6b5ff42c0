//! The arguments of `dropcloth mirror`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::settings::Flags;

/// What is done with a mirror.
#[derive(Debug, Subcommand)]
pub enum MirrorVerb {
    /// Download what an image would install, with its own pip, build requirements of sources included, and index it; again:
    /// only what is missing
    Build(Box<BuildArguments>),
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
    /// Compare two mirrors: files that only one has, other contents by the same name, newest versions and yanked markers; 0: they
    /// hold the same, 1: they do not
    Diff {
        /// The first mirror
        #[arg(value_name = "A")]
        a: PathBuf,
        /// The second
        #[arg(value_name = "B")]
        b: PathBuf,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
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

/// What a mirror is built for.
#[derive(Debug, Args)]
pub struct BuildArguments {
    /// As for `run`: from which indexes, by which proxy.
    #[command(flatten)]
    pub flags: Flags,
    /// The image whose Python it is for
    #[arg(long = "for", value_name = "ROOT")]
    pub root: PathBuf,
    /// Requirements, as for pip
    #[arg(value_name = "REQUIREMENT")]
    pub requirements: Vec<String>,
    /// A file of requirements of this machine
    #[arg(short = 'r', long = "requirement", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A lock file: uv.lock, pylock.toml, poetry.lock, pdm.lock
    #[arg(long = "lock", value_name = "FILE")]
    pub locks: Vec<PathBuf>,
    /// The mirror: a new directory, or one that was built for the same requirements
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// Add to a mirror that has other files too
    #[arg(long)]
    pub add: bool,
    /// The Python of the image that downloads
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    pub python: String,
}

impl MirrorVerb {
    /// Whether a step is run in an image.
    pub fn needs_image(&self) -> bool {
        matches!(self, MirrorVerb::Build(_))
    }
}
