//! The step's environment, capabilities and command: built, never inherited.

use std::ffi::OsString;
use std::path::Path;

use super::door::{self, Watch};
use super::{OsStringText, Python, caches};
use crate::error::{Fault, Result, refuse};
use crate::host::Host;
use crate::image::survey::Survey;
use crate::pypi::environment as pypi_environment;
use crate::settings::{Network, Settings};

/// The PATH of a root login on Debian, login.defs(5) ENV_SUPATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the caller that a step gets as they are.
const PASSED: [&str; 3] = ["TERM", "COLORTERM", "SOURCE_DATE_EPOCH"];

/// Proxies: passed on while the step has the host's network.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"];

/// What package installation needs and no more, see capabilities(7). Above all not SYS_ADMIN, SYS_PTRACE, DAC_READ_SEARCH.
const CAPABILITIES: [&str; 13] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_SETFCAP",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_AUDIT_WRITE",
];

/// The variables of the step, in the order they were decided; a later one of the same name wins.
pub fn build(
    settings: &Settings,
    host: &Host,
    survey: &Survey,
    python: Option<&Python>,
    network: Network,
    watch: Option<&Watch>,
) -> Result<Vec<(String, OsStringText)>> {
    let mut list = Variables::default();
    list.set("PATH", PATH);
    list.set("HOME", survey.account.home.as_os_str());
    list.set("LANG", "C.UTF-8");
    if let Some(name) = &survey.account.name {
        list.set("USER", name);
        list.set("LOGNAME", name);
    }
    for name in PASSED {
        if let Some(value) = host.environment.get(std::ffi::OsStr::new(name)) {
            list.set(name, value);
        }
    }
    if let Some(seconds) = settings.source_date_epoch.value {
        list.set("SOURCE_DATE_EPOCH", seconds.to_string());
    }
    if network == Network::Host && !settings.offline.value {
        for name in PROXIES.iter().flat_map(|n| [(*n).to_owned(), n.to_uppercase()]) {
            if let Some(value) = host.environment.get(std::ffi::OsStr::new(&name)) {
                list.set(&name, value);
            }
        }
    }
    for (name, value) in watch.and_then(|w| w.door.as_ref()).map(door::variables).unwrap_or_default() {
        list.set(name, value);
    }
    if let Some(python) = python {
        if network == Network::Host {
            around_proxies(&mut list, python);
        }
        for (name, value) in pypi_environment::variables(&python.indexes) {
            list.set(&name, value);
        }
    }
    for (name, value) in caches::variables(settings, &survey.account) {
        list.set(name, value);
    }
    for (name, value) in &settings.env.value {
        match (value, host.environment.get(std::ffi::OsStr::new(name))) {
            (Some(value), _) => list.set(name, value),
            (None, Some(value)) => list.set(name, value),
            (None, None) => {
                return refuse(
                    Fault::new(format!("the variable {name} of --env is not set here"))
                        .hint(format!("Write --env {name}=VALUE, or export it before you call dropcloth.")),
                );
            }
        }
    }
    Ok(list.0)
}

/// The caller's proxy is another machine: it knows nothing of an index on the loopback interface.
fn around_proxies(list: &mut Variables, python: &Python) {
    let on_loopback = python.indexes.iter().any(|index| index.url.starts_with("http://127.0.0.1"));
    if !on_loopback || !list.0.iter().any(|(name, _)| name.to_lowercase().ends_with("_proxy")) {
        return;
    }
    let callers = list.0.iter().find(|(name, _)| name.eq_ignore_ascii_case("no_proxy"));
    let callers = callers.map(|(_, value)| value.0.to_string_lossy().into_owned());
    let all = callers.into_iter().chain(["127.0.0.1".to_owned()]).collect::<Vec<_>>().join(",");
    for name in ["no_proxy", "NO_PROXY"] {
        list.set(name, &all);
    }
}

#[derive(Default)]
struct Variables(Vec<(String, OsStringText)>);

impl Variables {
    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.retain(|(n, _)| n != name);
        self.0.push((name.to_owned(), OsStringText(value.into())));
    }
}

/// The step's capabilities: the default set with `--cap-add` and `--cap-drop`.
pub fn capabilities(settings: &Settings) -> Result<Vec<String>> {
    let mut set: Vec<String> = CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
    for name in &settings.cap_add.value {
        let name = capability(name)?;
        if !set.contains(&name) {
            set.push(name);
        }
    }
    for name in &settings.cap_drop.value {
        if name.eq_ignore_ascii_case("all") {
            set.clear();
            continue;
        }
        let name = capability(name)?;
        set.retain(|c| *c != name);
    }
    Ok(set)
}

fn capability(name: &str) -> Result<String> {
    let upper = name.to_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    match full.parse::<caps::Capability>() {
        Ok(_) => Ok(full),
        Err(_) => refuse(
            Fault::new(format!("{name:?} is not a capability"))
                .hint("Use a name of capabilities(7), with or without CAP_, such as --cap-add SYS_PTRACE."),
        ),
    }
}

/// The command, or the shell: `$SHELL` would be the host's, so it is the image's /bin/sh as a login shell would be.
pub fn command(command: &[OsString], host: &Host) -> Vec<OsStringText> {
    if command.is_empty() {
        let interactive = host.terminal.then(|| OsString::from("-i"));
        return std::iter::once(OsString::from("/bin/sh")).chain(interactive).map(OsStringText).collect();
    }
    command.iter().cloned().map(OsStringText).collect()
}

/// Whether `path` is absolute, as a working directory has to be.
pub fn is_absolute(path: &Path) -> bool {
    path.has_root()
}
