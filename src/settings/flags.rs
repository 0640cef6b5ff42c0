//! The flags of `run`, `shell` and `plan`, raw as clap reads them, and what they say.

use std::path::PathBuf;

use super::allow;
use super::layer::Layer;
use super::{
    Backend, Bind, Cache, Dev, Escape, Faults, Fsync, Lay, Leaks, Mode, Network, OnFailure, Resolver, Secret, Sharing,
    WhenChanged,
};

/// Raw flags.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Those that most runs have no others than.
    #[command(flatten)]
    pub usual: UsualFlags,
    /// All others.
    #[command(flatten)]
    pub more: MoreFlags,
}

/// The flags that most runs have no others than.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct UsualFlags {
    /// What becomes of the step's writes: `commit` (into the image when it succeeds), `discard`, or `through` (straight to the
    /// image, also when it fails)
    #[arg(long, value_name = "MODE", value_parser = ["commit", "discard", "through"], hide_possible_values = true)]
    pub mode: Option<String>,
    /// Local PyPI mirror (PEP 503 tree), bound read-only at /tmp/pypi
    #[arg(long, value_name = "DIR", help_heading = "Python packages")]
    pub mirror: Option<PathBuf>,
    /// Mirror URL; several in order: the first is pip's index-url, the last the distutils index
    #[arg(long, value_name = "URL", help_heading = "Python packages")]
    pub index: Vec<String>,
    /// Mirrors only, no network index; an empty network when all mirrors are files
    #[arg(long, help_heading = "Python packages")]
    pub offline: bool,
    /// Lay a file of this machine over a path of the image
    #[arg(long, value_name = "PATH=FILE", help_heading = "What the step sees")]
    pub lay: Vec<String>,
    /// Bind a directory or file of this machine into the step's view
    #[arg(long, value_name = "SRC:DST[:ro]", help_heading = "What the step sees")]
    pub bind: Vec<String>,
    /// Set a variable of the step, or pass the caller's
    #[arg(short, long, value_name = "K[=V]", help_heading = "What the step sees")]
    pub env: Vec<String>,
    /// Working directory inside the image
    #[arg(short, long, value_name = "DIR", help_heading = "What the step sees")]
    pub workdir: Option<PathBuf>,
    /// User of the image, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "What the step sees")]
    pub user: Option<String>,
}

