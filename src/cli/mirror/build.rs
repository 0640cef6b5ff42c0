//! `dropcloth mirror build`: the image's own pip downloads, in runs that are discarded; or what a step got is brought.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::arguments::BuildArguments;
use crate::changes::discard::remove_tree;
use crate::check::ahead::{self, Wanted};
use crate::check::probe::{self, Facts};
use crate::cli::args::Cli;
use crate::cli::common::{self, Prepared, progress, say};
use crate::cli::{capture, check};
use crate::error::{Doing, Fault, Result, refuse};
use crate::host::caller;
use crate::mirror::build::fetch::Places;
use crate::mirror::build::prune::Prune;
use crate::mirror::build::request::Request;
use crate::mirror::build::{self, Build, Built, MIRROR_MOUNT, WORK, WORK_MOUNT};
use crate::mirror::relay::{Relay, record};
use crate::mirror::synthesise::{self, Pages};
use crate::pypi::{requirement, upload_time};
use crate::sandbox::relay::{self, Running};
use crate::settings::Flags;
use crate::sys::fs;
use crate::sys::process::Ended;

/// Builds from requirements or from a record. 0: the mirror has everything.
pub fn build(cli: &Cli, arguments: &BuildArguments) -> Result<u8> {
    if arguments.flags.more.record.is_some() {
        return refuse(
            Fault::new("a build of a mirror is not recorded").hint("Record the step: `dropcloth run --record FILE …`."),
        );
    }
    let named = arguments.into.clone();
    let into = match named {
        Some(into) => into,
        None => common::settings(cli, &arguments.flags)?.mirror.value,
    };
    match (&arguments.from_record, &arguments.root) {
        (Some(file), _) => from_record(cli, arguments, file, &into),
        (None, Some(root)) => from_requirements(cli, arguments, root, &into),
        (None, None) => refuse(Fault::new("no image is named").hint("Name it with --for ROOT.")),
    }
}

fn prune(arguments: &BuildArguments) -> Option<Prune> {
    arguments.prune.as_deref().map(|which| if which == "all" { Prune::All } else { Prune::Built })
}

fn from_record(cli: &Cli, arguments: &BuildArguments, file: &Path, into: &Path) -> Result<u8> {
    let served = record::read(file)?;
    let settings = common::settings(cli, &arguments.flags)?;
    let mut request = Request::default();
    request.depends_on("record", std::fs::read_to_string(file)?);
    let into = made(into)?;
    let build = Build::begin(into.clone(), request, arguments.add, prune(arguments))?;
    let from = Places { mirror: Some(settings.mirror.value.as_path()), indexes: &settings.indexes.value };
    let fetched = build.fetch(&served, &from, &|done, all| progress(&format!("{done} of {all} files")));
    progress("");
    fetched?;
    let built = build.finish(prune(arguments))?;
    tell(&into, &built, &file.display().to_string())
}

/// Asks the image's Python for its tags, downloads, and indexes.
fn from_requirements(cli: &Cli, arguments: &BuildArguments, root: &Path, into: &Path) -> Result<u8> {
    if arguments.requirements.is_empty() && arguments.files.is_empty() && arguments.locks.is_empty() {
        return refuse(Fault::new("nothing to build a mirror for").hint(
            "Name requirements, or files of them: `dropcloth mirror build --for ROOT -r requirements.txt --into DIR`.",
        ));
    }
    let until = arguments.as_of.as_deref().map(until).transpose()?;
    let into = made(into)?;
    let mut runs = Runs {
        cli,
        flags: arguments.flags.clone(),
        root,
        python: &arguments.python,
        until: until.is_some(),
        indexes: None,
        view: None,
    };
    runs.begin(&into)?;
    let facts = runs.facts()?;
    let mut request = Request::default();
    request.requirements(&arguments.requirements, &arguments.files)?;
    for lock in &arguments.locks {
        request.lock(lock, &facts.tags)?;
    }
    if let Some(until) = until {
        request.depends_on("as-of", until.to_string());
    }
    request.notes.iter().for_each(|note| say(&format!("note: {note}")));
    let markers = facts.markers()?;
    let applies = |text: &str| requirement::wish(text).is_some_and(|wish| probe::applies(&wish, &markers, &[]));
    runs.go_ahead(&into, &facts, &request, until)?;
    let mut build = Build::begin(into.clone(), request, arguments.add, prune(arguments))?;
    if runs.view.is_some() {
        // It may have files that are newer; the view gives those of it that are not.
        build = build.without_itself();
    }
    let mut number = 0;
    let downloaded = build.download(&applies, &mut |words| {
        number += 1;
        progress(&format!(
            "pip of the image downloads, {} {number}",
            if number == 1 { "run" } else { "what builds need, run" }
        ));
        runs.pip(words)
    });
    progress("");
    downloaded?;
    let built = build.finish(prune(arguments))?;
    tell(&into, &built, &root.display().to_string())
}

