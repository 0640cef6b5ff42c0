//! `dropcloth mirror build`: the image's own pip downloads, in runs that are discarded.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;

use super::arguments::BuildArguments;
use crate::changes::discard::remove_tree;
use crate::check::probe::{self, Facts};
use crate::cli::args::Cli;
use crate::cli::common::{self, Prepared, say};
use crate::cli::{capture, check};
use crate::error::{Doing, Fault, Result, refuse};
use crate::mirror::build::request::Request;
use crate::mirror::build::{self, Build, MIRROR_MOUNT, WORK, WORK_MOUNT};
use crate::settings::Flags;
use crate::sys::fs;
use crate::sys::process::Ended;

/// Asks the image's Python for its tags, downloads, and indexes. 0: the mirror has everything.
pub fn build(cli: &Cli, arguments: &BuildArguments) -> Result<u8> {
    if arguments.requirements.is_empty() && arguments.files.is_empty() && arguments.locks.is_empty() {
        return refuse(Fault::new("nothing to build a mirror for").hint(
            "Name requirements, or files of them: `dropcloth mirror build --for ROOT -r requirements.txt --into DIR`.",
        ));
    }
    let into = build::make(&arguments.into)?;
    let flags = flags(cli, arguments, &into)?;
    let facts = facts(cli, &flags, arguments)?;
    let mut request = Request::default();
    request.requirements(&arguments.requirements, &arguments.files)?;
    for lock in &arguments.locks {
        request.lock(lock, &facts.tags)?;
    }
    request.notes.iter().for_each(|note| say(&format!("note: {note}")));
    let markers = facts.markers()?;
    let applies = |text: &str| probe::wish(text).is_some_and(|wish| probe::applies(&wish, &markers, &[]));
    let build = Build::begin(into.clone(), request, arguments.add)?;
    build.download(&applies, &mut |words| pip(cli, &flags, arguments, words))?;
    let built = build.finish()?;
    remove_tree(std::fs::File::open(&into)?.as_fd(), WORK.as_bytes())?;
    built.index.notes.iter().for_each(|note| say(&format!("note: {note}")));
    for (place, why) in &built.index.left_out {
        say(&format!("left out: {place}: {why}"));
    }
    say(&format!("{} files for {}, {} of them new", built.chosen, arguments.root.display(), built.new));
    say(&built.index.to_string());
    Ok(u8::from(!built.index.left_out.is_empty()))
}

/// Those of the run that downloads: what is configured, or the official index where nothing is.
fn flags(cli: &Cli, arguments: &BuildArguments, into: &Path) -> Result<Flags> {
    let mut flags = arguments.flags.clone();
    flags.mode = Some("discard".to_owned());
    // Each by itself: what the image can write in it cannot put a link in the place of.
    for name in build::WRITTEN {
        flags.bind.push(format!("{}:{WORK_MOUNT}/{name}", into.join(WORK).join(name).display()));
    }
    flags.bind.push(format!("{}:{MIRROR_MOUNT}:ro", into.display()));
    // Wheels of some gigabytes, unpacked once more: not in the transaction.
    flags.env.push(format!("TMPDIR={WORK_MOUNT}/tmp"));
    let prepared = prepare(cli, &flags, arguments, &[])?;
    if prepared.plan.inner_maps.is_some() {
        give(&prepared, into)?;
    }
    if prepared.plan.python.is_none() {
        flags.index = vec![prepared.settings.official_index.value.clone()];
        flags.no_official = true;
    }
    Ok(flags)
}

fn prepare(cli: &Cli, flags: &Flags, arguments: &BuildArguments, words: &[&str]) -> Result<Prepared> {
    let command: Vec<OsString> = [arguments.python.as_str()].iter().chain(words).map(OsString::from).collect();
    common::prepare_in(cli, flags, &arguments.root, &command)
}

fn facts(cli: &Cli, flags: &Flags, arguments: &BuildArguments) -> Result<Facts> {
    let mut prepared = prepare(cli, flags, arguments, &["-c", probe::PROGRAM])?;
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

/// In an image whose root is a subordinate id, pip is that id, and has to write where this process is somebody else.
fn give(prepared: &Prepared, into: &Path) -> Result<()> {
    let owner = fs::fstat(prepared.image.directory())?;
    for name in build::WRITTEN {
        let directory = into.join(WORK).join(name);
        std::os::unix::fs::chown(&directory, Some(owner.st_uid), Some(owner.st_gid))
            .doing(|| format!("cannot give {} to the image's root", directory.display()))?;
    }
    Ok(())
}

/// One run of the image's pip.
fn pip(cli: &Cli, flags: &Flags, arguments: &BuildArguments, words: &[String]) -> Result<()> {
    let words: Vec<&str> = ["-m", "pip"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let mut prepared = prepare(cli, flags, arguments, &words)?;
    let captured = capture::step(&mut prepared, b"")?;
    let said = [captured.stdout, captured.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let said: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if captured.outcome.ended == Ended::Exited(0) {
        said.iter().for_each(|line| log::info!("pip: {line}"));
        return Ok(());
    }
    let fault = Fault::new("pip of the image could not download everything");
    let last = said.len().saturating_sub(12);
    refuse(
        said[last..].iter().fold(fault, |fault, line| fault.because(*line)).hint(
            "Mend what pip says and run the same command again: what is downloaded already is not downloaded again.",
        ),
    )
}
