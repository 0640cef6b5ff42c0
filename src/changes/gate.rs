//! What stands between a step's changes and the image: overrides that must not change, conflicts, traces, inexactness.

use serde::{Deserialize, Serialize};

use super::Changes;
use super::leaks::Needle;
use crate::error::{Fault, Result, refuse};
use crate::settings::Leaks;

/// What a commit has to respect. Kept with the transaction, since it may be committed by another command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Refuse what is not exact.
    pub exact: bool,
    /// What becomes of traces.
    pub leaks: Leaks,
    /// Commit over conflicts.
    pub force: bool,
    /// No committed entry is newer, seconds since 1970.
    pub epoch: Option<i64>,
    /// What the traces are. Not the secrets: they are never written to a disk.
    pub needles: Vec<Needle>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { exact: false, leaks: Leaks::Off, force: false, epoch: None, needles: Vec::new() }
    }
}

/// More than this many are summed up in an error.
const SHOWN: usize = 20;

/// Refuses changes that the rules do not let into the image. `id` names the transaction in the hints.
pub fn check(changes: &Changes, rules: &Rules, id: &str) -> Result<()> {
    if let Some(path) = changes.forbidden.first() {
        return refuse(
            Fault::new(format!("the step changed {path}, whose override says when_changed: fail"))
                .hint("Change the step, or set when_changed to drop or keep for this file in the settings."),
        );
    }
    if !changes.conflicts.is_empty() && !rules.force {
        let fault = Fault::new("somebody else changed the image after the step began, where the step changed it too");
        return refuse(because(fault, changes.conflicts.iter()).hint(format!(
            "Look at both versions, then `dropcloth commit {id} --force` takes the step's, and `dropcloth discard {id}` keeps the image's."
        )));
    }
    if !changes.leaks.is_empty() && rules.leaks == Leaks::Fail {
        let fault = Fault::new("traces of the run would be committed");
        return refuse(because(fault, changes.leaks.iter()).hint(format!(
            "Let the step remove them; or `dropcloth commit {id} --leaks warn` commits it as it is, and `dropcloth discard {id}` throws it away."
        )));
    }
    if !changes.inexact.is_empty() && rules.exact {
        let fault = Fault::new("the result would not be exactly what a plain chroot leaves");
        return refuse(because(fault, changes.inexact.iter()).hint(format!(
            "Run the step again with --backend copy, which is exact for everything; `dropcloth discard {id}` throws this run away."
        )));
    }
    Ok(())
}

fn because<T: std::fmt::Display>(fault: Fault, all: impl ExactSizeIterator<Item = T>) -> Fault {
    let rest = all.len().saturating_sub(SHOWN);
    let fault = all.take(SHOWN).fold(fault, |fault, one| fault.because(one.to_string()));
    if rest > 0 { fault.because(format!("and {rest} more")) } else { fault }
}

/// Tells what does not stop the commit.
pub fn warn(changes: &Changes, rules: &Rules) {
    if rules.leaks == Leaks::Warn {
        for leak in changes.leaks.iter().take(SHOWN) {
            log::warn!("a trace of the run is committed: {leak}");
        }
        if let rest @ 1.. = changes.leaks.len().saturating_sub(SHOWN) {
            log::warn!("and {rest} more traces; --report FILE has them all");
        }
    }
    for what in changes.inexact.iter().take(SHOWN) {
        log::warn!("not exactly what a plain chroot leaves: {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::leaks::Leak;
    use crate::image::Inside;

    #[test]
    fn each_rule_refuses_with_the_command_that_goes_on() {
        let path = Inside::from_components([&b"etc"[..], b"hosts"]);
        let leak = Leak { path: path.clone(), line: Some(3), offset: 9, what: "the mirror".to_owned() };
        let changes = Changes {
            conflicts: vec![path],
            leaks: vec![leak],
            inexact: vec!["a device".to_owned()],
            ..Changes::default()
        };
        let strict = Rules { exact: true, leaks: Leaks::Fail, ..Rules::default() };
        let table = [
            (strict.clone(), "/etc/hosts", "commit x --force"),
            (Rules { force: true, ..strict.clone() }, "/etc/hosts:3: the mirror", "commit x --leaks warn"),
            (Rules { force: true, leaks: Leaks::Warn, ..strict }, "a device", "--backend copy"),
        ];
        for (rules, because, hint) in table {
            let fault = Fault::from_error(check(&changes, &rules, "x").unwrap_err());
            assert_eq!(fault.because, [because]);
            assert!(fault.hints[0].contains(hint), "{:?}", fault.hints);
        }
        let lax = Rules { force: true, ..Rules::default() };
        check(&changes, &lax, "x").unwrap();
    }

    #[test]
    fn a_long_list_is_cut() {
        let conflicts = (0..50).map(|i| Inside::from_components([i.to_string().as_bytes()])).collect();
        let changes = Changes { conflicts, ..Changes::default() };
        let fault = Fault::from_error(check(&changes, &Rules::default(), "x").unwrap_err());
        assert_eq!(fault.because.last().unwrap(), "and 30 more");
    }
}
