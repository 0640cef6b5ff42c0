//! The program by the names `chroot` and `dropcloth-chroot`: chroot(8) for frameworks, with the mirror while the command runs.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;

use clap::Parser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::args::{Cli, Verb};
use super::common::{self, Prepared};
use super::{ended, kept, named, userns};
use crate::error::{Fault, Result};
use crate::front::credentials::{Credentials, Known};
use crate::front::lay;
use crate::front::options::{self, Options, Parsed};
use crate::front::points::Points;
use crate::image::Image;
use crate::report;
use crate::settings::Flags;
use crate::sys::process::{self, Ended, Forked};
use crate::sys::signal::{self, Signals};

const HELP: &str = "\
Usage: chroot [OPTION] NEWROOT [COMMAND [ARG]...]
  or:  chroot OPTION
Run COMMAND with root directory set to NEWROOT, with dropcloth's mirror and configuration laid over it.

      --groups=G_LIST        supplementary groups as g1,g2,..,gN
      --userspec=USER:GROUP  user and group (ID or name) to use
      --skip-chdir           do not change working directory to '/'
      --help                 display this help and exit
      --version              output version information and exit

If no command is given, run '\"$SHELL\" -i' (default: '/bin/sh -i').
Settings: dropcloth.yaml, the variables of diskimage-builder, DROPCLOTH_FLAGS (flags of `dropcloth run`), and
DROPCLOTH_TRANSACTION=NAME to join an open transaction.
";

/// Runs as chroot(8). Returns its exit status.
pub fn main(name: &str, arguments: &[OsString]) -> u8 {
    let fail = |text: &str| {
        eprintln!("{name}: {text}");
        125
    };
    let options = match options::parse(arguments) {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Help) => {
            print!("{HELP}");
            return 0;
        }
        Ok(Parsed::Version) => {
            println!("chroot (dropcloth) {}", env!("CARGO_PKG_VERSION"));
            return 0;
        }
        Err(text) => return fail(&format!("{text}\nTry '{name} --help' for more information.")),
    };
    let same = is_root(&options.root);
    if options.skip_chdir && !same {
        return fail(&format!(
            "option --skip-chdir only permitted if NEWROOT is old '/'\nTry '{name} --help' for more information."
        ));
    }
    let result = if same { in_place(name, &options) } else { elsewhere(name, &options) };
    result.unwrap_or_else(|error| {
        let fault = Fault::from_error(error);
        let because = fault.because.first().map(|b| format!(": {b}")).unwrap_or_default();
        fail(&format!("{}{because}", fault.doing))
    })
}

fn is_root(path: &std::ffi::OsStr) -> bool {
    match (rustix::fs::stat(path), rustix::fs::stat("/")) {
        (Ok(new), Ok(old)) => (new.st_dev, new.st_ino) == (old.st_dev, old.st_ino),
        _ => false,
    }
}

fn command(options: &Options) -> Vec<OsString> {
    if !options.command.is_empty() {
        return options.command.clone();
    }
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| OsString::from("/bin/sh"));
    vec![shell, OsString::from("-i")]
}

fn credentials(options: &Options, image: &Image) -> Result<Credentials> {
    if options.userspec.is_none() && options.groups.is_none() {
        return Ok(Credentials::default());
    }
    let known = Known { users: image.users()?, groups: image.groups()? };
    let found = known.credentials(options.userspec.as_deref(), options.groups.as_deref());
    found.map_err(|text| Fault::new(text).into())
}

/// NEWROOT is the root already: only the credentials change. Nothing is laid over the machine itself.
fn in_place(name: &str, options: &Options) -> Result<u8> {
    let image = Image::open(Path::new("/"))?;
    let credentials = credentials(options, &image)?;
    drop(image);
    if !options.skip_chdir {
        std::env::set_current_dir("/")?;
    }
    // GNU's calls chroot("/") all the same, and fails where it may not.
    let root = crate::sys::fs::open_dir(rustix::fs::CWD, b"/")?;
    if !options.skip_chdir
        && let Err(error) = process::chroot(root.as_fd())
    {
        return Err(cannot_change(options, error.errno).into());
    }
    lay::become_whom(&credentials)?;
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    Ok(replaced(name, &command(options), &environment))
}

fn cannot_change(options: &Options, errno: i32) -> Fault {
    let text = nix::errno::Errno::from_raw(errno).desc();
    Fault::new(format!("cannot change root directory to '{}': {text}", options.root.display()))
}

/// Returns only when the command could not be started.
fn replaced(name: &str, command: &[OsString], environment: &[(OsString, OsString)]) -> u8 {
    signal::reset_for_step();
    let errno = process::exec_path(command, environment);
    let text = nix::errno::Errno::from_raw(errno).desc();
    eprintln!("{name}: failed to run command '{}': {text}", command[0].display());
    if errno == libc::ENOENT { 127 } else { 126 }
}

