//! Requests to indexes on the network.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use url::Url;

use crate::error::Result;

/// Statuses that pass: too many requests, and those of servers behind servers (RFC 9110, RFC 6585).
const PASSING: [u16; 4] = [429, 502, 503, 504];
const TRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// Proxy variables count, and the machine's own certificates do.
pub fn agent() -> ureq::Agent {
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_global(Some(Duration::from_secs(600)))
        .user_agent(concat!("dropcloth/", env!("CARGO_PKG_VERSION")))
        .build();
    ureq::Agent::with_parts(config, DefaultConnector::default(), Resolved::default())
}

/// Looks up each host once: a resolver that is asked for every file fails for one of them.
#[derive(Default)]
struct Resolved {
    known: Mutex<HashMap<String, Vec<SocketAddr>>>,
    system: DefaultResolver,
}

impl std::fmt::Debug for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolved").finish_non_exhaustive()
    }
}

impl Resolver for Resolved {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri
            .scheme()
            .zip(uri.authority())
            .and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority))
            .unwrap_or_default();
        // Whoever asks for the same meanwhile waits for the one answer.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(addresses) = known.get(&host) {
            let mut found = self.empty();
            addresses.iter().for_each(|address| found.push(*address));
            return Ok(found);
        }
        let found = self.system.resolve(uri, config, timeout)?;
        known.insert(host, found.iter().copied().collect());
        Ok(found)
    }
}

/// Asks; what may be otherwise a moment later is asked again, as installers do.
pub fn get(agent: &ureq::Agent, url: &Url, accept: &str) -> Result<ureq::http::Response<ureq::Body>> {
    let authorization = url.password().map(|password| {
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pair = format!("{}:{}", decoded(url.username()), decoded(password));
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    });
    let mut tries = 1;
    loop {
        let request = agent.get(url.as_str()).header("Accept", accept);
        let answer = match &authorization {
            Some(value) => request.header("Authorization", value),
            None => request,
        };
        let answer = answer.call();
        let again = match &answer {
            Ok(response) => PASSING.contains(&response.status().as_u16()),
            Err(_) => true,
        };
        if !again || tries == TRIES {
            return Ok(answer?);
        }
        log::debug!("{}{}: {answer:?}, once more", url.host_str().unwrap_or_default(), url.path());
        std::thread::sleep(FIRST_WAIT * tries);
        tries += 1;
    }
}
