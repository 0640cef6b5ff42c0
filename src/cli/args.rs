//! The arguments as clap reads them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::mirror::arguments::MirrorVerb;
use super::userns::Map;
use crate::settings::Flags;
use crate::settings::flags::{CommitFlags, MoreFlags, UsualFlags};

const EXAMPLES: &str = "\
Examples:
  dropcloth run ./rootfs -- pip install requests      from the mirror at ~/.cache/image-create/pypi/mirror
  dropcloth run ./rootfs -- apt-get install -y git     no mirror needed: fast, and all or nothing
  dropcloth run --mode discard / -- pip config list    try it on this very machine, nothing stays
  dropcloth plan ./rootfs                              everything that would be done
";

/// Runs the steps of an image build inside a target root, with a PyPI mirror and its configuration laid over, and leaves
/// nothing behind.
#[derive(Debug, Parser)]
#[command(name = "dropcloth", version, after_help = EXAMPLES)]
pub struct Cli {
    /// For every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub struct Global {
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Settings file instead of ./dropcloth.yaml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Profile of the settings file
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// Ids of an ordinary user's namespace: `auto`, `subids` (of /etc/subuid and /etc/subgid), or `single` (only one's own)
    #[arg(long, global = true, value_enum, value_name = "WHICH", default_value = "auto", hide_possible_values = true)]
    pub map: Map,
}

/// `run` alone: building the arguments of all verbs takes as long as entering a root.
#[derive(Debug, Parser)]
#[command(name = "dropcloth run", disable_help_flag = true)]
struct OnlyRun {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    arguments: RunArguments,
}

