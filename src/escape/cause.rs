//! What probably led a process to a host: its own words, files that it was given, its variables, or what its tool is known for.

use std::path::{Path, PathBuf};

use crate::pypi::requirements::{self, What};

/// A process that asked, or an ancestor of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its variables.
    pub variables: Vec<(String, String)>,
    /// Where it works.
    pub directory: PathBuf,
}

/// Reads a file of the step.
pub type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// Files of a project that can name an index, or a package by its URL.
const PROJECT: [&str; 9] = [
    "setup.cfg",
    "pyproject.toml",
    "setup.py",
    "uv.toml",
    "Pipfile",
    "pdm.toml",
    "poetry.toml",
    ".pydistutils.cfg",
    "pip.conf",
];

/// How deep requirements files may include each other.
const DEPTH: usize = 8;

/// An index may have its files elsewhere, or send its clients there.
const LINK: &str = "a link of an index, or a redirect, it seems";

/// What tools are known for, by the name of a program or of the script that it runs.
const TOOLS: [(&str, &str); 11] = [
    ("poetry", "poetry has no setting for a mirror; poetry-plugin-pypi-mirror takes one"),
    ("setup.py", "this setuptools reads only the configuration in its own directory and its user's home"),
    ("pdm", "a source of the project"),
    ("apt", "apt's sources"),
    ("apt-get", "apt's sources"),
    ("git", "git has no mirror"),
    ("npm", "npm has no mirror here"),
    ("cargo", "cargo has no mirror here"),
    ("go", "Go has no mirror here"),
    ("pip", LINK),
    ("uv", LINK),
];

/// Where apt's sources are, as installers of Debian and Ubuntu name them.
const APT: [&str; 5] = [
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/debian.sources",
    "/etc/apt/sources.list.d/ubuntu.sources",
    "/etc/apt/sources.list.d/0000debian.sources",
    "/etc/apt/sources.list.d/0000main.sources",
];

/// The cause, of the process and its ancestors, nearest first.
pub fn cause(host: &str, chain: &[Process], read: Read<'_>) -> String {
    let found = |of: &dyn Fn(&Process) -> Option<String>| chain.iter().find_map(of);
    found(&|process| in_requirements(host, process, read))
        .or_else(|| found(&|process| in_arguments(host, process)))
        .or_else(|| found(&|process| in_project(host, process, read)))
        .or_else(|| found(&|process| in_variables(host, process)))
        .or_else(|| found(&|process| in_apt_sources(host, process, read)))
        .or_else(|| found(&isolated))
        .or_else(|| found(&known_tool))
        .unwrap_or_else(|| "nothing is known that leads there".to_owned())
}

/// Whether `text` names `host`, and not a longer one.
fn mentions(text: &str, host: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "-._".contains(c);
    let lower = text.to_ascii_lowercase();
    lower
        .match_indices(host)
        .any(|(at, _)| !lower[..at].ends_with(part) && !lower[at + host.len()..].starts_with(part) && !host.is_empty())
}

/// Files behind `-r` and `-c`, as they are written.
fn requirement_files(command: &[String]) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = command.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-r" | "--requirement" | "--requirements" | "-c" | "--constraint" => {
                found.extend(rest.next().map(String::as_str));
            }
            word if word.starts_with("--") => {
                let value = word.split_once('=').filter(|(name, _)| ["--requirement", "--constraint"].contains(name));
                found.extend(value.map(|(_, file)| file));
            }
            word => {
                found.extend(word.strip_prefix("-r").or(word.strip_prefix("-c")).filter(|f| f.contains(['.', '/'])))
            }
        }
    }
    found
}

fn in_requirements(host: &str, process: &Process, read: Read<'_>) -> Option<String> {
    requirement_files(&process.command)
        .into_iter()
        .find_map(|file| in_file(host, Path::new(file), process, read, DEPTH))
}

fn in_file(host: &str, file: &Path, process: &Process, read: Read<'_>, depth: usize) -> Option<String> {
    let text = read(&process.directory.join(file)).filter(|_| depth > 0)?;
    let lines = requirements::parse(&text);
    let here = requirements::escapes(&file.display().to_string(), &lines, &|_| false, false);
    if let Some(escape) = here.into_iter().find(|escape| mentions(&escape.url, host)) {
        return Some(format!("{} line {}: {}", escape.file, escape.line, escape.what));
    }
    lines.iter().find_map(|line| match &line.what {
        What::Include(other) | What::Constraints(other) => {
            let other = file.parent().unwrap_or(Path::new("")).join(other);
            in_file(host, &other, process, read, depth - 1)
        }
        _ => None,
    })
}

fn in_arguments(host: &str, process: &Process) -> Option<String> {
    let (at, word) = process.command.iter().enumerate().skip(1).find(|(_, word)| mentions(word, host))?;
    // A script behind `-c` is no answer.
    let option = process.command[at - 1].as_str();
    let short = word.len() < 100 && !word.contains('\n');
    match (option.starts_with("--"), word.split_once('=')) {
        (_, Some((own, _))) if own.starts_with("--") => Some(format!("its own {own}")),
        (true, _) => Some(format!("its own {option}")),
        _ if short && option != "-c" => Some("its command line names it".to_owned()),
        _ => None,
    }
}