/// The others.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct MoreFlags {
    /// After a failed step: `discard` its writes, or `keep` its transaction to look at
    #[arg(long, value_name = "WHAT", value_parser = ["discard", "keep"])]
    pub on_failure: Option<String>,
    /// Start a mirror server for the length of the run and use it: `devpi`, `devpi=URL,…`, or a command of sh(1) that listens on
    /// 127.0.0.1:$PORT and keeps its data in $DATA
    #[arg(long, value_name = "WHAT", help_heading = "Python packages")]
    pub serve: Option<String>,
    /// The path of the index on a server that is a command (default: /simple/)
    #[arg(long, value_name = "PATH", help_heading = "Python packages")]
    pub serve_path: Option<String>,
    /// Do not add the official index as an extra
    #[arg(long, help_heading = "Python packages")]
    pub no_official: bool,
    /// The official index
    #[arg(long, value_name = "URL", help_heading = "Python packages")]
    pub official_index: Option<String>,
    /// pip's retries
    #[arg(long, value_name = "N", help_heading = "Python packages")]
    pub retries: Option<u32>,
    /// pip's timeout in seconds
    #[arg(long, value_name = "SECONDS", help_heading = "Python packages")]
    pub timeout: Option<u32>,
    /// Keep a directory of the step between runs, outside of every image: `pip`, `uv`, `apt`, or any other by a name and a path;
    /// `shared` by runs at the same time, `locked` for one at a time, or `private`
    #[arg(long, value_name = "pip|uv|apt|NAME=PATH[:SHARING]", help_heading = "What the step sees")]
    pub cache: Vec<String>,
    /// An empty tmpfs at a path of the image
    #[arg(long, value_name = "PATH", help_heading = "What the step sees")]
    pub tmpfs: Vec<PathBuf>,
    /// Host name of the step
    #[arg(long, value_name = "NAME", help_heading = "What the step sees")]
    pub hostname: Option<String>,
    /// `private`: a small /dev; `host`: this machine's, for bootloader steps
    #[arg(long, value_name = "WHICH", value_parser = ["private", "host"], help_heading = "What the step sees")]
    pub dev: Option<String>,
    /// `host`: this machine's network; `none`: an empty one; `mirrors`: an empty one with a proxy that leads to the indexes
    #[arg(long, value_name = "WHICH", value_parser = ["host", "none", "mirrors"], hide_possible_values = true, help_heading = "What the step sees")]
    pub network: Option<String>,
    /// With --network mirrors: a host that the proxy leads to as well; `*.NAME` for all below a name
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "What the step sees")]
    pub allow: Vec<String>,
    /// Hosts that the step asked for and did not get (--network none or mirrors): `warn`, or `fail` the run
    #[arg(long, value_name = "WHAT", value_parser = ["warn", "fail"], hide_possible_values = true, help_heading = "What the step sees")]
    pub escape: Option<String>,
    /// Resolver file: `host`, `image` or a file of this machine
    #[arg(long, value_name = "WHICH", help_heading = "What the step sees")]
    pub resolver: Option<String>,
    /// Add a capability to the step's
    #[arg(long, value_name = "CAP", help_heading = "What the step sees")]
    pub cap_add: Vec<String>,
    /// Take a capability from the step's, or `all`
    #[arg(long, value_name = "CAP", help_heading = "What the step sees")]
    pub cap_drop: Vec<String>,
    /// Keep the transaction in this directory instead of beside the image
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// `overlay`, `copy` (of the whole image, exchanged with it at the end), or `auto`: overlay where it is exact
    #[arg(long, value_name = "WHICH", value_parser = ["auto", "overlay", "copy"], help_heading = "Commit")]
    pub backend: Option<String>,
    /// What becomes of the commit, and of its files
    #[command(flatten)]
    pub commit: CommitFlags,
    /// chown succeeds in the step and does nothing: for a namespace of one id (--map single)
    #[arg(long, help_heading = "What the step sees")]
    pub suppress_chown: bool,
    /// With --mode through: `on`, or `off`: fsync and its kin succeed at once, and everything is synced once at the end
    #[arg(long, value_name = "WHICH", value_parser = ["on", "off"], hide_possible_values = true)]
    pub fsync: Option<String>,
    /// A file of this machine that the step sees at /run/secrets/ID, kept in memory and never committed
    #[arg(long, value_name = "ID=FILE", help_heading = "What the step sees")]
    pub secret: Vec<String>,
    /// Write what indexes and mirrors served to the step, a line of JSON each, for `dropcloth mirror build --from-record`
    #[arg(long, value_name = "FILE", help_heading = "Python packages")]
    pub record: Option<PathBuf>,
    /// Write a JSON report with every change
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Seconds between a first INT or TERM, passed on to the step, and SIGKILL
    #[arg(long, value_name = "SECONDS")]
    pub grace: Option<u32>,
}

/// The flags of whatever commits.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CommitFlags {
    /// Refuse to commit where the result is not to the last attribute what a plain chroot would have left
    #[arg(long, help_heading = "Commit")]
    pub exact: bool,
    /// Traces of the run (mirror, URLs with passwords, overrides, host paths, secrets) in what would be committed: `warn`,
    /// `fail`, or `off`
    #[arg(long, value_name = "WHAT", value_parser = ["warn", "fail", "off"], help_heading = "Commit")]
    pub leaks: Option<String>,
    /// Take the step's version where the image was changed by somebody else meanwhile
    #[arg(long, help_heading = "Commit")]
    pub force: bool,
    /// No committed file gets a newer time (seconds since 1970), and the step sees the variable; default: the caller's
    /// SOURCE_DATE_EPOCH
    #[arg(long, value_name = "SECONDS", help_heading = "Commit")]
    pub source_date_epoch: Option<i64>,
}

impl CommitFlags {
    /// What `--leaks` says.
    pub fn leaks(&self) -> Option<Leaks> {
        self.leaks.as_deref().map(|word| match word {
            "fail" => Leaks::Fail,
            "off" => Leaks::Off,
            _ => Leaks::Warn,
        })
    }
}

