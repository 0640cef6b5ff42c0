//! The door of a step whose network is its own: a proxy for http and CONNECT, RFC 9110 and 9112.
//!
//! Two halves. [`serve`] is inside, in a process of the sandbox: it reads what the step sends, which may be anything. [`outside`] is
//! on this machine and is only ever asked for a host and a port: it knows who is admitted, looks names up, and answers with a connection.

pub mod body;
pub mod head;
pub mod outside;
pub mod serve;
pub mod upstream;

use serde::{Deserialize, Serialize};

/// What the inner half asks of the outer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Bytes are passed as they are (CONNECT); else it is one request of plain http.
    pub tunnel: bool,
}

/// The answer; with [`Answer::Open`] comes the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Connected.
    Open {
        /// It leads to a proxy of this machine, which takes the request in its absolute form.
        via: Option<Via>,
    },
    /// Nobody admitted it.
    Refused,
    /// It is admitted and cannot be reached: why.
    Failed(String),
}

/// What a request to the machine's own proxy needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Via {
    /// The value of Proxy-Authorization.
    pub authorization: Option<String>,
}

impl Ask {
    /// As it stands in a URL and in `--allow`: without the port where that is http's or https's.
    pub fn short(&self) -> String {
        let usual = [80, 443].contains(&self.port);
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if usual { host } else { format!("{host}:{}", self.port) }
    }
}
