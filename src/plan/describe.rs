//! The plan as text: what `dropcloth plan` prints, and what a run logs with -v.

use std::fmt::Write;

use super::{Content, Entry, Mount, Plan, Storage};
use crate::settings::{Backend, Escape, Mode, Network, Origin, Settings, Sharing, Valued};

/// All of it, in the order in which it happens.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    let mode = match plan.mode {
        Mode::Commit => "commit: into the image when the step succeeds, nothing when it fails",
        Mode::Discard => "discard: nothing of what the step writes is kept",
        Mode::Through => "through: straight to the image, also what a step writes that fails",
    };
    let storage = match &plan.storage {
        Storage::Beside(path) | Storage::Elsewhere(path) if plan.mode == Mode::Through => {
            format!("{}: overrides, and the list of what is made in the image while the step runs", path.display())
        }
        Storage::Beside(path) => format!("{}, beside the image: commit renames", path.display()),
        Storage::Elsewhere(path) => format!("{}, not beside the image: commit copies", path.display()),
        Storage::Memory => "in memory".to_owned(),
    };
    let command: Vec<String> = plan.command.iter().map(super::OsStringText::text).collect();
    let rows = [
        ("image", plan.image.display().to_string()),
        ("step", command.join(" ")),
        ("mode", mode.to_owned()),
        ("transaction", storage),
        ("backend", backend(plan)),
        ("user", format!("{}:{} ({})", plan.account.uid, plan.account.gid, plan.account.home.display())),
        ("directory", plan.workdir.display().to_string()),
        ("network", network(plan)),
        (
            "capabilities",
            plan.capabilities.iter().map(|c| c.trim_start_matches("CAP_").to_lowercase()).collect::<Vec<_>>().join(" "),
        ),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<14}{value}");
    }
    python(plan, &mut out);
    out.push_str("laid over\n");
    for (path, entry) in &plan.scaffold.entries {
        if let Entry::File { content, what, .. } = entry {
            let _ = writeln!(out, "  {path}  ({})", content_text(content, what));
        }
    }
    out.push_str("mounted\n");
    for wish in &plan.mounts {
        let _ = writeln!(out, "  {}  {}", wish.at, mount(&wish.mount));
    }
    out.push_str("environment\n");
    for (name, value) in &plan.environment {
        let _ = writeln!(out, "  {name}={}", value.text());
    }
    for note in &plan.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn backend(plan: &Plan) -> String {
    let how = match plan.backend {
        None if plan.suppress_sync => {
            "none: the image itself, overrides bound over it; nodev; fsync and its kin do nothing"
        }
        None => "none: the image itself, overrides bound over it; nodev",
        Some(Backend::Copy) => "copy: of the whole image, overrides bound over it, exchanged with it at the end; nodev",
        _ if plan.user_namespace => "overlay: scaffold over image, userxattr, volatile; nodev",
        _ => "overlay: scaffold over image, redirect_dir=on, index=on, volatile; nodev",
    };
    plan.backend_reason.as_ref().map_or_else(|| how.to_owned(), |why| format!("{how}. {why}"))
}

fn python(plan: &Plan, out: &mut String) {
    let Some(python) = &plan.python else { return };
    let mirror = python.mirror.as_ref().map_or_else(|| "no local directory".to_owned(), |m| m.display().to_string());
    let _ = writeln!(out, "{:<14}{mirror}", "mirror");
    if let Some(port) = python.view {
        let port = if port == 0 { "a free port".to_owned() } else { format!("port {port}") };
        let _ = writeln!(out, "{:<14}http://127.0.0.1 ({port}), a view of the mirror while the step runs", "");
    }
    for index in python.indexes.iter() {
        let _ = writeln!(out, "{:<14}{}{}", "index", index.url, if index.official { " (official)" } else { "" });
    }
}

