//! What several verbs begin with: settings, host, image.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::args::{Cli, RunArguments};
use crate::changes::leaks::Needle;
use crate::error::{Doing, Fault, Result, refuse};
use crate::host::Host;
use crate::host::caller::Caller;
use crate::image::Image;
use crate::image::inside::Directories;
use crate::image::survey::Survey;
use crate::mirror::layout::{self, Arrangement};
use crate::mirror::relay::Relay;
use crate::mirror::relay::record::without_credentials;
use crate::mirror::synthesise::{self, Pages};
use crate::plan::{self, Plan};
use crate::pypi::{self, Indexes};
use crate::sandbox::{Inputs, caches, relay, secrets};
use crate::server::{Running, Server};
use crate::settings::{self, Backend, Environment, Flags, Network, Settings, Valued};
use crate::sys::userns;
use crate::transaction::{self, Transaction, recover};

/// Everything up to the plan.
pub struct Prepared {
    /// The merged settings.
    pub settings: Settings,
    /// The machine.
    pub host: Host,
    /// The image, open.
    pub image: Image,
    /// Its directories that the survey went through, until the sandbox takes them.
    pub directories: Cell<Directories>,
    /// What will be done.
    pub plan: Plan,
    /// What the step gets from this machine, once it is read.
    pub inputs: Inputs,
    /// The caches of the plan, held once the inputs are read.
    pub caches: caches::Held,
    /// The view that `--record` needs, at work once the inputs are read.
    pub relay: (Option<Relay>, Option<relay::Running>),
    /// The server of `--serve`, at work once the inputs are read.
    pub server: (Option<Server>, Option<Running>),
}

