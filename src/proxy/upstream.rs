//! The proxies of this machine, through which its own programs reach hosts: http_proxy, https_proxy, all_proxy, no_proxy.

use std::net::IpAddr;

use base64::Engine;

use super::Via;
use crate::settings::allow;

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What it wants to be told.
    pub via: Via,
}

/// What the caller's environment says.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    plain: Option<String>,
    tunnel: Option<String>,
    exceptions: Vec<String>,
}

impl Upstream {
    /// Reads the variables; those in lower case win, as everywhere.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Upstream {
        let get = |name: &str| {
            variable(name).or_else(|| variable(&name.to_uppercase())).filter(|value| !value.trim().is_empty())
        };
        let all = get("all_proxy");
        let exceptions = get("no_proxy").unwrap_or_default();
        Upstream {
            plain: get("http_proxy").or_else(|| all.clone()),
            tunnel: get("https_proxy").or(all),
            exceptions: exceptions
                .split([',', ' '])
                .map(|e| e.trim().to_ascii_lowercase())
                .filter(|e| !e.is_empty())
                .collect(),
        }
    }

    /// The proxy for a host; none: it is reached directly. An error: why the proxy cannot be used.
    pub fn proxy(&self, host: &str, port: u16, tunnel: bool) -> Result<Option<Proxy>, String> {
        let host = allow::canonical(host);
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
        let url = if tunnel { &self.tunnel } else { &self.plain };
        match url {
            Some(url) if !loopback && !self.exceptions.iter().any(|e| excepts(e, &host, port)) => read(url).map(Some),
            _ => Ok(None),
        }
    }
}

/// One entry of no_proxy, as curl and Python's requests read them: `*`, a name with all below it, an address, a network of IPv4.
fn excepts(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let (Some((network, bits)), Ok(IpAddr::V4(address))) = (entry.split_once('/'), host.parse()) {
        let network = network.parse::<std::net::Ipv4Addr>().map(u32::from);
        return match (network, bits.parse::<u32>()) {
            (Ok(network), Ok(bits @ 1..=32)) => (network ^ u32::from(address)) >> (32 - bits) == 0,
            (Ok(_), Ok(0)) => true,
            _ => false,
        };
    }
    let Some((name, only)) = allow::split(entry) else { return false };
    let name = allow::canonical(name.trim_start_matches("*.").trim_start_matches('.'));
    let below = host.strip_suffix(&name).is_some_and(|above| above.is_empty() || above.ends_with('.'));
    below && only.is_none_or(|only| only == port)
}

fn read(url: &str) -> Result<Proxy, String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        None => url,
        Some((scheme, _)) => return Err(format!("the proxy of this machine speaks {scheme}, and dropcloth only http")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (credentials, host) = authority.rsplit_once('@').map_or((None, authority), |(c, host)| (Some(c), host));
    let (host, port) = allow::split(host).ok_or("the proxy of this machine has no host")?;
    let basic = |text: &str| {
        let bytes: Vec<u8> = percent_encoding::percent_decode_str(text).collect();
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(bytes))
    };
    let via = Via { authorization: credentials.map(basic) };
    // curl's default; Python and Go take that of the scheme.
    Ok(Proxy { host: host.to_owned(), port: port.unwrap_or(80), via })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(variables: &[(&str, &str)]) -> Upstream {
        Upstream::of(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_proxy_is_that_of_the_protocol_unless_the_host_is_excepted() {
        let upstream = upstream(&[
            ("http_proxy", "http://user:p%40ss@proxy.example:3128/"),
            ("HTTPS_PROXY", "other.example"),
            ("no_proxy", ".inside.example, 10.0.0.0/8,exact.example:8080"),
        ]);
        let of = |host, port, tunnel| upstream.proxy(host, port, tunnel).unwrap().map(|p| p.host);
        assert_eq!(of("a.example", 80, false).as_deref(), Some("proxy.example"));
        assert_eq!(of("a.example", 443, true).as_deref(), Some("other.example"));
        for host in ["x.inside.example", "inside.example", "10.1.2.3", "127.0.0.1", "localhost"] {
            assert_eq!(of(host, 80, false), None, "{host}");
        }
        assert_eq!(of("exact.example", 8080, true), None);
        assert!(of("exact.example", 80, false).is_some() && of("outinside.example", 80, false).is_some());
        let proxy = upstream.proxy("a.example", 80, false).unwrap().unwrap();
        assert_eq!(proxy.via.authorization.as_deref(), Some("Basic dXNlcjpwQHNz"));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_no_reason_to_go_past_it() {
        assert!(upstream(&[("all_proxy", "socks5://p:1080")]).proxy("a", 443, true).is_err());
        assert_eq!(upstream(&[]).proxy("a", 443, true), Ok(None));
    }
}
