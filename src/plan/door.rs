//! The network of a step that has one of its own: who is reached through its proxy, and what is told of the rest.

use serde::Serialize;

use super::Python;
use super::refuse::Refusals;
use crate::pypi::{PROXY_PORT, PROXY_URL};
use crate::settings::{Allow, Escape, Network, OFFICIAL_FILES, OFFICIAL_INDEX, Settings};

/// What watches the network of the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Watch {
    /// The proxy; none: nobody is reached.
    pub door: Option<Door>,
    /// What is done about hosts that the step asked for and did not get.
    pub escape: Escape,
}

/// The proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Door {
    /// Its port on the loopback interface of the step.
    pub port: u16,
    /// Hosts that it leads to.
    pub admitted: Vec<Allow>,
}

/// What watches, where something does.
pub fn watch(
    settings: &Settings,
    network: Network,
    python: Option<&Python>,
    faults: &mut Refusals,
    notes: &mut Vec<String>,
) -> Option<Watch> {
    if !settings.allow.value.is_empty() && network != Network::Mirrors {
        notes.push("--allow is for --network mirrors, and does nothing here.".to_owned());
    }
    let escape = settings.escape.value;
    match network {
        Network::Host => {
            if escape.is_some() {
                faults.add(
                    "--escape tells of hosts that a step did not get, and with the host's network it gets all",
                    "Use it with --network mirrors or --network none.",
                );
            }
            None
        }
        Network::None => escape.map(|escape| Watch { door: None, escape }),
        Network::Mirrors => {
            let door = Door { port: PROXY_PORT, admitted: admitted(settings, python) };
            Some(Watch { door: Some(door), escape: escape.unwrap_or(Escape::Warn) })
        }
    }
}

/// The hosts of all indexes, where the official one's links lead, and what is allowed by name.
fn admitted(settings: &Settings, python: Option<&Python>) -> Vec<Allow> {
    let mut urls: Vec<&str> = python.into_iter().flat_map(|p| p.indexes.iter()).map(|i| i.url.as_str()).collect();
    // Without a local mirror nothing is laid over, and installers go where they always go.
    if python.is_none() && settings.use_official.value && !settings.offline.value {
        urls.push(&settings.official_index.value);
    }
    let files = urls.iter().any(|url| url.trim_end_matches('/') == OFFICIAL_INDEX).then_some(OFFICIAL_FILES);
    let mut all: Vec<Allow> = Vec::new();
    let hosts = urls.iter().copied().chain(files).filter_map(Allow::of_url);
    for host in hosts.chain(settings.allow.value.iter().cloned()) {
        if !all.contains(&host) {
            all.push(host);
        }
    }
    all
}

/// The variables by which programs know the proxy. What is on the step's own loopback interface is reached without it, unless
/// an index of this machine is called so.
pub fn variables(door: &Door) -> Vec<(&'static str, String)> {
    let own = ["localhost", "127.0.0.1", "::1"];
    let direct: Vec<&str> = own.into_iter().filter(|name| door.admitted.iter().all(|a| a.host != *name)).collect();
    let proxies = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"].map(|name| (name, PROXY_URL.to_owned()));
    let exceptions = ["no_proxy", "NO_PROXY"].map(|name| (name, direct.join(",")));
    proxies.into_iter().chain(exceptions).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_index_of_this_machine_is_reached_through_the_proxy() {
        let no_proxy = |hosts: &[&str]| {
            let admitted = hosts.iter().map(|h| crate::settings::allow::parse(h).unwrap()).collect();
            let all = variables(&Door { port: PROXY_PORT, admitted });
            all.into_iter().find(|(name, _)| *name == "no_proxy").unwrap().1
        };
        assert_eq!(no_proxy(&["pypi.example"]), "localhost,127.0.0.1,::1");
        assert_eq!(no_proxy(&["127.0.0.1:3141"]), "localhost,::1");
    }
}
