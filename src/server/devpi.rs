//! devpi-server: a cache of indexes that keeps what it was asked for, <https://devpi.net/docs/>.

use std::ffi::OsString;
use std::path::Path;

use base64::Engine;
use serde_json::{Value, json};

use super::process::Process;
use crate::error::{Doing, Fault, Result, refuse};

const INSTALL: &str = "Install devpi-server on this machine, for example with `pipx install devpi-server`, or name its program in a command of your own.";

/// The simple pages of the mirror indexes for these URLs; none: devpi's own mirror of the official index.
pub fn index_paths(urls: &[String]) -> Vec<String> {
    if urls.is_empty() {
        return vec!["/root/pypi/+simple/".to_owned()];
    }
    urls.iter().map(|url| format!("/root/{}/+simple/", name(url))).collect()
}

/// An index is called by its URL, so that the same one has its cache the next time, wherever it stands in the list.
fn name(url: &str) -> String {
    format!("m{:016x}", u64::from_be_bytes(super::digest(url)))
}

/// Makes the directory a server's, once.
pub fn initialise(directory: &Path) -> Result<()> {
    if directory.join(".serverversion").exists() {
        return Ok(());
    }
    let words = ["devpi-init".into(), "--serverdir".into(), directory.into()];
    match Process::start(&words, directory)?.finish()? {
        None => Ok(()),
        Some(said) => {
            refuse(Fault::new(format!("devpi-init could not make {}", directory.display())).because(said).hint(INSTALL))
        }
    }
}

/// How the server is started.
pub fn command(directory: &Path, port: u16, offline: bool) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["devpi-server", "--host", "127.0.0.1", "--port"].map(OsString::from).to_vec();
    words.extend([port.to_string().into(), "--serverdir".into(), directory.into()]);
    if offline {
        words.push("--offline-mode".into());
    }
    words
}

/// Makes the mirror indexes that it does not have yet.
pub fn configure(port: u16, urls: &[String]) -> Result<()> {
    let base = format!("http://127.0.0.1:{port}");
    let mut token = None;
    for url in urls {
        let index = format!("{base}/root/{}", name(url));
        let doing = || format!("cannot make devpi-server cache {url}");
        if agent().get(&index).header("Accept", "application/json").call().doing(doing)?.status().is_success() {
            continue;
        }
        if token.is_none() {
            token = Some(login(&base)?);
        }
        let wanted = json!({"type": "mirror", "mirror_url": url, "volatile": false});
        let request = agent().put(&index).header("X-Devpi-Auth", token.as_deref().unwrap_or_default());
        let answer = request.header("Content-Type", "application/json").send(wanted.to_string()).doing(doing)?;
        if !answer.status().is_success() {
            return refuse(
                Fault::new(doing())
                    .because(format!("it answers {}", answer.status()))
                    .hint("Give its root user no password, or remove its directory in the image cache."),
            );
        }
    }
    Ok(())
}

/// Nothing of the caller's proxy settings: this is the loopback interface. An error status is an answer.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().into()
}

/// The value of X-Devpi-Auth for root, who has no password in a directory that devpi-init made.
fn login(base: &str) -> Result<String> {
    let doing = || "cannot log in to devpi-server";
    let wanted = json!({"user": "root", "password": ""}).to_string();
    let request = agent().post(format!("{base}/+login")).header("Content-Type", "application/json");
    let text = request.send(wanted).doing(doing)?.body_mut().read_to_string().doing(doing)?;
    let answer: Value = serde_json::from_str(&text).doing(doing)?;
    let Some(password) = answer["result"]["password"].as_str() else {
        return refuse(
            Fault::new(doing())
                .because(answer["message"].as_str().unwrap_or("it gives no reason").to_owned())
                .hint("Give its root user no password, or remove its directory in the image cache."),
        );
    };
    Ok(base64::engine::general_purpose::STANDARD.encode(format!("root:{password}")))
}