/// The directory, the caller's own through sudo too.
fn made(into: &Path) -> Result<PathBuf> {
    caller::make_directory(into)?;
    build::make(into)
}

fn until(text: &str) -> Result<i64> {
    match upload_time::seconds(text) {
        Some(seconds) => Ok(seconds),
        None => refuse(
            Fault::new(format!("--as-of {text} is neither a day nor a time"))
                .hint("Write a day in UTC, --as-of 2026-01-31, or a time as in --as-of 2026-01-31T12:00:00Z."),
        ),
    }
}

fn tell(into: &Path, built: &Built, what: &str) -> Result<u8> {
    remove_tree(std::fs::File::open(into)?.as_fd(), WORK.as_bytes())?;
    built.index.notes.iter().for_each(|note| say(&format!("note: {note}")));
    for (place, why) in &built.index.left_out {
        say(&format!("left out: {place}: {why}"));
    }
    built.removed.iter().for_each(|place| say(&format!("removed {place}")));
    say(&format!("{} files for {what} in {}, {} of them new", built.chosen, into.display(), built.new));
    say(&built.index.to_string());
    Ok(u8::from(!built.index.left_out.is_empty()))
}

/// Runs of the image's Python.
struct Runs<'a> {
    cli: &'a Cli,
    flags: Flags,
    root: &'a Path,
    python: &'a str,
    /// Later files are left out.
    until: bool,
    /// What there is to ask, until the view asks it.
    indexes: Option<Indexes>,
    /// What stands between pip and the indexes.
    view: Option<Running>,
}

/// The indexes of a build.
struct Indexes {
    urls: Vec<String>,
    mirror: Option<PathBuf>,
    pages: Pages,
}

impl Indexes {
    fn of(prepared: &Prepared, flags: &Flags) -> Result<Indexes> {
        let Some(python) = &prepared.plan.python else {
            return Ok(Indexes { urls: flags.usual.index.clone(), mirror: None, pages: Pages::new() });
        };
        let pages = match (&python.mirror, &prepared.host.mirror) {
            (Some(mirror), Some(layout)) if layout.lacks_pages() => synthesise::missing(mirror, layout)?,
            _ => Pages::new(),
        };
        let urls = python.indexes.iter().map(|index| index.url.clone()).collect();
        Ok(Indexes { urls, mirror: python.mirror.clone(), pages })
    }
}

