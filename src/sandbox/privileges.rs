//! The rights of the step: capabilities, user, keyring, descriptors. Runs in the step's process, last before exec.

use caps::{CapSet, Capability, CapsHashSet};

use crate::error::{Doing, Result};
use crate::image::account::Account;
use crate::sys::process;

/// Gives up everything the step must not have. The bounding set goes first, while the right to change it is still there.
pub fn lower(account: &Account, capabilities: &[String]) -> Result<()> {
    let parse = |name: &String| name.parse::<Capability>().doing(|| format!("{name:?} is not a capability"));
    let wanted: CapsHashSet = capabilities.iter().map(parse).collect::<Result<_>>()?;
    process::new_session_keyring();
    let kept = wanted.iter().fold(0_u64, |bits, capability| bits | capability.bitmask());
    process::limit_bounding_set(kept).doing(|| "cannot drop capabilities from the bounding set")?;
    process::become_user(account.uid, account.gid, &account.groups)
        .doing(|| format!("cannot become user {} and group {}", account.uid, account.gid))?;
    let permitted = caps::read(None, CapSet::Permitted).doing(|| "cannot read the capabilities")?;
    let kept: CapsHashSet = wanted.intersection(&permitted).copied().collect();
    caps::clear(None, CapSet::Inheritable).doing(|| "cannot clear the inheritable capabilities")?;
    // Permitted may only shrink to a superset of effective: effective first.
    caps::set(None, CapSet::Effective, &kept).doing(|| "cannot set the effective capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).doing(|| "cannot set the permitted capabilities")
}
