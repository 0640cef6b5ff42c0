//! The command line: one thin file a verb.

pub mod args;
pub mod attach;
pub mod capture;
pub mod check;
pub mod chroot;
pub mod common;
pub mod doctor;
pub mod ended;
pub mod explain;
pub mod kept;
pub mod list;
pub mod mirror;
pub mod named;
pub mod plan;
pub mod recover;
pub mod run;
pub mod through;
pub mod unpack;
pub mod userns;
pub mod wrap;

use clap::CommandFactory;

use crate::error::Result;
use crate::front;
use args::{Cli, Verb};

/// Parses the arguments and does what they say. Returns the exit status.
pub fn main() -> Result<u8> {
    let mut words = std::env::args_os();
    let name = words.next().map(|word| front::options::name(&word)).unwrap_or_default();
    let rest: Vec<std::ffi::OsString> = words.collect();
    match rest.first() {
        _ if ["chroot", "dropcloth-chroot"].contains(&name.as_str()) => return Ok(chroot::main(&name, &rest)),
        Some(verb) if verb == "chroot" => return Ok(chroot::main("dropcloth chroot", &rest[1..])),
        _ => {}
    }
    let cli = match Cli::read(&rest) {
        Ok(cli) => cli,
        Err(error) => {
            // Usage errors are dropcloth's own failure (125), as chroot(1) has it; --help and --version are none.
            let code = if error.use_stderr() { 125 } else { 0 };
            error.print()?;
            return Ok(code);
        }
    };
    log_to_stderr(cli.global.verbose);
    if cli.verb.needs_image() {
        userns::enter(cli.global.map)?;
    }
    match &cli.verb {
        Verb::Run(arguments) | Verb::Shell(arguments) => match &arguments.joined {
            Some(name) => named::run(&cli, arguments, name),
            None => run::run(&cli, arguments),
        },
        Verb::Begin { flags, name, root } => named::begin(&cli, flags, name, root),
        Verb::Plan { arguments, json } => plan::plan(&cli, arguments, *json),
        Verb::Explain { flags, root, tools, json } => explain::explain(&cli, flags, root, tools, *json),
        Verb::Check(arguments) => check::check(&cli, arguments),
        Verb::Mirror { verb } => mirror::mirror(&cli, verb),
        Verb::Wrap { flags, command } => wrap::wrap(&cli, flags, command),
        Verb::Changes { id, diff, json } => kept::changes(&cli, id, *diff, *json),
        Verb::Discard { id } => kept::discard(&cli, id),
        Verb::Commit { flags, id } => kept::commit(&cli, id, flags),
        Verb::List { root, json } => list::list(&cli, root.as_deref(), *json),
        Verb::Attach { flags, root } => attach::attach(&cli, flags, root),
        Verb::Detach { scratch, root } => attach::detach(&cli, scratch.as_deref(), root),
        Verb::Recover { scratch, root } => recover::recover(&cli, scratch.as_deref(), root.as_deref()),
        Verb::Doctor { root, json } => doctor::doctor(root.as_deref(), cli.global.map, *json),
        Verb::Unpack { tarball, directory } => unpack::unpack(tarball, directory),
        Verb::Rm { directories } => unpack::rm(directories),
        Verb::Completions { shell } => {
            crate::sys::signal::default_sigpipe();
            clap_complete::generate(*shell, &mut Cli::command(), "dropcloth", &mut std::io::stdout());
            Ok(0)
        }
        Verb::Man => {
            crate::sys::signal::default_sigpipe();
            clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
            Ok(0)
        }
    }
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        2 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level).parse_default_env().format(|out, record| {
        use std::io::Write;
        writeln!(out, "dropcloth: {}", record.args())
    });
    builder.init();
}
