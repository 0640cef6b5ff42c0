//! `dropcloth mirror`: indexes, serves, verifies and builds mirrors.

pub mod arguments;
mod build;

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use self::arguments::MirrorVerb;
use super::args::Cli;
use super::common::say;
use crate::error::{Doing, Fault, Result, refuse};
use crate::mirror::diff::Diff;
use crate::mirror::{holds, index, layout, serve, verify};
use crate::pypi::requirements;

/// Does what the verb says. Returns the exit status.
pub fn mirror(cli: &Cli, verb: &MirrorVerb) -> Result<u8> {
    match verb {
        MirrorVerb::Build(arguments) => build::build(cli, arguments),
        MirrorVerb::Index { directory } => indexed(directory),
        MirrorVerb::Serve { directory, listen } => served(directory, listen),
        MirrorVerb::Diff { a, b, json } => differ(a, b, *json),
        MirrorVerb::Verify { directory, files, json } => verified(directory, files, *json),
    }
}

/// 0: all of it is in the index; 1: something is not what its name says.
fn indexed(directory: &Path) -> Result<u8> {
    let summary = index::index(directory)?;
    summary.notes.iter().for_each(|note| say(&format!("note: {note}")));
    for (place, why) in &summary.left_out {
        say(&format!("left out: {place}: {why}"));
    }
    say(&summary.to_string());
    Ok(u8::from(!summary.left_out.is_empty()))
}

fn served(directory: &Path, listen: &str) -> Result<u8> {
    let doing = || format!("cannot serve {}", directory.display());
    if !directory.is_dir() {
        return refuse(Fault::new(doing()).because("it is no directory").hint("Name the directory of a mirror."));
    }
    let root = std::fs::File::open(directory).doing(doing)?;
    let listener = TcpListener::bind(listen)
        .doing(|| format!("cannot listen at {listen}"))
        .hint(|| "Name another address or port, such as --listen 127.0.0.1:0 for any free one.")?;
    let address = listener.local_addr().doing(doing)?;
    if layout::look(directory).is_some_and(|layout| layout.missing_pages) {
        say(&format!(
            "note: pages are missing, and installers will not find all files: `dropcloth mirror index {}`",
            directory.display()
        ));
    }
    if !address.ip().is_loopback() {
        say("note: whoever reaches this address can read the mirror");
    }
    let mut out = std::io::stdout();
    writeln!(out, "http://{address}/simple/")?;
    out.flush()?;
    serve::serve(listener, root.into())?;
    Ok(0)
}

fn verified(directory: &Path, files: &[PathBuf], json: bool) -> Result<u8> {
    crate::sys::signal::default_sigpipe();
    let mut wanted = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).doing(|| format!("cannot read {}", file.display()))?;
        wanted.extend(requirements::parse(&text));
    }
    let report = verify::verify(directory, &wanted)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text(directory));
    }
    Ok(u8::from(!report.is_good()))
}

/// 0: they hold the same; 1: they do not.
fn differ(a: &Path, b: &Path, json: bool) -> Result<u8> {
    crate::sys::signal::default_sigpipe();
    let diff = Diff::of(&holds::read(a)?, &holds::read(b)?);
    if json {
        println!("{}", serde_json::to_string_pretty(&diff)?);
    } else {
        print!("{}", diff.text());
    }
    Ok(u8::from(!diff.is_same()))
}