impl Flags {
    /// What the flags say; what cannot be read goes to `faults`.
    pub fn layer(&self, faults: &mut Faults) -> Layer {
        let (usual, more) = (&self.usual, &self.more);
        Layer {
            mode: usual.mode.as_deref().map(|word| match word {
                "discard" => Mode::Discard,
                "through" => Mode::Through,
                _ => Mode::Commit,
            }),
            on_failure: more
                .on_failure
                .as_deref()
                .map(|w| if w == "keep" { OnFailure::Keep } else { OnFailure::Discard }),
            mirror: usual.mirror.clone(),
            indexes: (!usual.index.is_empty()).then(|| usual.index.clone()),
            official_index: more.official_index.clone(),
            use_official: more.no_official.then_some(false),
            serve: more.serve.clone(),
            serve_path: more.serve_path.clone(),
            offline: usual.offline.then_some(true),
            retries: more.retries,
            timeout: more.timeout,
            network: more.network.as_deref().map(|word| {
                Some(match word {
                    "none" => Network::None,
                    "mirrors" => Network::Mirrors,
                    _ => Network::Host,
                })
            }),
            allow: more.allow.iter().filter_map(|text| keep(allow::parse(text), faults)).collect(),
            escape: more.escape.as_deref().map(|word| if word == "fail" { Escape::Fail } else { Escape::Warn }),
            resolver: more.resolver.as_deref().map(resolver),
            lay: usual.lay.iter().filter_map(|text| keep(lay(text), faults)).collect(),
            bind: usual.bind.iter().filter_map(|text| keep(bind(text), faults)).collect(),
            caches: more.cache.iter().filter_map(|text| keep(cache(text), faults)).collect(),
            tmpfs: more.tmpfs.clone(),
            env: usual.env.iter().filter_map(|text| keep(variable(text), faults)).collect(),
            workdir: usual.workdir.clone(),
            user: usual.user.clone(),
            hostname: more.hostname.clone(),
            dev: more.dev.as_deref().map(|d| if d == "host" { Dev::Host } else { Dev::Private }),
            cap_add: more.cap_add.clone(),
            cap_drop: more.cap_drop.clone(),
            scratch: more.scratch.clone(),
            backend: more.backend.as_deref().map(|word| match word {
                "overlay" => Backend::Overlay,
                "copy" => Backend::Copy,
                _ => Backend::Auto,
            }),
            exact: more.commit.exact.then_some(true),
            leaks: more.commit.leaks(),
            force: more.commit.force.then_some(true),
            source_date_epoch: more.commit.source_date_epoch,
            suppress_chown: more.suppress_chown.then_some(true),
            fsync: more.fsync.as_deref().map(|word| if word == "off" { Fsync::Off } else { Fsync::On }),
            secret: more.secret.iter().filter_map(|text| keep(secret(text), faults)).collect(),
            record: more.record.clone(),
            report: more.report.clone(),
            grace: more.grace,
        }
    }
}

fn keep<T>(read: Result<T, (String, String)>, faults: &mut Faults) -> Option<T> {
    read.map_err(|fault| faults.push(fault)).ok()
}

/// `host`, `image` or a file.
pub fn resolver(text: &str) -> Resolver {
    match text {
        "host" => Resolver::Host,
        "image" => Resolver::Image,
        file => Resolver::File(file.into()),
    }
}

/// `PATH=FILE`.
pub fn lay(text: &str) -> Result<Lay, (String, String)> {
    match text.split_once('=') {
        Some((path, source)) if !path.is_empty() && !source.is_empty() => {
            Ok(Lay { path: path.into(), source: source.into(), when_changed: WhenChanged::Drop })
        }
        _ => Err((
            format!("--lay {text} is not PATH=FILE"),
            "Write the path inside the image, =, and the file of this machine: --lay /etc/hosts=./hosts.".to_owned(),
        )),
    }
}

