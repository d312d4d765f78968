//! The server's own secret, which the addresses of waiting nodes are signed with.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use troupe_actors::RESUME_SECRET_BYTES;

const FILE: &str = "resume.key";
const UNFINISHED: &str = "resume.key.new";

/// Reads the secret beside the store, or makes one at the first start. Whoever has it can make addresses, so that only
/// the owner of the directory may read it.
///
/// # Errors
/// Those of the file system; a file of another length is refused: with a new secret every address that was given out
/// would be void.
pub(crate) fn server_secret(directory: &Path) -> io::Result<[u8; RESUME_SECRET_BYTES]> {
    let path = directory.join(FILE);
    match File::open(&path) {
        Ok(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let wrong = |bytes: Vec<u8>| {
                let length = bytes.len();
                let why = format!("{} has {length} bytes instead of {RESUME_SECRET_BYTES}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, why)
            };
            bytes.try_into().map_err(wrong)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(directory),
        Err(error) => Err(error),
    }
}

/// The whole file or none: it is renamed into place once the disk has it.
fn create(directory: &Path) -> io::Result<[u8; RESUME_SECRET_BYTES]> {
    let mut secret = [0; RESUME_SECRET_BYTES];
    let random = SystemRandom::new();
    random
        .fill(&mut secret)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let unfinished = directory.join(UNFINISHED);
    // One that a crash left may have other permissions.
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&unfinished)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, directory.join(FILE))?;
    File::open(directory)?.sync_all()?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_made_once_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(UNFINISHED), "left by a crash").unwrap();
        let first = server_secret(directory.path()).unwrap();
        assert_eq!(server_secret(directory.path()).unwrap(), first);
        assert_ne!(server_secret(tempfile::tempdir().unwrap().path()).unwrap(), first);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(directory.path().join(FILE))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::write(directory.path().join(FILE), "short").unwrap();
        assert!(server_secret(directory.path()).is_err());
    }
}
