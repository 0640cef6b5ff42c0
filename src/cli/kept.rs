//! `dropcloth changes`, `commit` and `discard`: what can be done with a kept transaction.

use std::os::fd::AsFd;
use std::path::Path;

use super::args::Cli;
use super::common;
use crate::changes::commit::Pending;
use crate::changes::{Changes, commit as committing, diff, gate, owners};
use crate::error::{Doing, Fault, Result, refuse};
use crate::image::Image;
use crate::report::text;
use crate::settings::Mode;
use crate::settings::flags::CommitFlags;
use crate::transaction::{self, Transaction, recover};

/// The transaction called `what`: by id, name, image or directory.
pub fn find(what: &str) -> Result<Transaction> {
    find_on(None, what)
}

/// The same, where the image is known: its transactions stand beside it.
pub fn find_on(image: Option<&Path>, what: &str) -> Result<Transaction> {
    let state = common::state();
    let (near, noted) = (common::near(image, None), transaction::noted(&state));
    let transaction = recover::find((&near, &noted), &state, what)?;
    if transaction.state.mode != Mode::Through {
        return Ok(transaction);
    }
    let image = transaction.state.image.display();
    if transaction.state.attached {
        return refuse(
            Fault::new(format!("{what} is what is attached to {image}, and nothing that could be committed"))
                .hint(format!("`dropcloth detach {image}` takes it away.")),
        );
    }
    refuse(
        Fault::new(format!("{what} holds what a killed run has made in {image}, and nothing that could be committed"))
            .hint(format!("`dropcloth recover {image}` takes it out of the image.")),
    )
}

/// The same, for those who go on with it: not what a killed run left.
pub fn find_whole(what: &str) -> Result<Transaction> {
    let transaction = find(what)?;
    if !transaction.state.brief {
        return Ok(transaction);
    }
    let image = transaction.state.image.display();
    refuse(Fault::new(format!("the run of the transaction {what} was killed: what its step wrote is not whole")).hint(
        format!(
            "`dropcloth recover {image}` removes it, or finishes its commit if that was decided; so does the next run."
        ),
    ))
}

fn open(id: &str) -> Result<(Transaction, Image)> {
    let transaction = find_whole(id)?;
    let image = Image::open(&transaction.state.image)?;
    if !transaction.state.is_of(transaction.directory(), &image)? {
        return refuse(
            Fault::new(format!("{} is not the directory that the transaction was begun on", image.path().display()))
                .hint("Move the image back to where it was, or remove the transaction with `dropcloth discard`."),
        );
    }
    // A step that was killed left the copy of what stood before it.
    transaction.take_back()?;
    Ok((transaction, image))
}

fn search(transaction: &Transaction, image: &Image) -> Result<(Changes, Pending)> {
    committing::scan_and_search(transaction, image, &|| transaction.state.rules.needles.clone())
}

/// Prints what the steps of a kept transaction changed.
pub fn changes(cli: &Cli, id: &str, diff: bool, json: bool) -> Result<u8> {
    crate::sys::signal::default_sigpipe();
    let (transaction, image) = open(id)?;
    let (changes, _) = search(&transaction, &image)?;
    let upper = committing::written(&transaction)?;
    let owners = owners::of(upper.as_fd(), image.directory(), &changes)?;
    if json {
        let value = serde_json::json!({ "version": 1, "image": image.path(), "changes": changes, "owners": owners });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(0);
    }
    print!("{}", text::changes(&changes, &owners, cli.global.verbose > 0));
    if diff {
        print!("\n{}", diff::text(upper.as_fd(), image.directory(), &changes, &owners)?);
    }
    Ok(0)
}

/// Commits a kept transaction.
pub fn commit(_cli: &Cli, id: &str, flags: &CommitFlags) -> Result<u8> {
    let (mut transaction, image) = open(id)?;
    transaction::lock_image(&image, Mode::Commit)?;
    let rules = &mut transaction.state.rules;
    rules.exact |= flags.exact;
    rules.force |= flags.force;
    rules.leaks = flags.leaks().unwrap_or(rules.leaks);
    rules.epoch = flags.source_date_epoch.or(rules.epoch);
    let (changes, pending) = search(&transaction, &image)?;
    gate::check(&changes, &transaction.state.rules, id)
        .doing(|| format!("the transaction {id} was not committed to {}", image.path().display()))?;
    gate::warn(&changes, &transaction.state.rules);
    let (files, bytes) = changes.files();
    committing::commit(transaction, &image, pending)?;
    common::tidy();
    common::say(&format!(
        "committed {}, {} to {}",
        text::counted(files, "file", "files"),
        text::bytes(bytes),
        image.path().display()
    ));
    Ok(0)
}

/// Throws a kept transaction away.
pub fn discard(_cli: &Cli, id: &str) -> Result<u8> {
    let transaction = find(id)?;
    let image = transaction.state.image.clone();
    transaction.remove()?;
    common::tidy();
    common::say(&format!("discarded transaction {id}; {} is as it was", image.display()));
    Ok(0)
}
