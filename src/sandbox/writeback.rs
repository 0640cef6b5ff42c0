//! What a step of some seconds wrote goes to the disk while it still runs: the commit waits for all of it, and the kernel by
//! itself begins after half a minute (proc_sys_vm(5), dirty_expire_centisecs).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sys::fs;

/// A shorter step has no thread started for it.
pub const FIRST: Duration = Duration::from_millis(300);
/// As often as ext4 commits its journal by itself.
const RARELY: Duration = Duration::from_secs(5);
/// What a step wrote at an even rate since the last time is at most this part of the whole.
const PART: u32 = 4;
const STACK: usize = 64 << 10;

/// The thread that does it. It ends by itself when this is dropped, and nobody waits for that.
#[derive(Debug)]
pub struct Writeback {
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writeback {
    /// Begins with the file system that `file` is on. None: there is no thread to be had, and the commit does it all.
    pub fn start(file: OwnedFd) -> Option<Writeback> {
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let run = move || write(&file, &ends);
        thread::Builder::new().stack_size(STACK).spawn(run).ok().map(|thread| Writeback { end, thread })
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
    }
}

/// Errors are told by the sync that counts: each open file learns of them by itself, syncfs(2).
fn write(file: &OwnedFd, end: &AtomicBool) {
    let begun = Instant::now();
    loop {
        let started = Instant::now();
        if fs::syncfs(file.as_fd()).is_err() {
            return;
        }
        // A disk that takes long is not asked all the time.
        let pause = (begun.elapsed() / PART).clamp(FIRST, RARELY).max(started.elapsed());
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if end.load(Ordering::Relaxed) {
                return;
            }
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}
