//! Requests and responses as a proxy reads them and passes them on: RFC 9110 7.6, RFC 9112.

use super::body::Body;
use super::{Ask, Via};
use crate::settings::allow;

/// Header fields of one message.
const FIELDS: usize = 128;

/// Fields that concern one connection only, RFC 9110 7.6.1.
const OF_THE_CONNECTION: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "upgrade",
    "proxy-authorization",
    "proxy-authenticate",
    "expect",
    "http2-settings",
];

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to.
    pub ask: Ask,
    /// GET and the like.
    pub method: String,
    /// `host[:port]` as the client wrote it.
    authority: String,
    /// Path and query.
    path: String,
    fields: Vec<(String, Vec<u8>)>,
    /// How its body ends.
    pub body: Body,
    /// The client waits for a word before it sends the body.
    pub expects: bool,
    /// The client wants to go on afterwards.
    pub keeps: bool,
    /// Of HTTP/1: a client of 1.0 cannot read a chunked body, so the host must not know a later one.
    minor: u8,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    reason: String,
    fields: Vec<(String, Vec<u8>)>,
    /// How its body ends.
    pub body: Body,
}

type Fields = Vec<(String, Vec<u8>)>;

fn fields(headers: &[httparse::Header<'_>]) -> Fields {
    headers.iter().map(|h| (h.name.to_owned(), h.value.to_vec())).collect()
}

fn values<'a>(fields: &'a Fields, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let found = fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name));
    found.flat_map(|(_, value)| {
        let text = String::from_utf8_lossy(value).to_ascii_lowercase();
        text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>()
    })
}

fn has(fields: &Fields, name: &str, word: &str) -> bool {
    values(fields, name).any(|value| value == word)
}

/// The fields that are passed on.
fn passed(fields: &Fields) -> impl Iterator<Item = &(String, Vec<u8>)> {
    let named: Vec<String> = values(fields, "connection").collect();
    fields.iter().filter(move |(name, _)| {
        let name = name.to_ascii_lowercase();
        !OF_THE_CONNECTION.contains(&name.as_str()) && !named.contains(&name)
    })
}

/// How a body ends by its fields; an error where they contradict each other: two readers must not see two messages.
fn framing(fields: &Fields, otherwise: Body) -> Result<Body, &'static str> {
    let codings: Vec<String> = values(fields, "transfer-encoding").collect();
    let lengths: Vec<String> = values(fields, "content-length").collect();
    match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(otherwise),
        ([chunked], []) if chunked == "chunked" => Ok(Body::Chunked),
        ([], [first, rest @ ..]) if rest.iter().all(|l| l == first) && first.bytes().all(|b| b.is_ascii_digit()) => {
            first.parse().map(Body::Length).map_err(|_| "its length is no number")
        }
        _ => Err("its end is not clear"),
    }
}

/// Reads a request; the error is for a response 400.
pub fn request(head: &[u8]) -> Result<Request, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut headers);
    if !parsed.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err("this is no request of HTTP/1.1");
    }
    let method = parsed.method.unwrap_or_default().to_owned();
    let target = parsed.path.unwrap_or_default();
    let fields = fields(parsed.headers);
    let tunnel = method == "CONNECT";
    let (authority, path) = if tunnel { (target, "") } else { absolute(target)? };
    let (host, port) = allow::split(authority).ok_or("the request names no host")?;
    let port = match port {
        None if tunnel => return Err("CONNECT names no port"),
        port => port.unwrap_or(80),
    };
    let keeps = match parsed.version {
        Some(1) => !has(&fields, "connection", "close") && !has(&fields, "proxy-connection", "close"),
        _ => has(&fields, "proxy-connection", "keep-alive") || has(&fields, "connection", "keep-alive"),
    };
    Ok(Request {
        ask: Ask { host: host.to_owned(), port, tunnel },
        body: if tunnel { Body::Empty } else { framing(&fields, Body::Empty)? },
        expects: has(&fields, "expect", "100-continue"),
        keeps,
        minor: parsed.version.unwrap_or(0),
        authority: authority.to_owned(),
        path: path.to_owned(),
        method,
        fields,
    })
}

/// Authority, and path with query, of `http://…`.
fn absolute(target: &str) -> Result<(&str, &str), &'static str> {
    let scheme = target.get(..7).filter(|s| s.eq_ignore_ascii_case("http://"));
    let rest = scheme.map(|_| &target[7..]).ok_or("this is a proxy: it takes http://HOST/… and CONNECT")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // Whoever put credentials there meant them for a header, which is not for us to make.
    let authority = rest[..end].rsplit('@').next().unwrap_or_default();
    Ok((authority, &rest[end..]))
}

