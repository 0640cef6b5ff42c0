//! Settings: defaults < file < environment < flags, each value with its origin.

pub mod allow;
pub mod check;
pub mod choice;
pub mod dib_env;
pub mod file;
pub mod flags;
pub mod layer;
pub mod locate;
pub mod nearest;
mod reader;
pub mod words;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Fault, Result, refuse};
pub use allow::Allow;
pub use choice::*;
pub use flags::Flags;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// dropcloth's own default.
    Default,
    /// A settings file, with the profile in it that set the value.
    File {
        /// The settings file.
        path: PathBuf,
        /// The profile, where it was one.
        profile: Option<String>,
    },
    /// An environment variable.
    Environment(String),
    /// A command-line flag, spelled with its dashes.
    Flag(String),
}

/// A value and its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Valued<T> {
    /// The value.
    pub value: T,
    /// Who set it.
    pub origin: Origin,
}

/// Everything the user can say about a run, merged.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Commit, discard or through.
    pub mode: Valued<Mode>,
    /// After a failed step.
    pub on_failure: Valued<OnFailure>,
    /// The local mirror directory, bound read-only at /tmp/pypi when it exists.
    pub mirror: Valued<PathBuf>,
    /// Mirror URLs in order; empty: `file:///tmp/pypi`.
    pub indexes: Valued<Vec<String>>,
    /// The official index (PEP 503 URL).
    pub official_index: Valued<String>,
    /// Whether the official index is added as an extra when online.
    pub use_official: Valued<bool>,
    /// A mirror server for the length of the run: `devpi`, `devpi=URL,…` or a command.
    pub serve: Valued<Option<String>>,
    /// The path of the index on a server that is a command.
    pub serve_path: Valued<Option<String>>,
    /// Where data of mirror servers is kept between runs.
    pub cache: PathBuf,
    /// No network index at all.
    pub offline: Valued<bool>,
    /// pip's `retries`.
    pub retries: Valued<Option<u32>>,
    /// pip's `timeout` in seconds.
    pub timeout: Valued<Option<u32>>,
    /// The step's network; `None`: chosen from `offline` and the indexes.
    pub network: Valued<Option<Network>>,
    /// Hosts that the proxy leads to, beside those of the indexes.
    pub allow: Valued<Vec<Allow>>,
    /// What is done about hosts that the step asked for and did not get; `None`: they are told where the network is `mirrors`.
    pub escape: Valued<Option<Escape>>,
    /// The resolver file.
    pub resolver: Valued<Resolver>,
    /// Files laid over.
    pub lay: Valued<Vec<Lay>>,
    /// Binds.
    pub bind: Valued<Vec<Bind>>,
    /// Caches.
    pub caches: Valued<Vec<Cache>>,
    /// The directory of this machine that they are kept in.
    pub cache_root: PathBuf,
    /// Fresh tmpfs mounts, absolute paths inside the image.
    pub tmpfs: Valued<Vec<PathBuf>>,
    /// Variables: name and value; no value: the caller's.
    pub env: Valued<Vec<(String, Option<String>)>>,
    /// Working directory inside the image.
    pub workdir: Valued<PathBuf>,
    /// `USER[:GROUP]`, names of the image or numbers.
    pub user: Valued<Option<String>>,
    /// The step's host name; `None`: the host's.
    pub hostname: Valued<Option<String>>,
    /// The step's /dev.
    pub dev: Valued<Dev>,
    /// Capabilities added to the default set, `CAP_` names.
    pub cap_add: Valued<Vec<String>>,
    /// Capabilities taken from the default set.
    pub cap_drop: Valued<Vec<String>>,
    /// Where transactions are kept; `None`: beside the image when possible.
    pub scratch: Valued<Option<PathBuf>>,
    /// Overlay or copy.
    pub backend: Valued<Backend>,
    /// Refuse a commit that cannot be exact.
    pub exact: Valued<bool>,
    /// Traces of the run in what would be committed.
    pub leaks: Valued<Leaks>,
    /// Commit also where the image was changed underneath.
    pub force: Valued<bool>,
    /// No committed entry is newer, seconds since 1970.
    pub source_date_epoch: Valued<Option<i64>>,
    /// chown(2) succeeds in the step and does nothing.
    pub suppress_chown: Valued<bool>,
    /// fsync(2) and its kin, in a step that writes straight to the image.
    pub fsync: Valued<Fsync>,
    /// Secrets of the step.
    pub secret: Valued<Vec<Secret>>,
    /// Where it is written what indexes served to the step.
    pub record: Valued<Option<PathBuf>>,
    /// JSON report file.
    pub report: Valued<Option<PathBuf>>,
    /// Seconds between the first INT/TERM passed on and SIGKILL.
    pub grace: Valued<u32>,
    /// Deprecations and surprises found while reading, one sentence each.
    pub notes: Vec<String>,
}

