//! Settings as the flags that mean the same, for another dropcloth that reads nothing else.

use super::{Settings, WhenChanged};

/// Flags of `run` for the settings that a chroot inside a framework heeds: where packages come from, and what is laid over.
pub fn of(settings: &Settings) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    add("--mirror", settings.mirror.value.display().to_string());
    settings.indexes.value.iter().for_each(|url| add("--index", url.clone()));
    add("--official-index", settings.official_index.value.clone());
    settings.retries.value.iter().for_each(|n| add("--retries", n.to_string()));
    settings.timeout.value.iter().for_each(|n| add("--timeout", n.to_string()));
    for lay in settings.lay.value.iter().filter(|lay| lay.when_changed == WhenChanged::Drop) {
        add("--lay", format!("{}={}", lay.path.display(), lay.source.display()));
    }
    for bind in &settings.bind.value {
        let access = if bind.read_only { "ro" } else { "rw" };
        add("--bind", format!("{}:{}:{access}", bind.source.display(), bind.target.display()));
    }
    settings.tmpfs.value.iter().for_each(|path| add("--tmpfs", path.display().to_string()));
    for (name, value) in &settings.env.value {
        add("--env", value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
    }
    if settings.offline.value {
        words.push("--offline".to_owned());
    }
    if !settings.use_official.value {
        words.push("--no-official".to_owned());
    }
    words
}