/// The home directory of whoever called, through sudo too: that is whose mirror is meant.
pub fn home(environment: &BTreeMap<OsString, OsString>) -> PathBuf {
    let variable = |name: &str| environment.get(std::ffi::OsStr::new(name)).filter(|v| !v.is_empty());
    if Caller::get().uid == 0
        && let Some(user) = variable("SUDO_USER").and_then(|u| u.to_str()).filter(|u| *u != "root")
        && let Ok(Some(user)) = nix::unistd::User::from_name(user)
    {
        return user.dir;
    }
    variable("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}

/// Reads settings, host and image, and makes the plan. Nothing is changed.
pub fn prepare(cli: &Cli, arguments: &RunArguments) -> Result<Prepared> {
    let root = arguments.root.as_deref().unwrap_or(Path::new("."));
    prepare_in(cli, &arguments.flags, root, &arguments.command)
}

/// The merged settings.
pub fn settings(cli: &Cli, flags: &Flags) -> Result<Settings> {
    settings_in(cli, flags, &Environment(std::env::vars_os().collect()), &working_directory()?)
}

fn settings_in(cli: &Cli, flags: &Flags, environment: &Environment, cwd: &Path) -> Result<Settings> {
    let home = home(&environment.0);
    let source = settings::Source { config: cli.global.config.as_deref(), profile: cli.global.profile.as_deref() };
    settings::resolve(flags, &source, environment, &home, cwd)
}

fn working_directory() -> Result<PathBuf> {
    std::env::current_dir().doing(|| "cannot tell the working directory")
}

/// The same with the parts of the arguments.
pub fn prepare_in(cli: &Cli, flags: &Flags, root: &Path, command: &[OsString]) -> Result<Prepared> {
    prepare_with(cli, flags, root, command, &|_| ())
}

/// The same for those who enter the image without us.
pub fn prepare_to_lay(cli: &Cli, flags: &Flags, root: &Path, command: &[OsString]) -> Result<Prepared> {
    prepare_with(cli, flags, root, command, &Settings::keep_network)
}

fn prepare_with(
    cli: &Cli,
    flags: &Flags,
    root: &Path,
    command: &[OsString],
    change: &dyn Fn(&mut Settings),
) -> Result<Prepared> {
    let cwd = working_directory()?;
    let environment = Environment(std::env::vars_os().collect());
    let mut settings = settings_in(cli, flags, &environment, &cwd)?;
    change(&mut settings);
    let server = with_server(&mut settings)?;
    let relay = recorded(&mut settings)?;
    let image = Image::open(root)?;
    let host = Host::look(&settings, &cwd, environment.0);
    let user = settings.user.value.clone();
    let hints = plan::hints(&settings, command);
    let (survey, directories) =
        Survey::take(&image, host.caller.maps.as_ref(), user.as_deref(), &hints, |account, pythons| {
            plan::wanted(&settings, account, pythons)
        })?;
    let plan = plan::build(&settings, &host, &survey, command)?;
    let image = with_own_mounts(image, &host, &plan)?;
    Ok(Prepared {
        settings,
        host,
        image,
        directories: Cell::new(directories),
        plan,
        inputs: Inputs::default(),
        caches: Vec::new(),
        relay: (relay, None),
        server: (server, None),
    })
}

/// Who copies an image binds it once, to see what lies below other mounts. An ordinary user may do that in a mount namespace of
/// his own only; what is open was opened in the other, and nothing is renamed from one to the other.
fn with_own_mounts(image: Image, host: &Host, plan: &Plan) -> Result<Image> {
    if host.caller.maps.is_none() || plan.backend != Some(Backend::Copy) {
        return Ok(image);
    }
    userns::unshare_mounts().doing(|| "cannot make a mount namespace")?;
    Image::reopen(image.path(), image.identity())
}

/// pip's timeout in seconds for a server that needs long for its first answer; pip's own is 15.
const SLOW_TIMEOUT: u32 = 100;

/// The server of `--serve`, its indexes behind those that the settings name. One that has all of the official index is asked in
/// its place.
pub fn with_server(settings: &mut Settings) -> Result<Option<Server>> {
    let Some(wish) = &settings.serve.value else { return Ok(None) };
    let server = Server::new(wish, settings.serve_path.value.as_deref(), &settings.cache, settings.offline.value)?;
    settings.indexes.value.extend(server.urls());
    settings.indexes.origin = settings.serve.origin.clone();
    // The first request for a page makes devpi-server read the names of all projects.
    if settings.timeout.value.is_none() && server.is_slow_at_first() {
        settings.timeout = Valued { value: Some(SLOW_TIMEOUT), origin: settings.serve.origin.clone() };
    }
    if server.is_official() {
        settings.use_official = Valued { value: false, origin: settings.serve.origin.clone() };
    }
    Ok(Some(server))
}

/// The view that `--record` needs, with the settings led to it. `None` also where there is no mirror though one was asked for:
/// the plan says that.
fn recorded(settings: &mut Settings) -> Result<Option<Relay>> {
    let Some(record) = settings.record.value.clone() else { return Ok(None) };
    let layout = layout::look(&settings.mirror.value);
    let listed = &settings.indexes.value;
    if layout.is_none() && (listed.is_empty() || listed.iter().any(|url| pypi::is_local(url))) {
        if settings.mirror_asked_for() {
            return Ok(None);
        }
        settings.indexes.value = vec![settings.official_index.value.clone()];
        settings.notes.push("No mirror: the record is of the official index.".to_owned());
    }
    let tree = layout.as_ref().map(|layout| match &layout.arrangement {
        Arrangement::Nested(below) => below.as_path(),
        _ => Path::new(""),
    });
    let indexes = Indexes::from(settings, tree);
    let offline = settings.offline.value && !indexes.needs_network();
    let network = settings.network.value.or(offline.then_some(Network::None));
    let urls: Vec<String> = indexes.iter().map(|index| index.url.clone()).collect();
    let mirror = layout.is_some().then(|| settings.mirror.value.clone());
    if let Some(url) = urls.iter().find(|url| url.starts_with("file:") && !pypi::is_local(url)) {
        return refuse(
            Fault::new(format!("the index {url} is in the image, where nothing can record what it serves"))
                .hint("Leave --record out, or name the directory with --mirror DIR."),
        );
    }
    let mut relay = Relay::new(urls, network == Some(Network::None))?;
    relay.pages = match (&mirror, &layout) {
        (Some(mirror), Some(layout)) if layout.lacks_pages() => synthesise::missing(mirror, layout)?,
        _ => Pages::new(),
    };
    relay.mirror = mirror;
    relay.record = Some(record);
    let (mut official, mut mirrors) = (None, Vec::new());
    for (url, index) in relay.urls().into_iter().zip(indexes.iter()) {
        if index.official { official = Some(url) } else { mirrors.push(url) }
    }
    for (url, index) in relay.urls().iter().zip(&relay.indexes) {
        let index = without_credentials(index);
        settings
            .notes
            .push(format!("--record: the step asks {url}, which passes on and writes down what {index} serves."));
    }
    settings.indexes.value = mirrors;
    settings.use_official.value = official.is_some();
    settings.official_index.value = official.unwrap_or_default();
    settings.network.value = network;
    Ok(Some(relay))
}

impl Prepared {
    /// Reads the secrets, once, since each may be a pipe, makes the pages that the mirror lacks, waits for caches, and starts the
    /// server.
    pub fn read_inputs(&mut self) -> Result<()> {
        self.server.1 = self.server.0.as_ref().map(Server::start).transpose()?;
        if let Some(relay) = self.relay.0.take() {
            let running = relay::start(relay)?;
            self.inputs.relay = running.socket.clone();
            self.relay.1 = Some(running);
        }
        self.caches = caches::hold(&mut self.plan)?;
        self.inputs.secrets = secrets::read(&self.settings)?;
        let python = self.plan.python.as_ref().filter(|python| python.completed);
        if let (Some(mirror), Some(layout)) = (python.and_then(|p| p.mirror.as_ref()), &self.host.mirror) {
            self.inputs.pages = synthesise::missing(mirror, layout)?;
        }
        Ok(())
    }

    /// Ends what runs beside the step. The memory is not given back piece by piece: the process ends, and each page that is
    /// touched since the sandbox was made is copied first.
    pub fn end(mut self) {
        drop((self.server.1.take(), self.relay.1.take(), std::mem::take(&mut self.caches)));
        std::mem::forget(self);
    }

    /// What of them must not be found in the image.
    pub fn secret_needles(&self) -> Vec<Needle> {
        self.inputs.secrets.iter().filter_map(|s| Needle::new(format!("the secret {}", s.id), &s.contents)).collect()
    }
}

/// How far something is, on one line that the next one replaces; only for a terminal.
pub fn progress(text: &str) {
    use std::io::{IsTerminal, Write};
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[K{text}");
        let _ = out.flush();
    }
}

/// A line of dropcloth's own. A standard error that is closed is no reason to fail.
pub fn say(text: &str) {
    use std::io::Write;
    // Standard error has no buffer: as one text it is one call.
    let _ = std::io::stderr().write_all(format!("dropcloth: {text}\n").as_bytes());
}

/// dropcloth's own directory of this user.
pub fn state() -> PathBuf {
    crate::host::state_directory(&std::env::vars_os().collect())
}

/// Where transactions can be: beside `image`, in the state directory, in the scratch directory that was chosen.
pub fn near(image: Option<&Path>, scratch: Option<&Path>) -> Vec<PathBuf> {
    let state = state();
    let scratch = scratch.map(crate::host::scratch_directory);
    match image {
        Some(image) => transaction::places(image, &state, scratch.as_deref()),
        None => {
            let here = std::env::current_dir().ok().map(|cwd| cwd.join(".dropcloth"));
            here.into_iter().chain([state]).chain(scratch).collect()
        }
    }
}

/// The same, and wherever one is that was noted.
pub fn places(image: Option<&Path>, scratch: Option<&Path>) -> Vec<PathBuf> {
    recover::distinct([near(image, scratch), transaction::noted(&state())].concat())
}

/// Takes away the notes of what is gone, after the end of a transaction.
pub fn tidy() {
    let _ = transaction::noted(&state());
}

/// Notes where a transaction is that outlives its run. Without the note it is found by its image and by its directory.
pub fn note(transaction: &Transaction) {
    let Some(storage) = transaction.path().parent() else { return };
    if let Err(error) = transaction::note(&state(), storage) {
        let path = transaction.path().display();
        log::warn!("other directories will know the transaction by its directory only, {path}: {error:#}");
    }
}