fn in_project(host: &str, process: &Process, read: Read<'_>) -> Option<String> {
    PROJECT.iter().find_map(|name| {
        let (number, line) = line_with(host, &read(&process.directory.join(name))?)?;
        let key = line.split(['=', ':']).next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        let key = if key.is_empty() || key.len() > 40 { "a URL" } else { key };
        Some(format!("{name} line {number}: {key}"))
    })
}

/// The first line that names `host`, with its number from 1.
fn line_with(host: &str, text: &str) -> Option<(usize, String)> {
    let (number, line) = text.lines().enumerate().find(|(_, line)| mentions(line, host))?;
    Some((number + 1, line.to_owned()))
}

fn in_apt_sources(host: &str, process: &Process, read: Read<'_>) -> Option<String> {
    let program = process.command.first().map(|word| file_name(word))?;
    let apt = ["apt", "apt-get", "aptitude", "apt-cache"].contains(&program);
    let mut lines = APT.iter().filter_map(|name| Some((name, line_with(host, &read(Path::new(name))?)?.0)));
    lines.next().filter(|_| apt).map(|(name, number)| format!("{name} line {number}"))
}

fn in_variables(host: &str, process: &Process) -> Option<String> {
    // Those of the proxy name hosts that it is not asked for.
    let other = |name: &str| !name.to_ascii_lowercase().ends_with("_proxy");
    let (name, _) = process.variables.iter().find(|(name, value)| other(name) && mentions(value, host))?;
    Some(format!("the variable {name}"))
}

fn isolated(process: &Process) -> Option<String> {
    let has = |word: &str| process.command.iter().any(|w| w == word);
    let pip = process.command.iter().take(3).any(|word| file_name(word).starts_with("pip"));
    if pip && has("--isolated") {
        let null = process.variables.iter().any(|(name, value)| name == "PIP_CONFIG_FILE" && value == "/dev/null");
        let null = if null { ", and PIP_CONFIG_FILE=/dev/null no file either" } else { "" };
        return Some(format!("pip --isolated reads no variable and no file of its user{null}"));
    }
    has("--no-config").then(|| "--no-config: it reads no configuration".to_owned())
}

fn file_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn known_tool(process: &Process) -> Option<String> {
    let words = process
        .command
        .iter()
        .take(3)
        .map(|word| file_name(word).trim_end_matches(|c: char| c == '.' || c.is_ascii_digit()));
    let mut found = words.filter_map(|word| TOOLS.iter().find(|(name, _)| *name == word));
    found.next().map(|(_, cause)| (*cause).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(command: &str, variables: &[(&str, &str)]) -> Process {
        Process {
            command: command.split(' ').map(str::to_owned).collect(),
            variables: variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            directory: "/root/p".into(),
        }
    }

    #[test]
    fn the_nearest_word_that_names_the_host_is_the_cause() {
        let read = |path: &Path| match path.to_str()? {
            "/root/r.txt" | "/root/p/../r.txt" => Some("itsdangerous\n-r more.txt\n".to_owned()),
            "/root/more.txt" | "/root/p/../more.txt" => {
                Some("# files.example\nx @ https://files.example/x.whl\n".to_owned())
            }
            "/root/p/setup.cfg" => Some("[easy_install]\nindex_url = https://corp.example/simple\n".to_owned()),
            _ => None,
        };
        let table = [
            (
                "files.example",
                process("python -m pip install -r /root/r.txt", &[]),
                "/root/more.txt line 2: direct URL",
            ),
            (
                "files.example",
                process("python -m pip install --requirement=../r.txt", &[]),
                "../more.txt line 2: direct URL",
            ),
            ("corp.example", process("python setup.py install", &[]), "setup.cfg line 2: index_url"),
            ("a.example", process("pip install --index-url https://a.example/simple x", &[]), "its own --index-url"),
            ("a.example", process("pip install --index-url=https://a.example/simple x", &[]), "its own --index-url"),
            ("a.example", process("curl https://a.example/", &[]), "its command line names it"),
            ("b.example", process("uv sync", &[("UV_INDEX", "https://b.example/simple")]), "the variable UV_INDEX"),
            (
                "pypi.org",
                process("python -m pip --isolated install x", &[]),
                "pip --isolated reads no variable and no file of its user",
            ),
            ("pypi.org", process("/opt/bin/python /opt/bin/poetry lock", &[]), TOOLS[0].1),
            ("example", process("curl https://a.example/", &[]), "nothing is known that leads there"),
        ];
        for (host, process, expected) in table {
            assert_eq!(cause(host, std::slice::from_ref(&process), &read), expected, "{process:?}");
        }
    }

    #[test]
    fn files_that_include_each_other_end() {
        let read = |_: &Path| Some("-r r.txt\n".to_owned());
        assert_eq!(
            cause("a", &[process("pip install -r r.txt", &[])], &read),
            "a link of an index, or a redirect, it seems"
        );
    }
}
