//! What several verbs begin with: settings, host, image.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::args::{Cli, RunArguments};
use crate::changes::leaks::Needle;
use crate::error::{Doing, Result};
use crate::host::Host;
use crate::host::caller::Caller;
use crate::image::Image;
use crate::image::survey::Survey;
use crate::mirror::synthesise;
use crate::plan::{self, Plan};
use crate::sandbox::{Inputs, caches, secrets};
use crate::server::{Running, Server};
use crate::settings::{self, Environment, Flags, Settings, Valued};
use crate::transaction;

/// Everything up to the plan.
pub struct Prepared {
    /// The merged settings.
    pub settings: Settings,
    /// The machine.
    pub host: Host,
    /// The image, open.
    pub image: Image,
    /// What will be done.
    pub plan: Plan,
    /// What the step gets from this machine, once it is read.
    pub inputs: Inputs,
    /// The caches of the plan, held once the inputs are read.
    pub caches: caches::Held,
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
    let cwd = std::env::current_dir().doing(|| "cannot tell the working directory")?;
    let environment: BTreeMap<_, _> = std::env::vars_os().collect();
    let home = home(&environment);
    let mut settings = settings::resolve(
        flags,
        &settings::Source { config: cli.config.as_deref(), profile: cli.profile.as_deref() },
        &Environment(environment.clone()),
        &home,
        &cwd,
    )?;
    change(&mut settings);
    let server = with_server(&mut settings)?;
    let image = Image::open(root)?;
    let host = Host::look(&settings, &cwd, environment);
    let user = settings.user.value.clone();
    let hints = plan::hints(&settings, command);
    let survey = Survey::take(&image, host.caller.maps.as_ref(), user.as_deref(), &hints, |account, pythons| {
        plan::wanted(&settings, account, pythons)
    })?;
    let plan = plan::build(&settings, &host, &survey, command)?;
    Ok(Prepared { settings, host, image, plan, inputs: Inputs::default(), caches: Vec::new(), server: (server, None) })
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

impl Prepared {
    /// Reads the secrets, once, since each may be a pipe, makes the pages that the mirror lacks, waits for caches, and starts the
    /// server.
    pub fn read_inputs(&mut self) -> Result<()> {
        self.server.1 = self.server.0.as_ref().map(Server::start).transpose()?;
        self.caches = caches::hold(&mut self.plan)?;
        self.inputs.secrets = secrets::read(&self.settings)?;
        let python = self.plan.python.as_ref().filter(|python| python.completed);
        if let (Some(mirror), Some(layout)) = (python.and_then(|p| p.mirror.as_ref()), &self.host.mirror) {
            self.inputs.pages = synthesise::missing(mirror, layout)?;
        }
        Ok(())
    }

    /// What of them must not be found in the image.
    pub fn secret_needles(&self) -> Vec<Needle> {
        self.inputs.secrets.iter().filter_map(|s| Needle::new(format!("the secret {}", s.id), &s.contents)).collect()
    }
}

/// A line of dropcloth's own. A standard error that is closed is no reason to fail.
pub fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "dropcloth: {text}");
}

/// dropcloth's own directory of this user.
pub fn state() -> PathBuf {
    crate::host::state_directory(&std::env::vars_os().collect())
}

/// Where transactions can be: beside `image`, in the state directory, in the scratch directory.
pub fn places(image: Option<&Path>, scratch: Option<&Path>) -> Vec<PathBuf> {
    let state = state();
    match image {
        Some(image) => transaction::places(image, &state, scratch),
        None => {
            let here = std::env::current_dir().ok().map(|cwd| cwd.join(".dropcloth"));
            here.into_iter().chain([state]).chain(scratch.map(Path::to_owned)).collect()
        }
    }
}
