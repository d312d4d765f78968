//! The memory of one realm: limited, counted, and with a mark that says that the limit was hit.
//!
//! QuickJS throws a bare `null` when it is out of memory, which code can also do by itself; the mark tells them apart.

use std::cell::Cell;
use std::rc::Rc;

use rquickjs::allocator::Allocator;

/// What a realm has allocated.
#[derive(Debug, Default)]
pub(super) struct Usage {
    bytes: Cell<usize>,
    refused: Cell<bool>,
}

impl Usage {
    /// What is allocated, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Whether an allocation was refused since the last call.
    pub(super) fn take_refused(&self) -> bool {
        self.refused.take()
    }
}

/// The C library's allocator up to a limit.
#[derive(Debug)]
pub(super) struct Limited {
    pub(super) usage: Rc<Usage>,
    pub(super) bytes_max: usize,
}

impl Limited {
    /// Whether `more` bytes fit once `less` are given back.
    fn fits(&self, more: usize, less: usize) -> bool {
        let fits = self.usage.bytes().saturating_sub(less).saturating_add(more) <= self.bytes_max;
        if !fits {
            self.usage.refused.set(true);
        }
        fits
    }

    fn moved(&self, pointer: *mut u8, freed: usize) -> *mut u8 {
        if pointer.is_null() {
            self.usage.refused.set(true);
        } else {
            let now = self.usage.bytes().saturating_sub(freed).saturating_add(usable(pointer));
            self.usage.bytes.set(now);
        }
        pointer
    }
}

#[allow(unsafe_code)]
fn usable(pointer: *mut u8) -> usize {
    // SAFETY: only called with pointers that the C library's allocator gave, or null.
    unsafe { libc::malloc_usable_size(pointer.cast()) }
}

// SAFETY: every method hands through to the C library's allocator, whose results are aligned for every type; the
// limit only ever turns a success into the allowed null.
#[allow(unsafe_code)]
unsafe impl Allocator for Limited {
    fn alloc(&mut self, size: usize) -> *mut u8 {
        if !self.fits(size, 0) {
            return std::ptr::null_mut();
        }
        // SAFETY: any size may be asked for.
        let pointer = unsafe { libc::malloc(size) };
        self.moved(pointer.cast(), 0)
    }

    fn calloc(&mut self, count: usize, size: usize) -> *mut u8 {
        if !self.fits(count.saturating_mul(size), 0) {
            return std::ptr::null_mut();
        }
        // SAFETY: any count and size may be asked for.
        let pointer = unsafe { libc::calloc(count, size) };
        self.moved(pointer.cast(), 0)
    }

    unsafe fn dealloc(&mut self, ptr: *mut u8) {
        self.usage.bytes.set(self.usage.bytes().saturating_sub(usable(ptr)));
        // SAFETY: the caller gives a pointer of this allocator.
        unsafe { libc::free(ptr.cast()) }
    }

    unsafe fn realloc(&mut self, ptr: *mut u8, new_size: usize) -> *mut u8 {
        let old = usable(ptr);
        if !self.fits(new_size, old) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller gives a pointer of this allocator.
        let pointer = unsafe { libc::realloc(ptr.cast(), new_size) };
        self.moved(pointer.cast(), old)
    }

    unsafe fn usable_size(ptr: *mut u8) -> usize {
        usable(ptr)
    }
}
