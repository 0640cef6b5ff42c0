//! One source of settings: every value optional.

use std::path::PathBuf;

use super::{
    Allow, Backend, Bind, Cache, Dev, Escape, Fsync, Lay, Leaks, Mode, Network, OnFailure, Origin, Resolver, Secret,
    Settings, Valued,
};

/// What one source (a profile, the environment, the flags) says. Lists of overrides add to those of lower sources; every other
/// value replaces them.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of Settings")]
pub struct Layer {
    pub mode: Option<Mode>,
    pub on_failure: Option<OnFailure>,
    pub mirror: Option<PathBuf>,
    pub indexes: Option<Vec<String>>,
    pub official_index: Option<String>,
    pub use_official: Option<bool>,
    pub serve: Option<String>,
    pub serve_path: Option<String>,
    pub offline: Option<bool>,
    pub retries: Option<u32>,
    pub timeout: Option<u32>,
    pub network: Option<Option<Network>>,
    pub allow: Vec<Allow>,
    pub escape: Option<Escape>,
    pub resolver: Option<Resolver>,
    pub lay: Vec<Lay>,
    pub bind: Vec<Bind>,
    pub caches: Vec<Cache>,
    pub tmpfs: Vec<PathBuf>,
    pub env: Vec<(String, Option<String>)>,
    pub workdir: Option<PathBuf>,
    pub user: Option<String>,
    pub hostname: Option<String>,
    pub dev: Option<Dev>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub scratch: Option<PathBuf>,
    pub backend: Option<Backend>,
    pub exact: Option<bool>,
    pub leaks: Option<Leaks>,
    pub force: Option<bool>,
    pub source_date_epoch: Option<i64>,
    pub suppress_chown: Option<bool>,
    pub fsync: Option<Fsync>,
    pub secret: Vec<Secret>,
    pub record: Option<PathBuf>,
    pub report: Option<PathBuf>,
    pub grace: Option<u32>,
}

fn replace<T>(target: &mut Valued<T>, value: Option<T>, origin: impl FnOnce() -> Origin) {
    if let Some(value) = value {
        *target = Valued { value, origin: origin() };
    }
}

fn add<T>(target: &mut Valued<Vec<T>>, mut values: Vec<T>, origin: impl FnOnce() -> Origin) {
    if !values.is_empty() {
        target.value.append(&mut values);
        target.origin = origin();
    }
}

impl Layer {
    /// Puts this source on top of `settings`; `origin` names where a field came from.
    pub fn apply(self, settings: &mut Settings, origin: &dyn Fn(&str) -> Origin) {
        macro_rules! put {
            ($how:ident: $($field:ident),*) => { $($how(&mut settings.$field, self.$field, || origin(stringify!($field)));)* };
        }
        put!(replace: mode, on_failure, mirror, indexes, official_index, use_official, offline);
        put!(replace: network, resolver, workdir, dev, grace, backend, exact, leaks, force, suppress_chown, fsync);
        put!(add: allow, lay, bind, caches, tmpfs, env, cap_add, cap_drop, secret);
        macro_rules! put_optional {
            ($($field:ident),*) => { $(replace(&mut settings.$field, self.$field.map(Some), || origin(stringify!($field)));)* };
        }
        put_optional!(
            escape,
            serve,
            serve_path,
            retries,
            timeout,
            user,
            hostname,
            scratch,
            record,
            report,
            source_date_epoch
        );
    }
}
