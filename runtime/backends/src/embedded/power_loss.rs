//! placeholder
pub(super) fn vfs() -> Result<&'static std::ffi::CStr, String> {
    Err("not built yet".to_owned())
}
