//! `dropcloth list`: the transactions on this machine, or on one image.

use std::path::Path;

use super::args::Cli;
use super::common;
use crate::error::Result;
use crate::image::Image;
use crate::transaction::recover;

/// Prints a line each.
pub fn list(_cli: &Cli, root: Option<&Path>, json: bool) -> Result<u8> {
    crate::sys::signal::default_sigpipe();
    let image = root.map(Image::open).transpose()?;
    let places = common::places(image.as_ref().map(Image::path), None);
    let found = recover::list(&places, image.as_ref())?;
    if json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "version": 1, "transactions": found }))?);
        return Ok(0);
    }
    for one in &found {
        println!("{:<10}{:<20}pid {:<8}{}", one.id, one.status, one.pid, one.image.display());
    }
    if found.is_empty() {
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        common::say(&format!("no transactions in {}", places.join(", ")));
    }
    Ok(0)
}
