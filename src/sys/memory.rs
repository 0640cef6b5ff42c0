//! The heap, and memory that a run is sure to use, asked for in one call: a page that comes by a fault of its own costs several
//! times as much.
//!
//! A run of a small step makes some thousand pieces and is over. They come one after the other from an [`Arena`], where a piece
//! costs one addition and giving it back nothing, no page of it a copy after the fork. What lives longer and needs more, a large
//! commit or `mirror`, has Doug Lea's allocator from there on. The same with every C library.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use dlmalloc::Dlmalloc;

/// Twice what the pieces of a small step's run need when none is used twice.
const ARENA: usize = 512 << 10;
/// What they have needed when the sandbox is made: what comes later is each process's own.
const READY: usize = 160 << 10;
/// The largest piece of the arena: a larger one is a buffer, and given back soon.
const PIECE: usize = 8 << 10;
/// What every mapping is aligned to.
const PAGE: usize = 4096;
/// As malloc(3) aligns every piece: libraries read structures of C from buffers of bytes.
const ALIGNED: usize = 16;
/// What is asked of the kernel at a time, when that is used up.
const MORE: usize = 1 << 20;
/// Bytes of stack that a run touches.
const STACK: usize = 48 << 10;

struct Heap {
    arena: Arena,
    rest: Mutex<Dlmalloc<Pages>>,
}

#[global_allocator]
static HEAP: Heap = Heap { arena: Arena::new(), rest: Mutex::new(Dlmalloc::new_with_allocator(Pages)) };

impl Heap {
    fn rest<T>(&self, act: impl FnOnce(&mut Dlmalloc<Pages>) -> T) -> T {
        act(&mut self.rest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// SAFETY: a piece of the arena is nobody else's, ever; the rest is passed on to an allocator that keeps the same promises, under
// a lock. A piece goes back to where it came from, which its address tells.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(piece) = self.arena.piece(layout) {
            return piece;
        }
        // SAFETY: the layout is the caller's, whose duty is the same.
        self.rest(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // Fresh from the kernel, and used once.
        if let Some(piece) = self.arena.piece(layout) {
            return piece;
        }
        // SAFETY: as above.
        self.rest(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if !self.arena.has(piece) {
            // SAFETY: the caller got the piece from here with this layout, and not from the arena.
            self.rest(|heap| unsafe { heap.free(piece, layout.size(), layout.align()) });
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.arena.has(piece) {
            // SAFETY: as above.
            return self.rest(|heap| unsafe { heap.realloc(piece, layout.size(), layout.align(), size) });
        }
        if self.arena.resize(piece, layout.size(), size) {
            return piece;
        }
        // SAFETY: the caller's size is valid with this alignment; both pieces have as many bytes as are copied, and are not the
        // same.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(piece, new, layout.size().min(size));
            }
            new
        }
    }
}

/// One mapping that is given out from its start to its end, once.
struct Arena {
    /// None before the first piece.
    start: AtomicPtr<u8>,
    /// Bytes given out.
    used: AtomicUsize,
}

impl Arena {
    const fn new() -> Arena {
        Arena { start: AtomicPtr::new(std::ptr::null_mut()), used: AtomicUsize::new(0) }
    }

    #[cold]
    fn begin(&self) -> Option<*mut u8> {
        let new = map(ARENA)?;
        populate(new.addr(), READY);
        match self.start.compare_exchange(std::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(new),
            Err(other) => {
                // SAFETY: nobody has seen this mapping.
                unsafe { libc::munmap(new.cast(), ARENA) };
                Some(other)
            }
        }
    }

    /// A new piece; `None`: it is large, or the arena is used up.
    #[inline(always)]
    fn piece(&self, layout: Layout) -> Option<*mut u8> {
        if layout.size() > PIECE || layout.align() > PAGE {
            return None;
        }
        let mut base = self.start.load(Ordering::Acquire);
        if base.is_null() {
            base = self.begin()?;
        }
        let (mask, mut used) = (layout.align().max(ALIGNED) - 1, self.used.load(Ordering::Relaxed));
        loop {
            let start = (used + mask) & !mask;
            let end = start + layout.size();
            if end > ARENA {
                return None;
            }
            match self.used.compare_exchange_weak(used, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(base.wrapping_add(start)),
                Err(now) => used = now,
            }
        }
    }

