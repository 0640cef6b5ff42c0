//! `dropcloth check`: what would be installed from where, asked of the image's own pip in a run that is discarded.

use std::ffi::OsString;
use std::path::Path;

use super::args::{CheckArguments, Cli};
use super::capture;
use super::common::{self, Prepared};
use crate::check::compare::{self, Indexes};
use crate::check::probe::{self, Facts};
use crate::check::{Report, closure, locked, text};
use crate::error::{Doing, Fault, Result, refuse};
use crate::mirror::source::Source;
use crate::pypi::requirements::{self, Escape, What};
use crate::pypi::{lock, requirement};
use crate::sys::process::Ended;

/// Includes deeper than this go round in a circle.
const DEEPEST: usize = 16;

/// Asks, compares, prints. 0: everything comes from the mirrors; 1: something does not.
pub fn check(cli: &Cli, arguments: &CheckArguments) -> Result<u8> {
    crate::sys::signal::default_sigpipe();
    let mut flags = arguments.flags.clone();
    flags.usual.mode = Some("discard".to_owned());
    let command = [arguments.python.as_str(), "-c", probe::PROGRAM].map(OsString::from);
    let mut prepared = common::prepare_in(cli, &flags, &arguments.root, &command)?;
    let Some(python) = prepared.plan.python.clone() else { return refuse(no_mirror(&prepared)) };
    let known: Vec<String> = python.indexes.iter().map(|index| index.url.clone()).collect();
    let wish = gather(arguments, &known, python.indexes.links.is_some())?;
    let facts = facts(&mut prepared, &wish.requirements, &wish.constraints)?;
    let mut report = Report {
        version: 1,
        python: facts.python.clone(),
        pip: facts.pip.clone(),
        indexes: known.clone(),
        escapes: wish.escapes.clone(),
        notes: wish.notes.clone(),
        ..Report::default()
    };
    let pages = &prepared.inputs.pages;
    let mirror = python.mirror.as_deref();
    let mut sources = Vec::new();
    for url in &known {
        match Source::open(url, mirror.map(|mirror| (mirror, pages))) {
            Some(source) => sources.push(source),
            None => report.notes.push(format!("{url} cannot be asked from here")),
        }
    }
    let mut indexes = Indexes::new(sources, &facts)?;
    fill(&mut report, &facts, &wish, &mut indexes)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text::text(&report, &prepared.plan.image, mirror));
        let count = report.packages.len();
        let good = report.is_good(arguments.confusion == "fail");
        println!(
            "{}",
            if good {
                format!("good: {count} packages, all from the configured indexes")
            } else {
                "not good".to_owned()
            }
        );
    }
    Ok(u8::from(!report.is_good(arguments.confusion == "fail")))
}

fn no_mirror(prepared: &Prepared) -> Fault {
    let fault = Fault::new(format!("there is no mirror to check {} against", prepared.plan.image.display()));
    prepared
        .plan
        .notes
        .iter()
        .fold(fault, |fault, note| fault.because(note))
        .hint("Name one: --mirror DIR, or --index URL.")
}

/// Everything that is to be checked.
#[derive(Default)]
struct Wish {
    /// PEP 508, in order.
    requirements: Vec<String>,
    constraints: Vec<String>,
    locked: Vec<lock::Locked>,
    escapes: Vec<Escape>,
    notes: Vec<String>,
}

fn gather(arguments: &CheckArguments, known: &[String], strict: bool) -> Result<Wish> {
    let is_known = |url: &str| {
        let bare = |url: &str| url.trim_end_matches('/').to_owned();
        known.iter().any(|index| bare(url) == bare(index))
    };
    let mut wish = Wish::default();
    let given = requirements::parse(&arguments.requirements.join("\n"));
    wish.take("the command line", &given, &is_known, strict);
    for path in &arguments.files {
        wish.read(path, &is_known, strict, 0)?;
    }
    for path in &arguments.constraints {
        let lines = requirements::parse(&read(path)?);
        wish.escapes.extend(requirements::escapes(&path.display().to_string(), &lines, &is_known, strict));
        wish.constraints.extend(lines.into_iter().filter_map(|line| named(line.what)));
    }
    for path in &arguments.locks {
        let text = read(path)?;
        let locked = lock::parse(&text)
            .map_err(|why| Fault::new(format!("cannot read the lock file {}", path.display())).because(why))?;
        wish.escapes.extend(lock::escapes(&path.display().to_string(), &text, &locked, &is_known));
        wish.locked.extend(locked);
    }
    if wish.requirements.is_empty() && wish.locked.is_empty() && wish.escapes.is_empty() {
        return refuse(Fault::new("nothing to check").hint(
            "Name requirements, or files of them: `dropcloth check ROOT flask -r requirements.txt --lock uv.lock`.",
        ));
    }
    Ok(wish)
}