impl Settings {
    /// Whether the user asked for a mirror in any way (flag, variable or file setting, or offline); if not, a missing
    /// default mirror directory is no error. DIB_IMAGE_CACHE only says where caches are.
    pub fn mirror_asked_for(&self) -> bool {
        let cache = Origin::Environment("DIB_IMAGE_CACHE".to_owned());
        let origins = [&self.mirror.origin, &self.indexes.origin, &self.offline.origin];
        origins.into_iter().any(|origin| *origin != Origin::Default && *origin != cache)
    }
}

impl Settings {
    /// For whoever enters the image in a network that is not ours: no proxy of ours is there, and nobody watches.
    pub fn keep_network(&mut self) {
        if self.network.value == Some(Network::Mirrors) {
            self.network.value = Some(Network::Host);
            self.notes.push("--network mirrors is for `dropcloth run`; here the network stays as it is.".to_owned());
        }
        self.escape.value = None;
        self.allow.value.clear();
    }
}

/// The command to run in the image; empty: a shell.
pub type Command = Vec<OsString>;

/// The caller's environment, as data.
#[derive(Debug, Clone, Default)]
pub struct Environment(pub BTreeMap<OsString, OsString>);

impl Environment {
    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(OsStr::new(name)).filter(|v| !v.is_empty()).map(|v| v.to_string_lossy().into_owned())
    }
}

/// Which settings file was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'a> {
    /// `--config`.
    pub config: Option<&'a Path>,
    /// `--profile`.
    pub profile: Option<&'a str>,
}

/// The official index, PEP 503: the default of the setting `official_index`.
pub const OFFICIAL_INDEX: &str = "https://pypi.org/simple";

/// Where the links of the official index lead.
pub const OFFICIAL_FILES: &str = "https://files.pythonhosted.org/";

/// Seconds between a first INT or TERM and SIGKILL.
const GRACE: u32 = 10;

/// Reads the settings file and merges everything. All contradictions are told at once.
pub fn resolve(
    flags: &Flags,
    source: &Source<'_>,
    environment: &Environment,
    home: &Path,
    cwd: &Path,
) -> Result<Settings> {
    let mut faults = Vec::new();
    let mut settings = defaults(environment, home);
    for (layer, origin) in file::layers(source, environment, home, cwd, &mut faults)? {
        layer.apply(&mut settings, &|_| origin.clone());
    }
    let (layer, origins, notes) = dib_env::read(environment);
    settings.notes.extend(notes);
    layer.apply(&mut settings, &|field| Origin::Environment(origins.get(field).cloned().unwrap_or_default()));
    let layer = flags.layer(&mut faults);
    layer.apply(&mut settings, &|field| Origin::Flag(format!("--{}", flag_name(field))));
    settings.make_absolute(cwd);
    check::check(&settings, &mut faults);
    if faults.is_empty() {
        return Ok(settings);
    }
    let fault = Fault::new("these settings cannot be used");
    refuse(faults.into_iter().fold(fault, |fault, (what, hint)| {
        let fault = fault.because(what);
        if hint.is_empty() { fault } else { fault.hint(hint) }
    }))
}

fn flag_name(field: &str) -> String {
    match field {
        "indexes" => "index".to_owned(),
        "caches" => "cache".to_owned(),
        "use_official" => "no-official".to_owned(),
        other => other.replace('_', "-"),
    }
}