/// `run` with the flags that most have, for the same reason.
#[derive(Debug, Parser)]
#[command(name = "dropcloth run", disable_help_flag = true)]
struct UsualRun {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    flags: UsualFlags,
    #[arg(value_name = "ROOT")]
    root: PathBuf,
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl UsualRun {
    /// `None`: there are other flags, or it is not understood.
    fn read(words: &[OsString]) -> Option<Cli> {
        let known = Self::command();
        let is_known = |word: &OsString| match word.as_bytes() {
            [b'-', b'-', long @ ..] => {
                let long = long.split(|b| *b == b'=').next();
                known.get_arguments().any(|argument| argument.get_long().map(str::as_bytes) == long)
            }
            [b'-', short, ..] => known.get_arguments().any(|argument| argument.get_short() == Some(char::from(*short))),
            _ => true,
        };
        // Not tried in vain: clap thinks long about what it does not understand.
        if !words.iter().take_while(|word| *word != "--").all(is_known) {
            return None;
        }
        let matches = known.try_get_matches_from(words).ok()?;
        let Self { global, flags, root, command } = Self::from_arg_matches(&matches).ok()?;
        let flags = Flags { usual: flags, more: MoreFlags::default() };
        Some(Cli { global, verb: Verb::Run(RunArguments { flags, joined: None, root: Some(root), command }) })
    }
}

impl Cli {
    /// Reads the arguments of this process, `words` without the program's name.
    pub fn read(words: &[OsString]) -> Result<Cli, clap::Error> {
        if words.first().is_some_and(|verb| verb == "run") {
            if let Some(cli) = UsualRun::read(words) {
                return Ok(cli);
            }
            // Whatever is not understood is left to the whole, which has the help and the right words for it.
            if let Ok(run) = OnlyRun::try_parse_from(words) {
                return Ok(Cli { global: run.global, verb: Verb::Run(run.arguments) });
            }
        }
        Cli::try_parse()
    }
}

/// An image and a command in it.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Flags.
    #[command(flatten)]
    pub flags: Flags,
    /// Run in this open transaction (`dropcloth begin`) instead of one of the step's own; no ROOT then
    #[arg(long = "in", value_name = "NAME")]
    pub joined: Option<String>,
    /// The image: the root directory to run in
    #[arg(value_name = "ROOT", required_unless_present = "joined")]
    pub root: Option<PathBuf>,
    /// The command and its arguments; none: a shell
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// What is to be checked.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// As for `run`.
    #[command(flatten)]
    pub flags: Flags,
    /// The image
    #[arg(value_name = "ROOT")]
    pub root: PathBuf,
    /// Requirements, as for pip
    #[arg(value_name = "REQUIREMENT")]
    pub requirements: Vec<String>,
    /// A file of requirements of this machine
    #[arg(short = 'r', long = "requirement", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A file of constraints of this machine
    #[arg(short = 'c', long = "constraint", value_name = "FILE")]
    pub constraints: Vec<PathBuf>,
    /// A lock file: uv.lock, pylock.toml, poetry.lock, pdm.lock
    #[arg(long = "lock", value_name = "FILE")]
    pub locks: Vec<PathBuf>,
    /// The Python of the image to ask
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    pub python: String,
    /// A name of which pip and uv take different versions, or a file with two hashes: `fail`, or `warn`
    #[arg(long, value_name = "WHAT", value_parser = ["fail", "warn"], default_value = "fail", hide_possible_values = true)]
    pub confusion: String,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a step in an image; commit what it wrote when it succeeds
    #[command(after_help = EXAMPLES)]
    Run(RunArguments),
    /// Run a shell in an image
    Shell(RunArguments),
    /// Print everything that a run would do, and do nothing
    Plan {
        /// As for `run`.
        #[command(flatten)]
        arguments: RunArguments,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show every index setting of the Python installers in an image: what holds by plain chroot and with dropcloth, and what lost
    Explain {
        /// As for `run`.
        #[command(flatten)]
        flags: Box<Flags>,
        /// The image
        #[arg(value_name = "ROOT")]
        root: PathBuf,
        /// Only these: pip, distutils, uv, pdm, poetry
        #[arg(value_name = "TOOL", value_parser = ["pip", "distutils", "uv", "pdm", "poetry"])]
        tools: Vec<String>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the image's own pip what it would install and from where: every package with its index, what the mirrors lack, names
    /// that another index has too, lines that lead past the mirrors; 0: all is well, 1: it is not
    Check(CheckArguments),
    /// Make, index, serve and verify mirrors
    Mirror {
        /// What.
        #[command(subcommand)]
        verb: MirrorVerb,
    },
    /// Open a transaction by name, for several steps: `run --in NAME`, then `commit NAME` or `discard NAME`
    Begin {
        /// Settings that say where it is kept.
        #[command(flatten)]
        flags: Box<Flags>,
        /// Its name: letters, digits, `.`, `_` and `-`
        #[arg(long, value_name = "NAME")]
        name: String,
        /// The image
        #[arg(value_name = "ROOT")]
        root: PathBuf,
    },
    /// Show what the step of a kept transaction changed
    Changes {
        /// Its name or id, its image or its directory
        #[arg(value_name = "TRANSACTION")]
        id: String,
        /// Show what changed inside small text files
        #[arg(long)]
        diff: bool,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Commit a kept transaction to its image
    Commit {
        /// What it has to respect, beside what the run said.
        #[command(flatten)]
        flags: CommitFlags,
        /// Its id, its image or its directory
        #[arg(value_name = "TRANSACTION")]
        id: String,
    },
    /// Throw a kept transaction away
    Discard {
        /// Its id, its image or its directory
        #[arg(value_name = "TRANSACTION")]
        id: String,
    },
    /// List the transactions of an image, or those known here
    List {
        /// The image
        #[arg(value_name = "ROOT")]
        root: Option<PathBuf>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a whole framework (disk-image-create, mmdebstrap, ansible-playbook) with mounts and processes of its own, in which
    /// chroot(8) is dropcloth's: every chroot that it makes gets the mirror and its configuration
    Wrap {
        /// As for `run`, for every chroot inside.
        #[command(flatten)]
        flags: Box<Flags>,
        /// The framework and its arguments
        #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Lay what a step would see (overrides, mirror, binds) into an image, for a framework that enters it itself; in the mount
    /// namespace of the caller, until `detach`
    Attach {
        /// As for `run`.
        #[command(flatten)]
        flags: Box<Flags>,
        /// The image
        #[arg(value_name = "ROOT")]
        root: PathBuf,
    },
    /// Take away what `attach` made; nothing attached is no error
    Detach {
        /// Where `attach` kept its list
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
        /// The image
        #[arg(value_name = "ROOT")]
        root: PathBuf,
    },
    /// Finish interrupted commits and remove what killed runs left
    Recover {
        /// Where the run kept its transaction
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
        /// The image
        #[arg(value_name = "ROOT")]
        root: Option<PathBuf>,
    },
    /// Try everything that a run asks of this machine and of an image; 0: it works, 1: it does not
    Doctor {
        /// Look at this image too
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Unpack a tarball of a root into a new directory, with its owners in your subordinate ids
    Unpack {
        /// The tarball, in any format that tar reads
        #[arg(value_name = "TARBALL")]
        tarball: PathBuf,
        /// The directory to make
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Remove an image, also where its files belong to subordinate ids; never through a mount
    Rm {
        /// The images
        #[arg(value_name = "DIR", required = true)]
        directories: Vec<PathBuf>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

impl Verb {
    /// Whether it works on images: those of an ordinary user have owners that are his only in a namespace.
    pub fn needs_image(&self) -> bool {
        match self {
            Verb::Completions { .. } | Verb::Man | Verb::Doctor { .. } => false,
            // What is mounted in a namespace of our own nobody would see.
            Verb::Attach { .. } | Verb::Detach { .. } => false,
            Verb::Mirror { verb } => verb.needs_image(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<RunArguments, clap::Error> {
        let cli = Cli::try_parse_from(["dropcloth", "run"].iter().chain(arguments))?;
        match cli.verb {
            Verb::Run(arguments) => Ok(arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        let table: [(&[&str], &[&str]); 6] = [
            (&["root", "ls", "-la", "--offline"], &["ls", "-la", "--offline"]),
            (&["root", "--", "ls", "-la"], &["ls", "-la"]),
            (&["root", "--", "--odd"], &["--odd"]),
            (&["root", "sh", "-c", "exit 3", "--", "x"], &["sh", "-c", "exit 3", "--", "x"]),
            (&["root", "pip", "--index", "http://x/"], &["pip", "--index", "http://x/"]),
            (&["root"], &[]),
        ];
        for (arguments, command) in table {
            let read = run(arguments).unwrap();
            assert_eq!(read.root.as_deref(), Some(std::path::Path::new("root")), "{arguments:?}");
            assert_eq!(read.command, command, "{arguments:?}");
            assert!(!read.flags.usual.offline && read.flags.usual.index.is_empty(), "{arguments:?}");
        }
    }

    #[test]
    fn flags_stand_before_the_root_or_before_the_dashes() {
        for arguments in
            [&["--offline", "-e", "A=1", "root", "--", "true"][..], &["root", "--offline", "-e", "A=1", "--", "true"]]
        {
            let read = run(arguments).unwrap();
            assert!(read.flags.usual.offline, "{arguments:?}");
            assert_eq!(
                (read.flags.usual.env, read.command),
                (vec!["A=1".to_owned()], vec!["true".into()]),
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn the_short_way_reads_what_the_whole_does_or_nothing() {
        let table: [(&[&str], bool); 14] = [
            (&["root"], true),
            (&["root", "--", "pip", "--index", "http://x/"], true),
            (&["--mode", "through", "--mirror=m", "-v", "root", "true"], true),
            (&["-vv", "-eA=1", "-e", "B", "--bind", "/a:/b:ro", "-w", "/x", "root", "--", "ls", "-la"], true),
            (&["--map", "single", "--profile", "p", "--config", "c", "--offline", "root", "-v", "true", "x"], true),
            (&["--index", "http://b/", "--index", "http://a/", "-u", "me:us", "--lay", "/a=b", "root"], true),
            (&["root", "ls", "-la"], false),
            (&["--report", "r", "root"], false),
            (&["--in", "name", "--", "true"], false),
            (&["--mode", "wrong", "root"], false),
            (&["--help", "root"], false),
            (&["--mode"], false),
            (&["--map", "nothing", "root"], false),
            (&[], false),
        ];
        for (arguments, short) in table {
            let words: Vec<OsString> = ["run"].iter().chain(arguments).map(OsString::from).collect();
            let read = UsualRun::read(&words);
            assert_eq!(read.is_some(), short, "{arguments:?}");
            if let Some(read) = read {
                let whole = Cli::try_parse_from(["dropcloth", "run"].iter().chain(arguments)).unwrap();
                assert_eq!(format!("{read:?}"), format!("{whole:?}"), "{arguments:?}");
            }
        }
    }

    #[test]
    fn repeated_flags_keep_their_order() {
        let read = run(&["--index", "http://b/", "--index", "http://a/", "root", "true"]).unwrap();
        assert_eq!(read.flags.usual.index, ["http://b/", "http://a/"]);
    }
}
