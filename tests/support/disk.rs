//! File systems of a test's own on loop devices, in a mount namespace that ends with its thread; and what is on a disk whose
//! power went off.
#![allow(dead_code, reason = "every test program takes in the whole module and uses its part of it")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::fuse::Event;

/// Runs `work` on a thread with a mount namespace of its own and an empty tmpfs at `at`. Whatever happens to the thread or
/// to the test program, its mounts end with it, and with them the loop devices.
pub fn apart<T: Send>(at: &Path, work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        mount(Some("dropcloth-test"), at, Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
        work()
    };
    let result = thread::scope(|scope| scope.spawn(inside).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A file system on a loop device; the device goes with the mount.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn new(file: &Path, at: &Path) -> Mounted {
        std::fs::create_dir_all(at).unwrap();
        let output = Command::new("mount").args(["-o", "loop"]).args([file, at]).output().unwrap();
        assert!(output.status.success(), "mount {}: {}", file.display(), super::stderr(&output));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..500 {
            if umount2(&self.0, MntFlags::empty()).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        assert!(thread::panicking(), "{} is still in use", self.0.display());
    }
}

/// Writes `content` with holes where it has nothing but zeros.
pub fn write_sparse(path: &Path, content: &[u8]) {
    const CHUNK: usize = 16 << 10;
    let mut file = File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (index, chunk) in content.chunks(CHUNK).enumerate() {
        if chunk != &[0; CHUNK][..chunk.len()] {
            file.seek(SeekFrom::Start((index * CHUNK) as u64)).unwrap();
            file.write_all(chunk).unwrap();
        }
    }
}

/// What a power cut does to the writes that no flush has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All are lost.
    All,
    /// None is lost.
    None,
    /// Chance decides, for each piece and for the moment.
    Some(u64),
}

/// One disk as the log makes it, moment by moment.
pub struct Platter<'a> {
    disk: usize,
    log: &'a [Event],
    content: Vec<u8>,
    /// Up to here every write is confirmed, and in `content`.
    durable: usize,
}

/// What a disk writes as a whole or not at all, here: a block of the file system.
const PIECE: usize = 4096;

impl<'a> Platter<'a> {
    pub fn new(disk: usize, content: Vec<u8>, log: &'a [Event]) -> Platter<'a> {
        Platter { disk, log, content, durable: 0 }
    }

    /// What is on the disk when the power goes off just before event `when`; not earlier than in the call before.
    pub fn cut(&mut self, when: usize, loss: Loss) -> Vec<u8> {
        let flushed = |event: &Event| matches!(event, Event::Flush { disk } if *disk == self.disk);
        let log = self.log;
        if let Some(flush) = log[self.durable..when].iter().rposition(flushed) {
            let from = self.durable;
            self.durable += flush + 1;
            log[from..self.durable].iter().for_each(|event| apply(event, self.disk, &mut self.content, |_| true));
        }
        let mut content = self.content.clone();
        let open = &log[self.durable..when];
        match loss {
            Loss::All => {}
            Loss::None => open.iter().for_each(|event| apply(event, self.disk, &mut content, |_| true)),
            Loss::Some(seed) => {
                let mut chance = Chance::new(seed ^ (when as u64) << 20 ^ (self.disk as u64) << 60);
                let kept = [1, 4, 8, 12, 15][chance.below(5)];
                let until = chance.below(open.len() + 1);
                open[..until]
                    .iter()
                    .for_each(|event| apply(event, self.disk, &mut content, |_| chance.below(16) < kept));
            }
        }
        content
    }
}

fn apply(event: &Event, to: usize, content: &mut [u8], mut survives: impl FnMut(usize) -> bool) {
    let Event::Write { disk, offset, data } = event else { return };
    if *disk != to {
        return;
    }
    let mut done = 0;
    while done < data.len() {
        let at = offset + done;
        let end = data.len().min(done + PIECE - at % PIECE);
        if survives(at) {
            content[at..at + end - done].copy_from_slice(&data[done..end]);
        }
        done = end;
    }
}

/// Numbers that are the same for the same seed (splitmix64).
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// One of `0..limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a size of this machine")
    }
}