    /// Makes a piece shorter, or the last one longer, in its place.
    fn resize(&self, piece: *mut u8, old: usize, new: usize) -> bool {
        // What a shorter one gives up is not given out again: a new piece is all zeroes.
        if new <= old {
            return true;
        }
        let start = piece.addr() - self.start.load(Ordering::Relaxed).addr();
        let (end, wish) = (start + old, start + new);
        let fits = new <= PIECE && wish <= ARENA;
        fits && self.used.compare_exchange(end, wish, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn has(&self, piece: *mut u8) -> bool {
        piece.addr().wrapping_sub(self.start.load(Ordering::Relaxed).addr()) < ARENA
    }
}

/// Anonymous memory of the kernel's, mmap(2).
struct Pages;

fn map(size: usize) -> Option<*mut u8> {
    let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), size, rights, kind, -1, 0) };
    (start != libc::MAP_FAILED).then_some(start.cast())
}

/// Makes pages ready for writing, madvise(2). Where that is not possible (before Linux 5.14), they come one by one, as ever.
fn populate(start: usize, length: usize) {
    let start = start & !4095;
    // SAFETY: changes no contents and no mapping; where nothing is mapped it fails.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_POPULATE_WRITE);
    }
}

// SAFETY: what is given out is a mapping of its own that nobody else has, and what is given back is one that was given out.
unsafe impl dlmalloc::Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let size = size.max(MORE);
        map(size).map_or((std::ptr::null_mut(), 0, 0), |start| (start, size, 0))
    }

    fn remap(&self, _piece: *mut u8, _old: usize, _new: usize, _may_move: bool) -> *mut u8 {
        std::ptr::null_mut()
    }

    fn free_part(&self, piece: *mut u8, old: usize, new: usize) -> bool {
        // SAFETY: the end of a mapping that the allocator was given and has nothing in.
        unsafe { libc::munmap(piece.add(new).cast(), old - new) == 0 }
    }

    fn free(&self, piece: *mut u8, size: usize) -> bool {
        // SAFETY: a mapping that the allocator was given and has nothing in.
        unsafe { libc::munmap(piece.cast(), size) == 0 }
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        // The largest that Linux has: only whole ones are given back.
        1 << 16
    }
}

/// Makes the stack ready.
pub fn make_ready() {
    let here = 0_u8;
    populate((&raw const here).addr() - STACK, STACK);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(arena: &Arena, size: usize, align: usize) -> Option<*mut u8> {
        arena.piece(Layout::from_size_align(size, align).unwrap())
    }

    #[test]
    fn pieces_are_aligned_zero_and_apart_until_the_arena_is_used_up() {
        let arena = Arena::new();
        let mut end = 0;
        for round in 0.. {
            let (size, align) = (1 + round * 37 % 3000, 1 << (round % 13));
            let Some(start) = piece(&arena, size, align) else { break };
            assert!(start.addr().is_multiple_of(align.max(ALIGNED)) && start.addr() >= end && arena.has(start));
            // SAFETY: the piece is ours, and has that many bytes.
            let bytes = unsafe { std::slice::from_raw_parts_mut(start, size) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(0xff);
            end = start.addr() + size;
        }
        assert!(arena.used.load(Ordering::Relaxed) > ARENA - 2 * PIECE);
        assert!(!arena.has(Box::into_raw(Box::new([0_u8; 2 * PIECE])).cast()));
    }

    #[test]
    fn the_last_piece_grows_in_its_place_and_no_other_does() {
        let arena = Arena::new();
        let first = piece(&arena, 100, 8).unwrap();
        assert!(arena.resize(first, 100, 200));
        let second = piece(&arena, 10, 8).unwrap();
        assert!(second.addr() >= first.addr() + 200);
        assert!(!arena.resize(first, 200, 300), "it would run into the second");
        assert!(arena.resize(first, 200, 50), "shorter it may be");
        assert!(!arena.resize(second, 10, PIECE + 1), "what is large is not of the arena");
        assert!(piece(&arena, 8, 2 * PAGE).is_none(), "no mapping is sure to be aligned to more than a page");
    }

    #[test]
    fn texts_that_grow_by_turns_keep_what_they_have() {
        let mut texts = vec![String::new(); 7];
        for round in 0..4000 {
            texts[round % 7].push(char::from(b'a' + u8::try_from(round % 26).unwrap()));
        }
        for (place, text) in texts.iter().enumerate() {
            let expected = (place..4000).step_by(7).map(|round| char::from(b'a' + u8::try_from(round % 26).unwrap()));
            assert!(text.chars().eq(expected));
        }
    }
}