/// `$XDG_CACHE_HOME/dropcloth/caches`, XDG base directories.
fn cache_root(environment: &Environment, home: &Path) -> PathBuf {
    let caches = environment.get("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    caches.unwrap_or_else(|| home.join(".cache")).join("dropcloth/caches")
}

fn defaults(environment: &Environment, home: &Path) -> Settings {
    fn by_default<T>(value: T) -> Valued<T> {
        Valued { value, origin: Origin::Default }
    }
    Settings {
        mode: by_default(Mode::Commit),
        on_failure: by_default(OnFailure::Discard),
        mirror: by_default(dib_env::image_cache(environment, home).join("pypi/mirror")),
        indexes: by_default(Vec::new()),
        official_index: by_default(OFFICIAL_INDEX.to_owned()),
        use_official: by_default(true),
        serve: by_default(None),
        serve_path: by_default(None),
        cache: dib_env::image_cache(environment, home),
        offline: by_default(false),
        retries: by_default(None),
        timeout: by_default(None),
        network: by_default(None),
        allow: by_default(Vec::new()),
        escape: by_default(None),
        resolver: by_default(Resolver::Host),
        lay: by_default(Vec::new()),
        bind: by_default(Vec::new()),
        caches: by_default(Vec::new()),
        cache_root: cache_root(environment, home),
        tmpfs: by_default(Vec::new()),
        env: by_default(Vec::new()),
        workdir: by_default(PathBuf::from("/")),
        user: by_default(None),
        hostname: by_default(None),
        dev: by_default(Dev::Private),
        cap_add: by_default(Vec::new()),
        cap_drop: by_default(Vec::new()),
        scratch: by_default(None),
        backend: by_default(Backend::Auto),
        exact: by_default(false),
        leaks: by_default(Leaks::Warn),
        force: by_default(false),
        source_date_epoch: by_default(None),
        suppress_chown: by_default(false),
        fsync: by_default(Fsync::On),
        secret: by_default(Vec::new()),
        record: by_default(None),
        report: by_default(None),
        grace: by_default(GRACE),
        notes: Vec::new(),
    }
}

impl Settings {
    /// Host paths are relative to the working directory.
    fn make_absolute(&mut self, cwd: &Path) {
        let absolute = |path: &mut PathBuf| *path = cwd.join(&*path);
        absolute(&mut self.mirror.value);
        self.lay.value.iter_mut().for_each(|l| absolute(&mut l.source));
        self.bind.value.iter_mut().for_each(|b| absolute(&mut b.source));
        self.secret.value.iter_mut().for_each(|s| absolute(&mut s.source));
        self.scratch.value.iter_mut().for_each(absolute);
        self.record.value.iter_mut().for_each(absolute);
        if let Resolver::File(path) = &mut self.resolver.value {
            absolute(path);
        }
    }
}

/// A fault and what to do about it.
pub type Faults = Vec<(String, String)>;

#[cfg(test)]
mod tests {
    use super::flags::UsualFlags;
    use super::*;

    fn resolved(flags: Flags, environment: &[(&str, &str)]) -> Result<Settings> {
        let environment = environment.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let nowhere = Path::new("/nonexistent");
        resolve(&flags, &Source::default(), &Environment(environment), nowhere, nowhere)
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_says_so() {
        let mut flags = Flags::default();
        flags.usual.index = vec!["http://flag/simple".to_owned()];
        let settings = resolved(flags, &[("DIB_PYPI_MIRROR_URL", "http://env/simple")]).unwrap();
        assert_eq!(settings.indexes.value, ["http://flag/simple"]);
        assert_eq!(settings.indexes.origin, Origin::Flag("--index".to_owned()));
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let usual = UsualFlags {
            index: vec!["pypi.example/simple".to_owned(), "ftp://x/".to_owned()],
            lay: vec!["../../etc/passwd=x".to_owned(), "nothing".to_owned()],
            workdir: Some("relative".into()),
            ..UsualFlags::default()
        };
        let flags = Flags { usual, ..Flags::default() };
        let fault = Fault::from_error(resolved(flags, &[]).unwrap_err());
        assert_eq!(fault.because.len(), 5, "{:#?}", fault.because);
        assert!(fault.hints.iter().any(|h| h.contains("http://pypi.example/simple")));
    }

    #[test]
    fn faults_of_the_file_are_told_with_those_of_the_flags() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("dropcloth.yaml"), "retries: many\nindex: nothing\n").unwrap();
        let mut flags = Flags::default();
        flags.more.tmpfs = vec!["var".into()];
        let source = Source::default();
        let result = resolve(&flags, &source, &Environment::default(), Path::new("/nonexistent"), directory.path());
        let fault = Fault::from_error(result.unwrap_err());
        assert_eq!(fault.because.len(), 3, "{:#?}", fault.because);
        assert!(fault.because[0].contains("dropcloth.yaml:1:1: retries:"), "{:#?}", fault.because);
    }

    #[test]
    fn the_default_mirror_is_in_the_image_cache_of_the_caller() {
        let settings = resolved(Flags::default(), &[]).unwrap();
        assert_eq!(settings.mirror.value, Path::new("/nonexistent/.cache/image-create/pypi/mirror"));
        assert!(!settings.mirror_asked_for());
        let settings = resolved(Flags::default(), &[("DIB_IMAGE_CACHE", "/cache")]).unwrap();
        assert_eq!(settings.mirror.value, Path::new("/cache/pypi/mirror"));
        assert!(!settings.mirror_asked_for());
        assert!(resolved(Flags::default(), &[("DIB_OFFLINE", "1")]).unwrap().mirror_asked_for());
    }
}