/// `SRC:DST[:ro|:rw]`.
pub fn bind(text: &str) -> Result<Bind, (String, String)> {
    let (rest, read_only) = match text.rsplit_once(':') {
        Some((rest, "ro")) => (rest, true),
        Some((rest, "rw")) => (rest, false),
        _ => (text, false),
    };
    match rest.split_once(':') {
        Some((source, target)) if !source.is_empty() && target.starts_with('/') => {
            Ok(Bind { source: source.into(), target: target.into(), read_only })
        }
        _ => Err((
            format!("--bind {text} is not SRC:DST[:ro]"),
            "Write a path of this machine, a colon and an absolute path inside the image: --bind ./cache:/var/cache/x:ro.".to_owned(),
        )),
    }
}

/// `pip`, `uv`, `apt` or `NAME=PATH`, and how it is shared.
pub fn cache(text: &str) -> Result<Cache, (String, String)> {
    let (rest, sharing) = match text.rsplit_once(':') {
        Some((rest, "shared")) => (rest, Some(Sharing::Shared)),
        Some((rest, "locked")) => (rest, Some(Sharing::Locked)),
        Some((rest, "private")) => (rest, Some(Sharing::Private)),
        _ => (text, None),
    };
    let (name, target) = rest.split_once('=').map_or((rest, None), |(name, path)| (name, Some(path)));
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let known = ["pip", "uv", "apt"].contains(&name) || target.is_some();
    // Not the dot: behind one stand the owner and the number of a private one.
    if name.is_empty() || !name.chars().all(plain) || !known || target.is_some_and(|path| !path.starts_with('/')) {
        return Err((
            format!("--cache {text} is not pip, uv, apt or NAME=PATH"),
            "Write a name of letters, digits, `_` and `-`, an =, and an absolute path inside the image: --cache npm=/root/.npm:locked.".to_owned(),
        ));
    }
    // apt locks its archives itself, and fails where it would have to wait.
    let own = if name == "apt" { Sharing::Locked } else { Sharing::Shared };
    Ok(Cache { name: name.to_owned(), target: target.map(PathBuf::from), sharing: sharing.unwrap_or(own) })
}

/// `ID=FILE`.
pub fn secret(text: &str) -> Result<Secret, (String, String)> {
    let plain = |id: &str| {
        !id.is_empty() && !id.starts_with('.') && id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    match text.split_once('=') {
        Some((id, source)) if plain(id) && !source.is_empty() => {
            Ok(Secret { id: id.to_owned(), source: source.into() })
        }
        _ => Err((
            format!("--secret {text} is not ID=FILE"),
            "Write a name of letters, digits, `.`, `_` and `-`, an =, and a file of this machine: --secret token=./token.".to_owned(),
        )),
    }
}

/// `K` or `K=V`.
pub fn variable(text: &str) -> Result<(String, Option<String>), (String, String)> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err((format!("--env {text} has no name"), "Write --env NAME=VALUE.".to_owned()));
    }
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_has_a_source_a_target_and_perhaps_an_access() {
        let table = [("a:/b", "a", "/b", false), ("/a:/b:ro", "/a", "/b", true), ("/a:/b:rw", "/a", "/b", false)];
        for (text, source, target, read_only) in table {
            assert_eq!(bind(text), Ok(Bind { source: source.into(), target: target.into(), read_only }), "{text}");
        }
        for text in ["/a", ":/b", "/a:b", "/a:ro"] {
            assert!(bind(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_cache_has_a_name_and_perhaps_a_path_and_a_sharing() {
        let table = [
            ("pip", "pip", None, Sharing::Shared),
            ("apt", "apt", None, Sharing::Locked),
            ("uv:private", "uv", None, Sharing::Private),
            ("npm=/root/.npm:locked", "npm", Some("/root/.npm"), Sharing::Locked),
            ("pip=/srv/pip", "pip", Some("/srv/pip"), Sharing::Shared),
        ];
        for (text, name, target, sharing) in table {
            let target = target.map(PathBuf::from);
            assert_eq!(cache(text), Ok(Cache { name: name.to_owned(), target, sharing }), "{text}");
        }
        for text in ["", "npm", "npm=relative", "a/b=/x", "..=/x", "=/x", "pip.1=/x"] {
            assert!(cache(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_variable_without_a_value_is_the_callers() {
        assert_eq!(variable("A"), Ok(("A".to_owned(), None)));
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), Some("b=c".to_owned()))));
        assert!(variable("=x").is_err());
    }
}
