//! The object file with the kernel programs.

use std::borrow::Cow;
use std::path::PathBuf;

use crate::KernelError;

#[cfg(bailiff_ebpf_embedded)]
static EMBEDDED: &[u8] = aya::include_bytes_aligned!(env!("BAILIFF_EBPF_EMBEDDED"));

/// The object: the one in BAILIFF_EBPF_OBJECT, the embedded one, one beside the executable, or the installed one.
pub(crate) fn find() -> Result<Cow<'static, [u8]>, KernelError> {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map(Cow::Owned)
            .map_err(KernelError::system(format!("cannot read {}", path.display())))
    };
    if let Some(path) = std::env::var_os("BAILIFF_EBPF_OBJECT").map(PathBuf::from) {
        return read(&path);
    }
    #[cfg(bailiff_ebpf_embedded)]
    return Ok(Cow::Borrowed(EMBEDDED));
    #[cfg(not(bailiff_ebpf_embedded))]
    {
        let beside = std::env::current_exe()
            .ok()
            .and_then(|exe| Some(exe.parent()?.join("bailiff-ebpf.o")));
        let installed = PathBuf::from("/usr/lib/bailiff/bailiff-ebpf.o");
        match beside
            .filter(|path| path.exists())
            .or_else(|| installed.exists().then(|| installed.clone()))
        {
            Some(path) => read(&path),
            None => Err(KernelError::NoObject {
                looked_for: installed,
            }),
        }
    }
}
