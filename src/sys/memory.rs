//! Memory that a run is sure to use, asked for in one call: a page that comes by a fault of its own costs several times as much.

use std::hint::black_box;

/// Bytes of heap that a run of a small step touches.
const HEAP: usize = 352 << 10;
/// Bytes of stack; the kernel maps 128 KiB below the arguments at once.
const STACK: usize = 104 << 10;
/// Two of these are more than what the heap begins with (128 KiB), and one is less than what malloc(3) maps apart.
const PIECE: usize = 100 << 10;

/// Makes heap and stack ready, madvise(2). Where that is not possible (before Linux 5.14), the pages come one by one, as ever.
pub fn make_ready() {
    let here = 0_u8;
    let stack = (&raw const here).addr();
    populate(stack - STACK, STACK);
    #[cfg(target_env = "gnu")]
    populate(grown_heap(), HEAP);
}

/// Lets the heap grow once to what is needed, mallopt(3). Returns where that begins.
#[cfg(target_env = "gnu")]
fn grown_heap() -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a small constant")]
    const PAD: i32 = HEAP as i32;
    // SAFETY: sets two numbers of the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_TOP_PAD, PAD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 * PAD);
    }
    let pieces = [(); 2].map(|()| black_box(Vec::<u8>::with_capacity(PIECE)));
    pieces[0].as_ptr().addr()
}

fn populate(start: usize, length: usize) {
    let start = start & !4095;
    // SAFETY: changes no contents and no mapping; where nothing is mapped it fails.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_POPULATE_WRITE);
    }
}
