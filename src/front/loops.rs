//! Loop devices, loop(4): they belong to no namespace, so what a framework leaves of them is let go by hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::sys::{SysResult, volume};

/// The loop devices that have a file behind them, as /dev/loopN.
pub fn attached() -> BTreeSet<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else { return BTreeSet::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let bound = |name: &String| name.starts_with("loop") && backing(name).is_some();
    names.filter(bound).map(|name| Path::new("/dev").join(name)).collect()
}

fn backing(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()?;
    Some(text.trim_end().to_owned())
}

/// Those that were not there `before`, whose file was made after `started` or is gone, and that nobody has mounted: another's
/// device of the same time has a file of its own age or a mount.
pub fn left(before: &BTreeSet<PathBuf>, started: SystemTime) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = |device: &PathBuf| {
        let Some(file) = device.file_name().and_then(|n| n.to_str()).and_then(backing) else { return false };
        let young = match std::fs::metadata(&file).and_then(|data| data.created()) {
            Ok(made) => made >= started,
            Err(_) => true,
        };
        young && !mounts.contains(&format!(" {} ", device.display()))
    };
    attached().difference(before).filter(|device| ours(device)).cloned().collect()
}

/// LOOP_CLR_FD; a device that is still open goes when it is closed.
pub fn detach(device: &Path) -> SysResult<()> {
    volume::detach_loop(device)
}
