//! `dropcloth wrap`: a whole framework in mounts and processes of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::args::Cli;
use super::common;
use crate::error::{Doing, Fault, Result, refuse};
use crate::front::wrap::{self, Wrapped};
use crate::server::Server;
use crate::settings::{self, Environment, Flags};
use crate::sys::process::Ended;

/// Runs the framework. Returns its exit status.
pub fn wrap(cli: &Cli, flags: &Flags, command: &[OsString]) -> Result<u8> {
    let cwd = std::env::current_dir().doing(|| "cannot tell the working directory")?;
    let environment: BTreeMap<_, _> = std::env::vars_os().collect();
    let home = common::home(&environment);
    let mut settings = settings::resolve(
        flags,
        &settings::Source { config: cli.global.config.as_deref(), profile: cli.global.profile.as_deref() },
        &Environment(environment),
        &home,
        &cwd,
    )?;
    let server = common::with_server(&mut settings)?;
    let mirror = &settings.mirror.value;
    if !mirror.is_dir() && settings.mirror_asked_for() && settings.indexes.value.is_empty() {
        return refuse(
            Fault::new(format!("the mirror directory {} does not exist", mirror.display()))
                .hint("Name another with --mirror DIR, or use a mirror on the network with --index URL."),
        );
    }
    settings.notes.iter().for_each(|note| log::warn!("note: {note}"));
    let wrapped = Wrapped {
        program: std::env::current_exe().doing(|| "cannot tell where dropcloth itself is")?,
        words: settings::words::of(&settings),
        mirror: mirror.is_dir().then(|| mirror.clone()),
        command: command.to_vec(),
    };
    let _running = server.as_ref().map(Server::start).transpose()?;
    Ok(match wrap::run(&wrapped)? {
        Ended::Signaled(number) => {
            crate::sys::signal::die_of(number);
            u8::try_from(128 + number).unwrap_or(u8::MAX)
        }
        ended => ended.code(),
    })
}
