//! A resolver that knows nobody, and says so at once: without one, programs wait seconds for each name. RFC 1035.

use std::net::UdpSocket;

/// A flag and result: this is an answer (QR), recursion was wished (RD) and would be had (RA), and there is no such name (3).
const NO_SUCH_NAME: [u8; 2] = [0x81, 0x83];

/// Answers every question; `asked` is told the name and the port of whoever asked, before he has his answer.
pub fn answer(socket: &UdpSocket, asked: &dyn Fn(&str, u16)) -> std::io::Result<()> {
    let mut question = [0_u8; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut question)?;
        let Some((name, end)) = name(&question[..length]) else { continue };
        asked(&name, from.port());
        let mut answer = question[..2].to_vec();
        answer.extend(NO_SUCH_NAME);
        // One question, and nothing else.
        answer.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        answer.extend(&question[12..end]);
        // Whoever asked and went away does not miss it.
        let _ = socket.send_to(&answer, from);
    }
}

/// The name in a question, in lower case, and where the question ends.
fn name(question: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*question.get(at)?);
        match length {
            0 => break,
            // A question has no other name to point at.
            64.. => return None,
            _ => labels.push(String::from_utf8_lossy(question.get(at + 1..=at + length)?).to_ascii_lowercase()),
        }
        at += 1 + length;
    }
    let end = at + 5;
    question.get(..end)?;
    Some((labels.join("."), end))
}

/// Whether a name leads nowhere but to this machine: its own, or a question for the name of an address.
pub fn is_own(name: &str, hostname: &str) -> bool {
    let hostname = hostname.to_ascii_lowercase();
    let below = name.strip_prefix(&hostname).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let ends = |suffix: &str| name == suffix || name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    name.is_empty() || (below && !hostname.is_empty()) || ends("localhost") || ends("localdomain") || ends("arpa")
}

/// The host that is meant: services are asked for below it (RFC 2782).
pub fn host(name: &str) -> &str {
    let mut rest = name;
    while let Some((_, below)) = rest.split_once('.').filter(|(label, _)| label.starts_with('_')) {
        rest = below;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_to_its_end_and_nonsense_is_not() {
        let question = [&[0; 12][..], b"\x04PyPI\x03org\x00\x00\x01\x00\x01more"].concat();
        assert_eq!(name(&question), Some(("pypi.org".to_owned(), question.len() - 4)));
        for bad in [&b""[..], &[0; 12], &[0xff; 30], &[&[0; 12][..], b"\x09short"].concat()] {
            assert_eq!(name(bad), None);
        }
    }

    #[test]
    fn the_machines_own_names_are_nobody_elses() {
        for own in ["build-7", "build-7.site.example", "localhost", "1.0.0.127.in-addr.arpa", ""] {
            assert!(is_own(own, "Build-7"), "{own}");
        }
        assert!(!is_own("build-77", "build-7") && !is_own("pypi.org", ""));
        assert_eq!(host("_http._tcp.deb.debian.org"), "deb.debian.org");
    }
}