fn named(what: What) -> Option<String> {
    if let What::Named(text) = what { Some(text) } else { None }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).doing(|| format!("cannot read {}", path.display()))
}

impl Wish {
    fn read(&mut self, path: &Path, known: &dyn Fn(&str) -> bool, strict: bool, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return refuse(Fault::new(format!("{} is included in a circle", path.display())));
        }
        let lines = requirements::parse(&read(path)?);
        self.take(&path.display().to_string(), &lines, known, strict);
        let beside = |name: &str| path.parent().unwrap_or(Path::new("")).join(name);
        for line in lines {
            match line.what {
                What::Include(other) if !requirements::is_remote(&other) => {
                    self.read(&beside(&other), known, strict, depth + 1)?;
                }
                What::Constraints(other) if !requirements::is_remote(&other) => {
                    let lines = requirements::parse(&read(&beside(&other))?);
                    self.constraints.extend(lines.into_iter().filter_map(|line| named(line.what)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, file: &str, lines: &[requirements::Line], known: &dyn Fn(&str) -> bool, strict: bool) {
        self.escapes.extend(requirements::escapes(file, lines, known, strict));
        for line in lines {
            match &line.what {
                What::Named(text) if requirement::wish(text).is_some() => self.requirements.push(text.clone()),
                What::Named(text) => self.notes.push(format!("{file}:{}: {text:?} is no requirement", line.number)),
                What::Url(url) if !requirements::is_remote(url) => {
                    self.notes.push(format!("{file}:{}: {url} is a path, and was not checked", line.number));
                }
                _ => {}
            }
        }
    }
}

/// Runs the probe, which is the command of `prepared`.
pub fn facts(prepared: &mut Prepared, requirements: &[String], constraints: &[String]) -> Result<Facts> {
    let input = serde_json::json!({ "requirements": requirements.join("\n"), "constraints": constraints.join("\n") });
    let captured = capture::step(prepared, input.to_string().as_bytes())?;
    if captured.outcome.ended != Ended::Exited(0) {
        let said = String::from_utf8_lossy(&captured.stderr).trim().to_owned();
        return refuse(
            Fault::new("the Python of the image could not be asked")
                .because(format!("{:?}: {said}", captured.outcome.ended))
                .hint("Name another of the image's with --python, such as /opt/venv/bin/python."),
        );
    }
    Facts::read(&captured.stdout)
}

/// From facts to findings.
fn fill(report: &mut Report, facts: &Facts, wish: &Wish, indexes: &mut Indexes) -> Result<()> {
    if let Some(fault) = &facts.fault {
        report.notes.push(format!("pip of the image was not asked ({fault}): --python names another"));
    }
    match facts.status {
        Some(0) => report.packages = compare::rows(facts, &wish.requirements, indexes)?,
        Some(_) => {
            report.pip_failed = Some(facts.said.clone());
            report.missing = closure::missing(facts, &wish.requirements, indexes)?;
        }
        None if facts.pip.is_none() && !wish.requirements.is_empty() => {
            report.missing = closure::missing(facts, &wish.requirements, indexes)?;
        }
        None => {}
    }
    if let Some(uv) = facts.uv.as_ref().filter(|uv| uv.status != 0) {
        report.uv_failed = Some(uv.said.clone());
    }
    report.missing.extend(locked::missing(&wish.locked, &facts.tags, indexes));
    report.notes.append(&mut indexes.notes);
    Ok(())
}
