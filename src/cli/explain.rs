//! `dropcloth explain`: what each installer makes of all files and variables, by plain chroot and with dropcloth.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::Cli;
use super::common::{self, Prepared};
use crate::error::Result;
use crate::image::inside::Resolver;
use crate::image::pythons::{self, Pythons};
use crate::image::{Image, Inside};
use crate::plan::{Content, Entry, Plan};
use crate::pypi::effective::{self, Said, Setting, Tool, View};
use crate::settings::Flags;

/// Larger configuration files are none.
const LIMIT: usize = 1 << 20;

/// One tool in one place.
#[derive(Debug, Serialize)]
struct Explained {
    tool: Tool,
    /// `sys.prefix`, for pip.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<PathBuf>,
    /// With dropcloth under these settings.
    with: Vec<Setting>,
    /// By plain chroot, with the caller's environment.
    without: Vec<Setting>,
    /// Files that the tool cannot read.
    faults: Vec<String>,
}

/// Prints the table, or JSON.
pub fn explain(cli: &Cli, flags: &Flags, root: &Path, tools: &[String], json: bool) -> Result<u8> {
    crate::sys::signal::default_sigpipe();
    let prepared = common::prepare_in(cli, flags, root, &[])?;
    let image = &prepared.image;
    let pythons = pythons::find(image, &mut Resolver::new(image), &image.passwd()?, &[])?;
    let wanted = Tool::ALL.into_iter().filter(|tool| tools.is_empty() || tools.iter().any(|t| t == tool.name()));
    let mut all = Vec::new();
    for tool in wanted {
        all.push(one(&prepared, &pythons, tool, Path::new("/usr"))?);
        if tool == Tool::Pip {
            for prefix in own_prefixes(&prepared.image)? {
                all.push(one(&prepared, &pythons, tool, &prefix)?);
            }
        }
    }
    if json {
        let value = serde_json::json!({ "version": 1, "image": prepared.plan.image, "tools": all });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(0);
    }
    let laid = laid_over(&prepared.plan);
    all.iter().for_each(|explained| print!("{}", text(explained, &laid)));
    prepared.plan.notes.iter().for_each(|note| println!("note: {note}"));
    Ok(0)
}

/// Prefixes with a site file of their own: a virtual environment without one says nothing.
fn own_prefixes(image: &Image) -> Result<Vec<PathBuf>> {
    let mut prefixes = pythons::all_prefixes(image)?;
    prefixes.push("/usr/local".into());
    prefixes.sort();
    prefixes.dedup();
    let has = |prefix: &PathBuf| read(image, &prefix.join("pip.conf")).is_some();
    Ok(prefixes.into_iter().filter(has).collect())
}

fn one(prepared: &Prepared, pythons: &Pythons, tool: Tool, prefix: &Path) -> Result<Explained> {
    let plan = &prepared.plan;
    let own: BTreeMap<String, String> = plan
        .environment
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.0.to_str()?.to_owned())))
        .collect();
    let callers = text_only(&prepared.host.environment);
    let view = |environment| View {
        environment,
        home: plan.account.home.clone(),
        prefix: prefix.to_owned(),
        workdir: plan.workdir.clone(),
        distutils: pythons.distutils.clone(),
        files: BTreeMap::new(),
    };
    let (mut with, mut without) = (view(own), view(callers));
    with.files = files(tool, &with, |path| laid(plan, &prepared.image, path))?;
    without.files = files(tool, &without, |path| Ok(read(&prepared.image, path)))?;
    let (with, mut faults) = effective::settings(tool, &with);
    let (without, more) = effective::settings(tool, &without);
    faults.extend(more);
    faults.dedup();
    Ok(Explained { tool, prefix: (tool == Tool::Pip).then(|| prefix.to_owned()), with, without, faults })
}

fn text_only(environment: &BTreeMap<OsString, OsString>) -> BTreeMap<String, String> {
    environment
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned())))
        .collect()
}

fn files(tool: Tool, view: &View, read: impl Fn(&Path) -> Result<Option<String>>) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    for path in effective::paths(tool, view) {
        if let Some(text) = read(&path)? {
            files.insert(path, text);
        }
    }
    Ok(files)
}

fn read(image: &Image, path: &Path) -> Option<String> {
    let path = Inside::lexical(path)?;
    let bytes = image.read_small(path.as_path().to_str()?, LIMIT).ok()??;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the step would find at `path`.
fn laid(plan: &Plan, image: &Image, path: &Path) -> Result<Option<String>> {
    let Some(inside) = Inside::lexical(path) else { return Ok(None) };
    let place = image.resolve(&inside)?.path;
    Ok(match plan.scaffold.entries.get(&place) {
        Some(Entry::File { content: Content::Text(text), .. }) => Some(text.clone()),
        Some(Entry::File { content: Content::File(source), .. }) => std::fs::read_to_string(source).ok(),
        _ => read(image, path),
    })
}

/// Paths of the overrides, as people see them.
fn laid_over(plan: &Plan) -> Vec<String> {
    let files = plan.scaffold.entries.iter().filter(|(_, entry)| matches!(entry, Entry::File { .. }));
    files.map(|(path, _)| path.to_string()).collect()
}

fn text(explained: &Explained, laid: &[String]) -> String {
    let mut out = explained.tool.name().to_owned();
    if let Some(prefix) = &explained.prefix {
        let _ = write!(out, " in {}", prefix.display());
    }
    out.push('\n');
    for (with, without) in explained.with.iter().zip(&explained.without) {
        let silent = |s: &Setting| s.holds.is_empty() && s.lost.iter().all(|said| said.values.is_empty());
        if silent(with) && silent(without) {
            continue;
        }
        let _ = writeln!(out, "  {}", with.key);
        side(&mut out, "with dropcloth", with, laid);
        side(&mut out, "by chroot", without, &[]);
    }
    if out.lines().count() == 1 {
        out.push_str("  nothing says anything\n");
    }
    explained.faults.iter().for_each(|fault| {
        let _ = writeln!(out, "  cannot be read: {fault}");
    });
    out
}

/// What holds, and what of the image or the caller it won against; that dropcloth's own files agree with each other is no news.
fn side(out: &mut String, name: &str, setting: &Setting, laid: &[String]) {
    let ours =
        |said: &Said| laid.iter().any(|path| said.by.strip_prefix(path.as_str()).is_some_and(|r| r.starts_with(' ')));
    let row = |out: &mut String, first: &str, said: &Said| {
        let values = if said.values.is_empty() { "(empty)".to_owned() } else { said.values.join(" ") };
        let by = if ours(said) { format!("{}, laid over", said.by) } else { said.by.clone() };
        let _ = writeln!(out, "    {first:<16}{values}  {by}");
    };
    if setting.holds.is_empty() {
        let cleared = setting.lost.iter().any(ours);
        let what = if cleared { "none: cleared by the files laid over" } else { "the tool's default" };
        let _ = writeln!(out, "    {name:<16}{what}");
    }
    for (place, said) in setting.holds.iter().enumerate() {
        row(out, if place == 0 { name } else { "" }, said);
    }
    setting.lost.iter().filter(|said| !ours(said)).for_each(|said| row(out, "  over", said));
}
