//! An open file of the layer: our part, then the system's file in the same block of memory.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::ffi;

use super::overlay::Overlay;
use super::tearing::{self, Random};

/// Our part of the block that SQLite allocates for a file.
#[repr(C, align(8))]
pub(super) struct PowerLossFile {
    /// First, because SQLite reads the methods here.
    head: ffi::sqlite3_file,
    /// An `Arc<Mutex<Overlay>>` that the file owns.
    overlay: *const Mutex<Overlay>,
}

type File = *mut ffi::sqlite3_file;

/// Without `xFetch`, so that SQLite never maps the file and reads past the overlay.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

impl PowerLossFile {
    /// Size of our part.
    pub(super) const BYTES: c_int = size_of::<Self>() as c_int;

    /// The system's file behind our part.
    ///
    /// # Safety
    ///
    /// `file` points to a block of our VFS' `szOsFile` bytes.
    pub(super) unsafe fn below(file: File) -> File {
        // SAFETY: the block is larger than our part, and our size keeps the alignment of 8 that SQLite gives it.
        unsafe { file.cast::<Self>().add(1).cast() }
    }

    /// Makes the block a file of ours.
    ///
    /// # Safety
    ///
    /// As [`Self::below`], and the system's file behind our part is open.
    pub(super) unsafe fn install(file: File, overlay: Arc<Mutex<Overlay>>) {
        let ours = Self {
            head: ffi::sqlite3_file { pMethods: &METHODS },
            overlay: Arc::into_raw(overlay),
        };
        // SAFETY: the block has room for our part at its start.
        unsafe { file.cast::<Self>().write(ours) }
    }

    /// # Safety
    ///
    /// `file` is one that [`Self::install`] made and that is not closed.
    unsafe fn overlay<'a>(file: File) -> &'a Mutex<Overlay> {
        // SAFETY: the file owns a reference count until it is closed.
        unsafe { &*(*file.cast::<Self>()).overlay }
    }
}

/// Calls a method of the system's file.
macro_rules! below {
    ($file:expr, $method:ident, $missing:expr $(, $argument:expr)*) => {{
        let below = PowerLossFile::below($file);
        match (*(*below).pMethods).$method {
            Some(method) => method(below $(, $argument)*),
            None => $missing,
        }
    }};
}

/// Length of the system's file.
///
/// # Safety
///
/// As [`PowerLossFile::overlay`].
unsafe fn disk_len(file: File) -> Result<u64, c_int> {
    let mut len = 0;
    // SAFETY: the system's file is open as long as ours.
    match unsafe { below!(file, xFileSize, ffi::SQLITE_IOERR_FSTAT, &mut len) } {
        ffi::SQLITE_OK => Ok(len as u64),
        code => Err(code),
    }
}

/// Hands everything unsynced to the system's file.
///
/// # Safety
///
/// As [`PowerLossFile::overlay`].
unsafe fn apply(file: File, overlay: &mut Overlay) -> c_int {
    let unsynced = overlay.drain();
    let mut code = ffi::SQLITE_OK;
    // SAFETY: the system's file is open as long as ours, and each buffer lives through its call.
    unsafe {
        if let Some(cut) = unsynced.0
            && disk_len(file).is_ok_and(|len| len > cut)
        {
            code = below!(file, xTruncate, ffi::SQLITE_IOERR_TRUNCATE, cut as i64);
        }
        for (at, bytes) in &unsynced.1 {
            if code == ffi::SQLITE_OK {
                let (buffer, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len() as c_int);
                code = below!(file, xWrite, ffi::SQLITE_IOERR_WRITE, buffer, len, *at as i64);
            }
        }
    }
    if code != ffi::SQLITE_OK {
        overlay.restore(unsynced);
    }
    code
}

/// Lets the disk write some of what is unsynced; users see the same as before.
///
/// # Safety
///
/// As [`PowerLossFile::overlay`].
unsafe fn let_some_through(file: File, seed: u64) -> c_int {
    // SAFETY: the system's file is open as long as ours, and each buffer lives through its call.
    unsafe {
        let overlay = PowerLossFile::overlay(file).lock();
        for (at, bytes) in overlay.survivors(Random(seed)) {
            let (buffer, len) = (bytes.as_ptr().cast::<c_void>(), bytes.len() as c_int);
            let code = below!(file, xWrite, ffi::SQLITE_IOERR_WRITE, buffer, len, at as i64);
            if code != ffi::SQLITE_OK {
                return code;
            }
        }
    }
    ffi::SQLITE_OK
}

// SAFETY of all methods below: SQLite calls them with a file that `open` installed and that is not closed, with buffers of the
// stated length and valid result pointers; what is handed on goes to the system's method of the same name.

