//! Files that appear whole or not at all, with the right mode from the first byte on.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::PkiError;

/// Writes a secret: mode 0600.
pub fn write_private(path: &Path, content: &str) -> Result<(), PkiError> {
    write(path, content, 0o600)
}

/// Writes something everybody may read: mode 0644.
pub fn write_public(path: &Path, content: &str) -> Result<(), PkiError> {
    write(path, content, 0o644)
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".new-{}", std::process::id()));
    let partial = Path::new(&partial);
    let written = (|| {
        // A partial file of an earlier, killed run may be there with another mode.
        match fs::remove_file(partial) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(partial)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(partial, path)
    })();
    written.map_err(|why| {
        let _ = fs::remove_file(partial);
        PkiError::File { doing: "write", path: path.to_owned(), why }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_private_file_is_private_even_over_a_public_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_public(&path, "a").unwrap();
        write_private(&path, "b").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing partial stays");
    }
}
