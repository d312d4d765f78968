//! A file layer for crash tests: what was not synced is lost when the process is killed, as in a power failure.
//!
//! Killing a process alone proves nothing about syncing, because the operating system still has what was written. This
//! layer, an SQLite VFS over the system's own, keeps writes to databases and their WAL in memory until `xSync` and only then
//! hands them to the file. Reads, also those of other connections of the process, see them at once. Locks and the shared
//! memory of the WAL pass through: they do not survive a restart anyway.
//!
//! A disk that loses its power has often begun to write: when tearing, some syncs let the first unsynced writes through,
//! the last of them up to the edge of a sector only, and then take their time, so that a kill finds the file like that.

#![allow(unsafe_code)]

mod file;
mod overlay;
mod tearing;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rusqlite::ffi;

use super::options::PowerLoss;
use file::PowerLossFile;
use overlay::Overlay;

const NAME: &CStr = c"troupe-power-loss";

/// Whether every sync fails, and nothing unsynced reaches a file.
static SYNCS_FAIL: AtomicBool = AtomicBool::new(false);

/// From now on every sync of this process fails, or none does any more: a disk that is unwell. For tests; only files that were
/// opened with a [`PowerLoss`] are affected.
pub fn fail_syncs(is_on: bool) {
    SYNCS_FAIL.store(is_on, Ordering::Relaxed);
}

/// Files whose content must survive; temporary ones go to the system's layer directly.
const DURABLE_FILES: c_int =
    ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;

/// One overlay a path, shared by all connections of the process.
fn overlays() -> &'static Mutex<HashMap<CString, Weak<Mutex<Overlay>>>> {
    static OVERLAYS: OnceLock<Mutex<HashMap<CString, Weak<Mutex<Overlay>>>>> = OnceLock::new();
    OVERLAYS.get_or_init(Mutex::default)
}

fn overlay_of(path: &CStr) -> Arc<Mutex<Overlay>> {
    let mut overlays = overlays().lock();
    overlays.retain(|_, overlay| overlay.strong_count() > 0);
    if let Some(overlay) = overlays.get(path).and_then(Weak::upgrade) {
        return overlay;
    }
    let overlay = Arc::default();
    overlays.insert(path.to_owned(), Arc::downgrade(&overlay));
    overlay
}

/// Name of the layer, none where nothing is to be lost; registers it on first use. Whether it tears holds for the process.
pub(super) fn vfs(power_loss: PowerLoss) -> Result<Option<&'static CStr>, String> {
    static REGISTERED: OnceLock<Result<(), String>> = OnceLock::new();
    match power_loss {
        PowerLoss::Never => return Ok(None),
        PowerLoss::DropsUnsynced => {}
        PowerLoss::TearsUnsynced { seed } => tearing::begin(seed),
    }
    REGISTERED.get_or_init(register).clone().map(|()| Some(NAME))
}

fn register() -> Result<(), String> {
    // SAFETY: a null name asks for the default VFS, which stays registered and unchanged for the life of the process. The copy
    // is leaked, so SQLite may keep it for ever; its file size leaves room for our part before the system's.
    unsafe {
        let system = ffi::sqlite3_vfs_find(std::ptr::null());
        if system.is_null() {
            return Err("SQLite has no default VFS".to_owned());
        }
        let mut vfs = *system;
        vfs.pNext = std::ptr::null_mut();
        vfs.zName = NAME.as_ptr();
        vfs.pAppData = system.cast();
        vfs.szOsFile += PowerLossFile::BYTES;
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        vfs.xAccess = Some(access);
        vfs.xFullPathname = Some(full_pathname);
        match ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) {
            ffi::SQLITE_OK => Ok(()),
            code => Err(format!("SQLite refused the power-loss VFS with code {code}")),
        }
    }
}

/// The VFS below.
///
/// # Safety
///
/// `vfs` is the one that [`register`] registered.
unsafe fn system(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: `register` stored the default VFS there.
    unsafe { (*vfs).pAppData.cast() }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes the VFS we registered, a path that is null or ends with a zero, and `szOsFile` bytes for the file.
    unsafe {
        let system = system(vfs);
        let Some(system_open) = (*system).xOpen else {
            return ffi::SQLITE_CANTOPEN;
        };
        if flags & DURABLE_FILES == 0 || name.is_null() {
            return system_open(system, name, file, flags, flags_out);
        }
        let code = system_open(system, name, PowerLossFile::below(file), flags, flags_out);
        if code == ffi::SQLITE_OK {
            PowerLossFile::install(file, overlay_of(CStr::from_ptr(name)));
        } else {
            (*file).pMethods = std::ptr::null();
        }
        code
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: SQLite passes the VFS we registered and a path that ends with a zero.
    unsafe {
        let system = system(vfs);
        overlays().lock().remove(CStr::from_ptr(name));
        (*system)
            .xDelete
            .map_or(ffi::SQLITE_IOERR_DELETE, |delete| delete(system, name, sync_directory))
    }
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    result: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's arguments are handed on as they are, with the VFS that the function belongs to.
    unsafe {
        let system = system(vfs);
        (*system)
            .xAccess
            .map_or(ffi::SQLITE_IOERR_ACCESS, |access| access(system, name, flags, result))
    }
}

unsafe extern "C" fn full_pathname(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    bytes: c_int,
    path: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's arguments are handed on as they are, with the VFS that the function belongs to.
    unsafe {
        let system = system(vfs);
        (*system)
            .xFullPathname
            .map_or(ffi::SQLITE_CANTOPEN, |full| full(system, name, bytes, path))
    }
}