fn content_text(content: &Content, what: &str) -> String {
    match content {
        Content::Text(text) => format!("{what}, {} bytes", text.len()),
        Content::Resolver(bytes) => format!("{what}, {} bytes", bytes.len()),
        Content::File(source) => format!("{what}, a copy of {}", source.display()),
    }
}

fn network(plan: &Plan) -> String {
    let how = match plan.network {
        Network::Host => return "the host's".to_owned(),
        Network::None => "none: loopback only".to_owned(),
        Network::Mirrors => {
            let door = plan.watch.as_ref().and_then(|w| w.door.as_ref());
            let hosts: Vec<String> = door.iter().flat_map(|d| &d.admitted).map(ToString::to_string).collect();
            let hosts = if hosts.is_empty() { "nobody".to_owned() } else { hosts.join(" ") };
            format!("mirrors: loopback only, with a proxy that leads to {hosts}")
        }
    };
    match plan.watch.as_ref().map(|w| w.escape) {
        None => how,
        Some(Escape::Warn) => format!("{how}; other hosts that it asks for are told"),
        Some(Escape::Fail) => format!("{how}; it fails when it asks for another host"),
    }
}

fn mount(mount: &Mount) -> String {
    let access = |read_only: &bool| if *read_only { "read-only" } else { "read-write" };
    match mount {
        Mount::Submount { kind, read_only } => format!("the {kind} mounted there on the host, {}", access(read_only)),
        Mount::Proc => "proc of the sandbox, dangerous parts masked".to_owned(),
        Mount::Sys => "sysfs, read-only".to_owned(),
        Mount::Dev => "private /dev".to_owned(),
        Mount::HostDev => "the host's /dev".to_owned(),
        Mount::Bind { source, read_only } => format!("{}, {}", source.display(), access(read_only)),
        Mount::Cache { name, source, sharing, .. } => {
            let sharing = match sharing {
                Sharing::Shared => "shared",
                Sharing::Locked => "locked",
                Sharing::Private => "private",
            };
            format!("{}, the cache {name}, {sharing}", source.display())
        }
        Mount::Mirror { source, completed } => {
            let pages = if *completed { ", the pages that it lacks laid over it" } else { "" };
            format!("{}, read-only{pages}", source.display())
        }
        Mount::Secrets { ids } => format!("secrets, in memory: {}", ids.join(" ")),
        Mount::Tmpfs => "tmpfs".to_owned(),
    }
}

/// Each setting with its value and where it came from (`plan -v`).
pub fn settings(settings: &Settings) -> String {
    let mut out = String::from("settings\n");
    let Ok(serde_json::Value::Object(all)) = serde_json::to_value(settings) else { return out };
    for (name, valued) in all {
        let (Some(value), Some(origin)) = (valued.get("value"), valued.get("origin")) else { continue };
        let origin = serde_json::from_value::<OriginText>(origin.clone()).map_or_else(|_| origin.to_string(), |o| o.0);
        let _ = writeln!(out, "  {name} = {value}  [{origin}]");
    }
    out
}

struct OriginText(String);

impl<'de> serde::Deserialize<'de> for OriginText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let text = match &value {
            serde_json::Value::String(word) => word.clone(),
            serde_json::Value::Object(map) => map
                .iter()
                .map(|(kind, inner)| match inner {
                    serde_json::Value::String(name) => name.clone(),
                    _ => format!("{kind} {}", inner.get("path").and_then(|p| p.as_str()).unwrap_or_default()),
                })
                .collect(),
            other => other.to_string(),
        };
        Ok(OriginText(text))
    }
}

/// Where a value came from, in words.
pub fn origin<T>(valued: &Valued<T>) -> String {
    match &valued.origin {
        Origin::Default => "default".to_owned(),
        Origin::Environment(name) | Origin::Flag(name) => name.clone(),
        Origin::File { path, profile: None } => path.display().to_string(),
        Origin::File { path, profile: Some(profile) } => format!("{}, profile {profile}", path.display()),
    }
}