unsafe extern "C" fn close(file: File) -> c_int {
    unsafe {
        // A clean end is no power failure: what the last user did not sync still reaches the file some day.
        let overlay = Arc::from_raw((*file.cast::<PowerLossFile>()).overlay);
        let applied = if Arc::strong_count(&overlay) == 1 {
            apply(file, &mut overlay.lock())
        } else {
            ffi::SQLITE_OK
        };
        let closed = below!(file, xClose, ffi::SQLITE_IOERR_CLOSE);
        if applied == ffi::SQLITE_OK { closed } else { applied }
    }
}

unsafe extern "C" fn read(file: File, buffer: *mut c_void, len: c_int, at: i64) -> c_int {
    unsafe {
        let overlay = PowerLossFile::overlay(file).lock();
        let disk_len = match disk_len(file) {
            Ok(len) => len,
            Err(code) => return code,
        };
        let (start, end) = (at as u64, at as u64 + len as u64);
        let bytes = std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len as usize);
        bytes.fill(0);
        let on_disk = overlay.visible(disk_len).min(end).saturating_sub(start);
        if on_disk > 0 {
            let code = below!(file, xRead, ffi::SQLITE_IOERR_READ, buffer, on_disk as c_int, at);
            if code != ffi::SQLITE_OK {
                return code;
            }
        }
        overlay.cover(start, bytes);
        if overlay.len(disk_len) < end {
            ffi::SQLITE_IOERR_SHORT_READ
        } else {
            ffi::SQLITE_OK
        }
    }
}

unsafe extern "C" fn write(file: File, buffer: *const c_void, len: c_int, at: i64) -> c_int {
    unsafe {
        let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), len as usize);
        PowerLossFile::overlay(file).lock().write(at as u64, bytes);
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn truncate(file: File, len: i64) -> c_int {
    unsafe {
        let mut overlay = PowerLossFile::overlay(file).lock();
        match disk_len(file) {
            Ok(disk_len) => {
                overlay.truncate(len as u64, disk_len);
                ffi::SQLITE_OK
            }
            Err(code) => code,
        }
    }
}

unsafe extern "C" fn sync(file: File, flags: c_int) -> c_int {
    if super::SYNCS_FAIL.load(std::sync::atomic::Ordering::Relaxed) {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    unsafe {
        if let Some((seed, takes)) = tearing::befalls() {
            let code = let_some_through(file, seed);
            if code != ffi::SQLITE_OK {
                return code;
            }
            std::thread::sleep(takes);
        }
        let mut overlay = PowerLossFile::overlay(file).lock();
        match apply(file, &mut overlay) {
            ffi::SQLITE_OK => below!(file, xSync, ffi::SQLITE_IOERR_FSYNC, flags),
            code => code,
        }
    }
}

unsafe extern "C" fn file_size(file: File, len: *mut i64) -> c_int {
    unsafe {
        let overlay = PowerLossFile::overlay(file).lock();
        match disk_len(file) {
            Ok(disk_len) => {
                *len = overlay.len(disk_len) as i64;
                ffi::SQLITE_OK
            }
            Err(code) => code,
        }
    }
}

unsafe extern "C" fn lock(file: File, level: c_int) -> c_int {
    unsafe { below!(file, xLock, ffi::SQLITE_IOERR_LOCK, level) }
}

unsafe extern "C" fn unlock(file: File, level: c_int) -> c_int {
    unsafe { below!(file, xUnlock, ffi::SQLITE_IOERR_UNLOCK, level) }
}

unsafe extern "C" fn check_reserved_lock(file: File, result: *mut c_int) -> c_int {
    unsafe { below!(file, xCheckReservedLock, ffi::SQLITE_IOERR_CHECKRESERVEDLOCK, result) }
}

unsafe extern "C" fn file_control(file: File, operation: c_int, argument: *mut c_void) -> c_int {
    unsafe { below!(file, xFileControl, ffi::SQLITE_NOTFOUND, operation, argument) }
}

unsafe extern "C" fn sector_size(file: File) -> c_int {
    unsafe { below!(file, xSectorSize, 4_096) }
}

unsafe extern "C" fn device_characteristics(file: File) -> c_int {
    // A file system's own atomic batches would go round the overlay.
    unsafe { below!(file, xDeviceCharacteristics, 0) & !ffi::SQLITE_IOCAP_BATCH_ATOMIC }
}

unsafe extern "C" fn shm_map(file: File, page: c_int, bytes: c_int, extend: c_int, at: *mut *mut c_void) -> c_int {
    unsafe { below!(file, xShmMap, ffi::SQLITE_IOERR_SHMMAP, page, bytes, extend, at) }
}

unsafe extern "C" fn shm_lock(file: File, offset: c_int, count: c_int, flags: c_int) -> c_int {
    unsafe { below!(file, xShmLock, ffi::SQLITE_IOERR_SHMLOCK, offset, count, flags) }
}

unsafe extern "C" fn shm_barrier(file: File) {
    unsafe { below!(file, xShmBarrier, ()) }
}

unsafe extern "C" fn shm_unmap(file: File, delete: c_int) -> c_int {
    unsafe { below!(file, xShmUnmap, ffi::SQLITE_OK, delete) }
}
