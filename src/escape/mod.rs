//! Hosts that a step asked for and did not get: who asked, and what probably led there.

pub mod cause;

use serde::{Deserialize, Serialize};

/// How it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The proxy was asked for a host that nobody admitted.
    Refused,
    /// The name was looked up, past the proxy or where there is none.
    Name,
    /// An address was connected to, past the proxy or where there is none.
    Address,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escape {
    /// The name, or the address where no name was asked for.
    pub host: String,
    /// The port; none: a look-up of a name tells none.
    pub port: Option<u16>,
    /// How it was asked for.
    pub how: How,
    /// The process, as the step numbers it; none: it could not be found any more.
    pub pid: Option<i32>,
    /// Its command line.
    pub command: Vec<String>,
    /// What probably led there, in a few words.
    pub cause: String,
}

/// Characters of a command line in the list for people.
const WIDTH: usize = 100;

impl Escape {
    /// The same attempt once more.
    pub fn repeats(&self, other: &Escape) -> bool {
        (&self.host, self.port, self.pid) == (&other.host, other.port, other.pid)
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let six = self.host.contains(':');
        let host = if six { format!("[{}]", self.host) } else { self.host.clone() };
        let host = self.port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let who = match (self.pid, self.command.is_empty()) {
            (None, _) => "a process that is gone".to_owned(),
            (Some(pid), true) => format!("pid {pid}"),
            (Some(pid), false) => format!("pid {pid}, {}", shortened(&self.command.join(" "), WIDTH)),
        };
        plain(&format!("{host}: {who} ({})", self.cause))
    }
}

/// What comes from the step is not to move the cursor of a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most `width` characters of a text.
pub fn shortened(text: &str, width: usize) -> String {
    let begin: String = text.chars().take(width).collect();
    if begin.len() < text.len() { format!("{begin}…") } else { begin }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_nothing_that_a_terminal_would_obey() {
        let escape = Escape {
            host: "a\u{1b}[2J.example".to_owned(),
            port: Some(443),
            how: How::Refused,
            pid: Some(7),
            command: vec!["sh".to_owned(), "-c".to_owned(), format!("\r\n{}", "x".repeat(500))],
            cause: "r.txt line 1: \u{7}".to_owned(),
        };
        let line = escape.line();
        assert!(!line.contains(char::is_control) && line.chars().count() < 200, "{line:?}");
        assert!(line.starts_with("a [2J.example:443: pid 7, sh -c "), "{line:?}");
    }
}
