//! `dropcloth plan`: everything that a run would do, and nothing done.

use super::args::{Cli, RunArguments};
use super::common;
use crate::error::Result;
use crate::plan::describe;

/// Prints the plan; with -v the settings and their origins too.
pub fn plan(cli: &Cli, arguments: &RunArguments, json: bool) -> Result<u8> {
    crate::sys::signal::default_sigpipe();
    let prepared = common::prepare(cli, arguments)?;
    if json {
        let value = serde_json::json!({ "version": 1, "plan": prepared.plan, "settings": prepared.settings });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(0);
    }
    print!("{}", describe::text(&prepared.plan));
    if cli.global.verbose > 0 {
        print!("{}", describe::settings(&prepared.settings));
    }
    Ok(0)
}