impl Runs<'_> {
    /// Asks what is configured, or the official index where nothing is.
    fn begin(&mut self, into: &Path) -> Result<()> {
        let flags = &mut self.flags;
        flags.usual.mode = Some("discard".to_owned());
        // Each by itself: what the image can write in it cannot put a link in the place of.
        for name in build::WRITTEN {
            flags.usual.bind.push(format!("{}:{WORK_MOUNT}/{name}", into.join(WORK).join(name).display()));
        }
        flags.usual.bind.push(format!("{}:{MIRROR_MOUNT}:ro", into.display()));
        // Wheels of some gigabytes, unpacked once more: not in the transaction.
        flags.usual.env.push(format!("TMPDIR={WORK_MOUNT}/tmp"));
        let prepared = self.prepare(&[])?;
        if prepared.plan.inner_maps.is_some() {
            give(&prepared, into)?;
        }
        if prepared.plan.python.is_none() {
            self.flags.usual.index = vec![prepared.settings.official_index.value.clone()];
            self.flags.more.no_official = true;
        }
        self.indexes = Some(Indexes::of(&prepared, &self.flags)?);
        Ok(())
    }

    /// Downloads what pip will want, many files at a time, and puts a view between pip and the indexes that has them. It leaves
    /// out later files, too, which pip itself does from 26 on only. An index that cannot be asked from here is left to pip.
    fn go_ahead(&mut self, into: &Path, facts: &Facts, request: &Request, until: Option<i64>) -> Result<()> {
        let Some(Indexes { urls, mirror, pages }) = self.indexes.take() else { return Ok(()) };
        let (mut requirements, whole, constraints) = request.named();
        let always = build::ALWAYS.map(str::to_owned);
        if !whole {
            requirements.extend(always.clone());
        }
        let ahead = into.join(WORK).join(build::AHEAD);
        let local = mirror.as_deref().map(|mirror| (mirror, &pages));
        let told = |count| progress(&format!("{count} files ahead of pip"));
        let walk = |wanted: &Wanted<'_>| ahead::walk(&urls, local, facts, wanted, &ahead, &told);
        let wanted = Wanted { requirements: &requirements, constraints: &constraints, whole, until, stock: into };
        let mut seen = walk(&wanted)?;
        if let (true, Some(seen)) = (whole, &mut seen) {
            let wanted = Wanted { requirements: &always, constraints: &[], whole: false, until, stock: into };
            seen.extend(walk(&wanted)?.unwrap_or_default());
        }
        progress("");
        if seen.is_none() && until.is_none() {
            return Ok(());
        }
        let mut relay = Relay::new(urls, false)?;
        (relay.until, relay.mirror, relay.pages) = (until, mirror, pages);
        (relay.stock, relay.ahead) = (Some(into.to_owned()), Some(ahead));
        relay.seen = seen.unwrap_or_default();
        self.flags.usual.index = relay.urls();
        self.flags.more.no_official = true;
        self.view = Some(relay::start(relay)?);
        Ok(())
    }

    fn prepare(&self, words: &[&str]) -> Result<Prepared> {
        let command: Vec<OsString> = [self.python].iter().chain(words).map(OsString::from).collect();
        common::prepare_in(self.cli, &self.flags, self.root, &command)
    }

    fn facts(&self) -> Result<Facts> {
        let mut prepared = self.prepare(&["-c", probe::PROGRAM])?;
        prepared.plan.notes.iter().for_each(|note| log::info!("note: {note}"));
        let facts = check::facts(&mut prepared, &[], &[])?;
        match &facts.fault {
            Some(fault) => {
                refuse(Fault::new("the Python of the image has no pip that could download").because(fault).hint(
                    "Name another of the image's with --python, such as /opt/venv/bin/python, or install pip in the image.",
                ))
            }
            None => Ok(facts),
        }
    }

    /// One run of the image's pip.
    fn pip(&self, words: &[String]) -> Result<()> {
        let words: Vec<&str> = ["-m", "pip"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let mut prepared = self.prepare(&words)?;
        let captured = capture::step(&mut prepared, b"")?;
        if self.until {
            self.look_at_view()?;
        }
        let said = [captured.stdout, captured.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let said: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        if captured.outcome.ended == Ended::Exited(0) {
            said.iter().for_each(|line| log::info!("pip: {line}"));
            return Ok(());
        }
        let fault = Fault::new("pip of the image could not download everything");
        let faults = self.view.as_ref().map_or_else(Vec::new, Running::faults);
        let fault = faults.iter().take(5).fold(fault, |fault, line| fault.because(line));
        let last = said.len().saturating_sub(12);
        refuse(said[last..].iter().fold(fault, |fault, line| fault.because(*line)).hint(
            "Mend what pip says and run the same command again: what is downloaded already is not downloaded again.",
        ))
    }

    /// pip would only say that it finds nothing.
    fn look_at_view(&self) -> Result<()> {
        let faults = self.view.as_ref().map_or_else(Vec::new, Running::faults);
        if faults.is_empty() {
            return Ok(());
        }
        let fault = Fault::new("cannot tell what the indexes had at the time of --as-of");
        refuse(faults.iter().take(5).fold(fault, |fault, line| fault.because(line)).hint(
            "Leave --as-of out, or name indexes that give times of upload (PEP 700), as the official one does: --index URL, --no-official.",
        ))
    }
}

/// In an image whose root is a subordinate id, pip is that id, and has to write where this process is somebody else.
fn give(prepared: &Prepared, into: &Path) -> Result<()> {
    let owner = fs::fstat(prepared.image.directory())?;
    for name in build::WRITTEN {
        let directory: PathBuf = into.join(WORK).join(name);
        std::os::unix::fs::chown(&directory, Some(owner.st_uid), Some(owner.st_gid))
            .doing(|| format!("cannot give {} to the image's root", directory.display()))?;
    }
    Ok(())
}