fn elsewhere(name: &str, options: &Options) -> Result<u8> {
    match rustix::fs::stat(&options.root) {
        Err(errno) => return Err(cannot_change(options, errno.raw_os_error()).into()),
        Ok(stat) if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {
            return Err(cannot_change(options, libc::ENOTDIR).into());
        }
        Ok(_) => {}
    }
    userns::enter(userns::Map::Auto)?;
    let transaction = std::env::var_os("DROPCLOTH_TRANSACTION").filter(|name| !name.is_empty());
    if let Some(transaction) = transaction {
        return joined(options, &transaction.to_string_lossy());
    }
    let command = command(options);
    let mut prepared = prepare(options, &command)?;
    let credentials = credentials(options, &prepared.image)?;
    if prepared.relay.0.is_some() {
        return Err(Fault::new("--record is for `dropcloth run`: each chroot would begin the file again").into());
    }
    prepared.read_inputs()?;
    prepared.plan = lay::reduced(prepared.plan);
    let signals = hold()?;
    let points = Points::take(&prepared.host.state, &prepared.image, &lay::wanted(&prepared.plan))?;
    let environment = environment(&prepared);
    let ended = match process::fork()? {
        Forked::Child => {
            let started = lay::mount_all(&prepared.plan, &prepared.image, &prepared.inputs)
                .and_then(|()| enter(&prepared.plan.image, options))
                .and_then(|()| lay::become_whom(&credentials));
            let code = match started {
                Ok(()) => replaced(name, &command, &environment),
                Err(error) => {
                    eprintln!("{name}: {error:#}");
                    125
                }
            };
            process::exit_now(code.into())
        }
        Forked::Parent { pid, .. } => wait(pid, &signals),
    };
    points.release(&prepared.image)?;
    match ended? {
        Ended::Signaled(number) => {
            drop(signals);
            signal::die_of(number);
            Ok(u8::try_from(128 + number).unwrap_or(u8::MAX))
        }
        ended => Ok(ended.code()),
    }
}

/// The root is opened again: handles of the old mount namespace lead past the mounts of the new one.
fn enter(image: &Path, options: &Options) -> Result<()> {
    let root = Image::open(image)?;
    lay::change_root(root.directory(), false).map_err(|error| cannot_change(options, error.errno))?;
    Ok(std::env::set_current_dir("/")?)
}

fn hold() -> Result<Signals> {
    let mut watched = signal::FORWARDED.to_vec();
    watched.extend([libc::SIGCHLD, libc::SIGCONT]);
    Ok(Signals::block(&watched)?)
}

/// Waits for the command. A terminal sends its signals to both; what somebody sends to this process is for the command.
fn wait(pid: i32, signals: &Signals) -> Result<Ended> {
    let from_terminal = |number: i32| [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGWINCH].contains(&number);
    let terminal = crate::sys::tty::is_terminal(0);
    loop {
        while let Some(number) = signals.next() {
            if number != libc::SIGCHLD && !(terminal && from_terminal(number)) {
                process::kill(pid, number);
            }
        }
        if let Some((_, ended)) = process::wait_for(pid, libc::WNOHANG | libc::WUNTRACED)? {
            match ended {
                Ended::Stopped(_) => process::kill(std::process::id().cast_signed(), libc::SIGSTOP),
                ended => return Ok(ended),
            }
        }
        let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The caller's environment, but for what would lead installers elsewhere, and with what leads them to the mirror.
fn environment(prepared: &Prepared) -> Vec<(OsString, OsString)> {
    let caches = crate::plan::caches::variables(&prepared.settings, &prepared.plan.account);
    let caches = caches.into_iter().map(|(name, value)| (name.to_owned(), value));
    let python = prepared.plan.python.as_ref();
    let ours = python.map_or_else(Vec::new, |python| crate::pypi::environment::variables(&python.indexes));
    let ours: Vec<(String, String)> = ours.into_iter().chain(caches).collect();
    let stays = |name: &OsString| {
        let text = name.to_string_lossy();
        let misleads = python.is_some() && crate::pypi::environment::is_of_installers(&text);
        !misleads && !ours.iter().any(|(n, _)| *n == text)
    };
    let callers = std::env::vars_os().filter(|(name, _)| stays(name));
    callers.chain(ours.iter().map(|(name, value)| (name.into(), value.into()))).collect()
}

/// The flags, from wherever frameworks leave room: a file of `wrap`, or a variable. What `run` reads comes below them.
fn flags() -> Result<(Cli, Flags)> {
    let words = wrapped_flags().unwrap_or_else(|| {
        let flags = std::env::var("DROPCLOTH_FLAGS").unwrap_or_default();
        flags.split_whitespace().map(str::to_owned).collect()
    });
    let words = ["dropcloth", "run"].into_iter().map(str::to_owned).chain(words).chain(["/".to_owned()]);
    let cli = Cli::try_parse_from(words)
        .map_err(|error| Fault::new("DROPCLOTH_FLAGS cannot be used").because(error.to_string()))?;
    let Verb::Run(run) = &cli.verb else { return Err(Fault::new("DROPCLOTH_FLAGS are not flags of run").into()) };
    let mut flags = run.flags.clone();
    // The framework sees to the resolver, as to everything else that chroot(8) does not.
    flags.more.resolver.get_or_insert_with(|| "image".to_owned());
    Ok((cli, flags))
}

fn wrapped_flags() -> Option<Vec<String>> {
    serde_json::from_slice(&std::fs::read(crate::front::wrap::FLAGS).ok()?).ok()
}

fn prepare(options: &Options, command: &[OsString]) -> Result<Prepared> {
    let (cli, flags) = flags()?;
    common::prepare_to_lay(&cli, &flags, Path::new(&options.root), command)
}

/// As a step of a transaction: a sandbox then, and all calls of a play together are one commit.
fn joined(options: &Options, name: &str) -> Result<u8> {
    let (cli, mut flags) = flags()?;
    flags.usual.user = options.userspec.clone().or(flags.usual.user);
    let image = std::fs::canonicalize(&options.root)?;
    let transaction = kept::find_on(Some(&image), name)?;
    let joined = named::join(&cli, &flags, transaction, &command(options), name)?;
    report::text::escapes(&joined.outcome).iter().for_each(|text| common::say(text));
    Ok(ended::exit_code(&joined.outcome))
}
