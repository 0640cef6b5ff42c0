//! Hosts that a step may reach through the proxy: `--allow HOST[:PORT]`.

use std::net::IpAddr;

use serde::Serialize;

/// Ports of a host that was given without one.
const USUAL: [u16; 2] = [80, 443];

/// A host, with a port or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Allow {
    /// The name in lower case without a dot at its end, an address in its shortest form, or `*.example.com` for every name
    /// below that one.
    pub host: String,
    /// The port; none: those of http and https.
    pub port: Option<u16>,
}

impl Allow {
    /// Whether it covers `host` at `port`. An address is covered by the same address only.
    pub fn admits(&self, host: &str, port: u16) -> bool {
        let right_port = self.port.map_or_else(|| USUAL.contains(&port), |own| own == port);
        let host = canonical(host);
        let right_host = match self.host.strip_prefix('*') {
            Some(below) => host.len() > below.len() && host.ends_with(below) && is_name(&host),
            None => host == self.host,
        };
        right_port && right_host
    }

    /// It names one host. Only such a host may turn out to be this machine itself.
    pub fn is_exact(&self) -> bool {
        !self.host.starts_with('*')
    }

    /// The host and port of an http or https URL.
    pub fn of_url(url: &str) -> Option<Allow> {
        let (scheme, rest) = url.split_once("://")?;
        let usual = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        let (host, port) = split(authority.rsplit('@').next()?)?;
        Some(Allow { host: canonical(host), port: Some(port.unwrap_or(usual)) })
    }
}

impl std::fmt::Display for Allow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let six = self.host.contains(':');
        let host = if six { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(&host),
        }
    }
}

/// A name and no address, with nothing in it that could end a line of a protocol.
fn is_name(host: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    host.chars().all(plain) && host.parse::<IpAddr>().is_err()
}

/// One spelling of a host: names have no case, and an address of IPv4 written as one of IPv6 is that of IPv4.
pub fn canonical(host: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host.parse::<IpAddr>().map_or(host, |address| address.to_canonical().to_string())
}

/// `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT`, or an address of IPv6 alone.
pub fn split(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host, Some(port.parse().ok()?))).filter(|_| !host.is_empty()),
        None => (!text.is_empty()).then_some((text, None)),
    }
}

/// Reads `--allow`.
pub fn parse(text: &str) -> Result<Allow, (String, String)> {
    let plain = |host: &str| {
        let name = host.strip_prefix("*.").unwrap_or(host);
        let address = host.parse::<IpAddr>().is_ok();
        address || (!name.is_empty() && is_name(name))
    };
    match split(text) {
        Some((host, port)) if plain(host) => Ok(Allow { host: canonical(host), port }),
        _ => Err((
            format!("--allow {text} is not HOST[:PORT]"),
            "Write a name, an address or *.NAME, and a port unless it is that of http or https: --allow deb.debian.org, --allow '*.example.com:8443', --allow '[2001:db8::1]:80'."
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_admitted_at_its_ports_and_no_other_spelling_gets_past() {
        let table = [
            ("deb.example", "deb.example", 80, true),
            ("deb.example", "DEB.example.", 443, true),
            ("deb.example", "deb.example", 22, false),
            ("deb.example", "x.deb.example", 80, false),
            ("deb.example:8080", "deb.example", 8080, true),
            ("deb.example:8080", "deb.example", 80, false),
            ("*.example.com", "a.b.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("*.example.com", "badexample.com", 443, false),
            ("*.0.0.1", "127.0.0.1", 80, false),
            ("*.example.com", "a\r\nX: y\r\n.example.com", 80, false),
            ("127.0.0.1", "::ffff:127.0.0.1", 80, true),
            ("127.0.0.1", "127.1", 80, false),
            ("[::1]:3141", "0:0::1", 3141, true),
        ];
        for (allow, host, port, admitted) in table {
            assert_eq!(parse(allow).unwrap().admits(host, port), admitted, "{allow} {host}:{port}");
        }
    }

    #[test]
    fn what_is_no_host_is_told_with_what_to_write() {
        for text in ["", ":80", "a:b", "http://a/", "a/b", "*", "a b", "[::1", "a:99999", "*.", "a.*.b"] {
            assert!(parse(text).is_err_and(|(_, hint)| hint.ends_with('.')), "{text}");
        }
    }

    #[test]
    fn an_index_is_its_host_and_port_without_credentials() {
        let table = [
            ("https://pypi.org/simple", Some("pypi.org:443")),
            ("http://user:secret@Mirror.example:3141/root/", Some("mirror.example:3141")),
            ("http://[::1]/simple", Some("[::1]:80")),
            ("file:///tmp/pypi", None),
        ];
        for (url, expected) in table {
            assert_eq!(Allow::of_url(url).map(|a| a.to_string()).as_deref(), expected, "{url}");
        }
    }
}
