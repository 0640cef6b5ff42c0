//! What can be chosen: modes, and the things that are laid, bound, cached.

use std::path::PathBuf;

use serde::Serialize;

/// Where writes of the step go and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Into an overlay; into the image when the step succeeded.
    Commit,
    /// Into an overlay that is thrown away.
    Discard,
    /// Straight into the image, whatever becomes of the step.
    Through,
}

/// What becomes of a transaction whose step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Thrown away.
    Discard,
    /// Kept, to be looked at (`dropcloth changes`) and discarded by hand.
    Keep,
}

/// The step's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The host's network namespace.
    Host,
    /// An empty one with the loopback interface up.
    None,
    /// An empty one with a proxy in it, which leads to the configured indexes and to what is allowed.
    Mirrors,
}

/// What is done about hosts that the step asked for and did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Escape {
    /// Each is told.
    Warn,
    /// The same, and the run has failed.
    Fail,
}

/// The resolver file that the step sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolver {
    /// The host's /etc/resolv.conf laid over the image's.
    Host,
    /// The image's own.
    Image,
    /// A file of the host.
    File(PathBuf),
}

/// The step's /dev.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dev {
    /// A small private one.
    Private,
    /// The host's, bound; for bootloader steps.
    Host,
}

/// What becomes at commit of an override that the step changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenChanged {
    /// The step's version is dropped, with a warning.
    Drop,
    /// The step's version goes into the image.
    Keep,
    /// The step's version goes into the image only when it is a symbolic link (what package scripts do to
    /// /etc/resolv.conf); anything else is dropped.
    KeepSymlink,
    /// The commit is refused.
    Fail,
}

/// What a commit does about traces of the run in the files it would commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leaks {
    /// Each is told.
    Warn,
    /// The commit is refused.
    Fail,
    /// Nothing is searched.
    Off,
}

/// How the step is kept apart from the image until the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Overlay where it is exact, copy where it is not.
    Auto,
    /// An overlay over the image.
    Overlay,
    /// A copy of the whole image, exchanged with it at the end.
    Copy,
}

/// Whether what a step syncs reaches the disk at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// As the step asks.
    On,
    /// Its calls succeed at once and do nothing; everything is synced once at the end.
    Off,
}

/// A file of this machine that the step sees at `/run/secrets/ID` and nobody after it (`--secret ID=FILE`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// Its name.
    pub id: String,
    /// Host file.
    pub source: PathBuf,
}

/// A host file laid over a path of the image (`--lay PATH=FILE`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lay {
    /// Absolute path inside the image.
    pub path: PathBuf,
    /// Host file.
    pub source: PathBuf,
    /// What a change by the step does at commit.
    pub when_changed: WhenChanged,
}

/// How several runs use one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// All at once.
    Shared,
    /// One after the other.
    Locked,
    /// One has it; whoever comes meanwhile has another of his own.
    Private,
}

/// A directory of this machine that outlives the step and never gets into an image (`--cache`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// Its name; `pip`, `uv` and `apt` have places and settings of their own.
    pub name: String,
    /// Absolute path inside the image; none: where the program of that name has it.
    pub target: Option<PathBuf>,
    /// For several runs.
    pub sharing: Sharing,
}

/// A host directory or file bound into the step's view (`--bind SRC:DST[:ro|:rw]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bind {
    /// Host path.
    pub source: PathBuf,
    /// Absolute path inside the image.
    pub target: PathBuf,
    /// Read-only.
    pub read_only: bool,
}
