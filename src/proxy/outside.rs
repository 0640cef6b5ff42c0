//! The outer half: who is admitted, and the way to them. It reads no byte that the step has sent, only hosts and ports.

use std::io::{self, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::upstream::{Proxy, Upstream};
use super::{Answer, Ask, body};
use crate::settings::Allow;
use crate::settings::allow::canonical;

/// For one address of a host.
const CONNECT: Duration = Duration::from_secs(10);
/// For the machine's proxy to make a tunnel.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// What opens the way.
#[derive(Debug, Clone)]
pub struct Outside {
    /// Hosts that are admitted.
    pub admitted: Vec<Allow>,
    /// The proxies of this machine.
    pub upstream: Upstream,
}

impl Outside {
    /// Answers one question, in the caller's network and with its resolver. Takes as long as that takes.
    pub fn answer(&self, ask: &Ask) -> (Answer, Option<TcpStream>) {
        let mut entries = self.admitted.iter().filter(|entry| entry.admits(&ask.host, ask.port)).peekable();
        if entries.peek().is_none() {
            return (Answer::Refused, None);
        }
        let exact = entries.any(Allow::is_exact);
        match self.open(ask, exact) {
            Ok((via, stream)) => (Answer::Open { via }, Some(stream)),
            Err(why) => (Answer::Failed(why), None),
        }
    }

    fn open(&self, ask: &Ask, exact: bool) -> Result<(Option<super::Via>, TcpStream), String> {
        let Some(proxy) = self.upstream.proxy(&ask.host, ask.port, ask.tunnel)? else {
            return Ok((None, connect(&ask.host, ask.port, exact)?));
        };
        let stream =
            connect(&proxy.host, proxy.port, true).map_err(|why| format!("the proxy of this machine: {why}"))?;
        if ask.tunnel {
            return tunnel(stream, ask, &proxy).map(|stream| (None, stream));
        }
        Ok((Some(proxy.via), stream))
    }
}

/// Whether an address is this machine, or a service that clouds give to it alone (169.254.169.254).
fn is_own(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(four) => four.is_loopback() || four.is_unspecified() || four.is_link_local() || four.is_broadcast(),
        IpAddr::V6(six) => six.is_loopback() || six.is_unspecified() || six.is_unicast_link_local(),
    }
}

/// Connects to the first address that answers. A name that came in by a pattern leads nowhere on this machine: whoever has that
/// name could have it point anywhere.
fn connect(host: &str, port: u16, own_too: bool) -> Result<TcpStream, String> {
    let host = canonical(host);
    let found: Vec<SocketAddr> = (host.as_str(), port).to_socket_addrs().map_err(|error| error.to_string())?.collect();
    let mut why = "it has no address".to_owned();
    for address in found {
        if is_own(address.ip()) && !own_too {
            why = format!("{} is this machine itself, and only a host that is named in full leads there", address.ip());
            continue;
        }
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Has the machine's proxy make a tunnel.
fn tunnel(mut stream: TcpStream, ask: &Ask, proxy: &Proxy) -> Result<TcpStream, String> {
    let host = if ask.host.contains(':') { format!("[{}]", ask.host) } else { ask.host.clone() };
    let target = format!("{host}:{}", ask.port);
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = &proxy.via.authorization {
        head.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    head.push_str("\r\n");
    let mut shake = || -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(HANDSHAKE))?;
        stream.write_all(head.as_bytes())?;
        // Byte by byte: what follows the head is the host's, which in some protocols speaks first.
        let answer = body::head(&mut BufReader::with_capacity(1, &stream))?;
        stream.set_read_timeout(None)?;
        answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    };
    let answer = shake().map_err(|error| format!("the proxy of this machine: {error}"))?;
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    let accepted = first.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
    if accepted { Ok(stream) } else { Err(format!("the proxy of this machine answered {first:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_came_in_by_a_pattern_leads_nowhere_on_this_machine() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(connect("127.0.0.1", port, true).is_ok());
        assert!(connect("127.0.0.1", port, false).is_err_and(|why| why.contains("this machine itself")));
        for address in ["127.1.2.3", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254", "fe80::1"] {
            assert!(is_own(address.parse().unwrap()), "{address}");
        }
        assert!(!is_own("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn who_is_not_admitted_is_not_looked_up() {
        let outside = Outside {
            admitted: vec![Allow { host: "a.invalid".to_owned(), port: Some(80) }],
            upstream: Upstream::default(),
        };
        let answer = |host: &str, port| outside.answer(&Ask { host: host.to_owned(), port, tunnel: true }).0;
        assert_eq!(answer("b.invalid", 80), Answer::Refused);
        assert_eq!(answer("a.invalid", 443), Answer::Refused);
        assert!(matches!(answer("A.Invalid.", 80), Answer::Failed(_)));
    }
}
