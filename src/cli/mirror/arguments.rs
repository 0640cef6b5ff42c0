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
    #[arg(long = "for", value_name = "ROOT", required_unless_present = "from_record")]
    pub root: Option<PathBuf>,
    /// Requirements, as for pip
    #[arg(value_name = "REQUIREMENT")]
    pub requirements: Vec<String>,
    /// A file of requirements of this machine
    #[arg(short = 'r', long = "requirement", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A lock file: uv.lock, pylock.toml, poetry.lock, pdm.lock
    #[arg(long = "lock", value_name = "FILE")]
    pub locks: Vec<PathBuf>,
    /// Exactly the files that a step got, as `dropcloth run --record FILE` wrote them down; no image is needed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root", "requirements", "files", "locks", "as_of"])]
    pub from_record: Option<PathBuf>,
    /// The mirror: a new directory, or one that was built for the same requirements (default: the mirror of `dropcloth run`)
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// Only files that were uploaded until then: a day in UTC, or a time as RFC 3339 has it; for indexes that give times of upload
    #[arg(long, value_name = "DATE")]
    pub as_of: Option<String>,
    /// Remove what earlier builds brought and these requirements do not need; `--prune=all`: every other file, too
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "built")]
    #[arg(value_parser = ["built", "all"], hide_possible_values = true)]
    pub prune: Option<String>,
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