impl Request {
    /// As it goes on: to the host itself, or to another proxy.
    pub fn passed_on(&self, via: Option<&Via>) -> Vec<u8> {
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        let path = format!("{slash}{}", self.path);
        let target = if via.is_some() { format!("http://{}{path}", self.authority) } else { path };
        // The host is that of the target, RFC 9112 3.2.2: it is what was admitted.
        let mut out =
            format!("{} {target} HTTP/1.{}\r\nHost: {}\r\n", self.method, self.minor, self.authority).into_bytes();
        for (name, value) in passed(&self.fields).filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        if let Some(authorization) = via.and_then(|v| v.authorization.as_ref()) {
            out.extend(format!("Proxy-Authorization: {authorization}\r\n").into_bytes());
        }
        out.extend(b"Connection: close\r\n\r\n");
        out
    }
}

/// Reads a response to a request of `method`.
pub fn reply(head: &[u8], method: &str) -> Result<Reply, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Response::new(&mut headers);
    if !parsed.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err("what came back is no response of HTTP/1.1");
    }
    let fields = fields(parsed.headers);
    let status = parsed.code.unwrap_or_default();
    let bodiless = method == "HEAD" || (100..200).contains(&status) || [204, 304].contains(&status);
    let body = if bodiless { Body::Empty } else { framing(&fields, Body::UntilEnd)? };
    Ok(Reply { status, reason: parsed.reason.unwrap_or_default().to_owned(), fields, body })
}

impl Reply {
    /// As it goes back to the client, whose connection stays open when `keeps`.
    pub fn passed_back(&self, keeps: bool) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {} {}\r\n", self.status, self.reason).into_bytes();
        for (name, value) in passed(&self.fields) {
            out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        out.extend(if keeps { &b"Connection: keep-alive\r\n\r\n"[..] } else { b"Connection: close\r\n\r\n" });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> (String, u16, bool) {
        let ask = request(text.as_bytes()).unwrap().ask;
        (ask.host, ask.port, ask.tunnel)
    }

    #[test]
    fn both_forms_name_host_and_port() {
        let table = [
            ("CONNECT a.example:443 HTTP/1.1\r\n\r\n", ("a.example", 443, true)),
            ("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n\r\n", ("2001:db8::1", 8443, true)),
            ("GET http://a.example/x?y HTTP/1.1\r\n\r\n", ("a.example", 80, false)),
            ("GET HTTP://u:p@a.example:8080 HTTP/1.0\r\n\r\n", ("a.example", 8080, false)),
            ("GET http://[::1]:3141/x HTTP/1.1\r\n\r\n", ("::1", 3141, false)),
        ];
        for (text, (host, port, tunnel)) in table {
            assert_eq!(wanted(text), (host.to_owned(), port, tunnel), "{text}");
        }
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\n\r\n",
            "CONNECT a HTTP/1.1\r\n\r\n",
            "CONNECT a:b HTTP/1.1\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(request(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_host_is_the_targets_and_fields_of_the_connection_stay_here() {
        let text = "GET http://a.example/x HTTP/1.1\r\nHost: b.example\r\nConnection: x-own\r\nX-Own: 1\r\nProxy-Authorization: Basic x\r\nAccept: */*\r\n\r\n";
        let request = request(text.as_bytes()).unwrap();
        let direct = String::from_utf8(request.passed_on(None)).unwrap();
        assert_eq!(direct, "GET /x HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nConnection: close\r\n\r\n");
        let via = Via { authorization: Some("Basic y".to_owned()) };
        let through = String::from_utf8(request.passed_on(Some(&via))).unwrap();
        assert!(
            through.starts_with("GET http://a.example/x HTTP/1.1\r\n")
                && through.contains("Proxy-Authorization: Basic y\r\n")
        );
    }

    #[test]
    fn a_response_without_a_length_ends_with_its_connection() {
        let of = |text: &str, method| reply(text.as_bytes(), method).unwrap().body;
        assert_eq!(of("HTTP/1.1 200 OK\r\n\r\n", "GET"), Body::UntilEnd);
        assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET"), Body::Length(5));
        assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD"), Body::Empty);
        assert_eq!(of("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET"), Body::Empty);
    }
}
