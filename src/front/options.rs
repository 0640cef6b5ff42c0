//! The options of chroot(8), as getopt_long(3) reads them: abbreviations count, and they end at the first operand.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `--userspec=USER:GROUP`.
    pub userspec: Option<String>,
    /// `--groups=LIST`.
    pub groups: Option<String>,
    /// `--skip-chdir`.
    pub skip_chdir: bool,
    /// NEWROOT.
    pub root: OsString,
    /// Command and arguments; empty: a shell.
    pub command: Vec<OsString>,
}

/// What the arguments mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Run.
    Run(Options),
    /// `--help`.
    Help,
    /// `--version`.
    Version,
}

const NAMES: [&str; 5] = ["groups", "userspec", "skip-chdir", "help", "version"];

/// Reads the arguments without the program's name. The error is the text after `chroot: `.
pub fn parse(arguments: &[OsString]) -> Result<Parsed, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    let root = loop {
        let Some(argument) = rest.next() else { return Err("missing operand".to_owned()) };
        let text = argument.to_string_lossy();
        match text.strip_prefix("--") {
            Some("") => match rest.next() {
                Some(root) => break root,
                None => return Err("missing operand".to_owned()),
            },
            Some(long) => {
                let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                match known(name)? {
                    "help" => return Ok(Parsed::Help),
                    "version" => return Ok(Parsed::Version),
                    "skip-chdir" if value.is_some() => {
                        return Err("option '--skip-chdir' doesn't allow an argument".to_owned());
                    }
                    "skip-chdir" => options.skip_chdir = true,
                    name => {
                        let next = || rest.next().map(|v| v.to_string_lossy().into_owned());
                        let value = value.map(str::to_owned).or_else(next);
                        let value = value.ok_or_else(|| format!("option '--{name}' requires an argument"))?;
                        if name == "groups" { options.groups = Some(value) } else { options.userspec = Some(value) }
                    }
                }
            }
            None if argument.as_bytes().starts_with(b"-") && argument.len() > 1 => {
                let letter = text.chars().nth(1).unwrap_or('?');
                return Err(format!("invalid option -- '{letter}'"));
            }
            None => break argument,
        }
    };
    options.root = root.clone();
    options.command = rest.cloned().collect();
    Ok(Parsed::Run(options))
}

/// The option that `name` is, or is an unambiguous beginning of.
fn known(name: &str) -> Result<&'static str, String> {
    if let Some(exact) = NAMES.into_iter().find(|known| *known == name) {
        return Ok(exact);
    }
    let mut found = NAMES.into_iter().filter(|known| known.starts_with(name));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(format!("option '--{name}' is ambiguous")),
        (None, _) => Err(format!("unrecognized option '--{name}'")),
    }
}

/// The program's own name, for messages: the last part of argv\[0\].
pub fn name(argument: &OsStr) -> String {
    let bytes = argument.as_bytes();
    let last = bytes.rsplit(|b| *b == b'/').next().unwrap_or(bytes);
    String::from_utf8_lossy(last).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Parsed, String> {
        parse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn run(arguments: &[&str]) -> Options {
        match read(arguments) {
            Ok(Parsed::Run(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_end_at_the_root_and_may_be_abbreviated() {
        let options = run(&["--user=1:2", "--groups", "3,4", "--skip", "/new", "ls", "--help"]);
        assert_eq!((options.userspec.as_deref(), options.groups.as_deref()), (Some("1:2"), Some("3,4")));
        assert!(options.skip_chdir && options.root == "/new");
        assert_eq!(options.command, ["ls", "--help"]);
        assert_eq!(run(&["--", "-x", "y"]).root, "-x");
        assert_eq!(run(&["--groups=", "/"]).groups.as_deref(), Some(""));
    }

    #[test]
    fn wrong_options_are_told_as_getopt_tells_them() {
        for (arguments, words) in [
            (&[][..], "missing operand"),
            (&["--"], "missing operand"),
            (&["--none", "/"], "unrecognized option '--none'"),
            (&["-x", "/"], "invalid option -- 'x'"),
            (&["--userspec"], "option '--userspec' requires an argument"),
        ] {
            assert_eq!(read(arguments), Err(words.to_owned()));
        }
        assert_eq!(read(&["--help", "x"]), Ok(Parsed::Help));
        assert_eq!(read(&["--vers"]), Ok(Parsed::Version));
    }
}
