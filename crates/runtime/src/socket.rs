//! Unix domain sockets: gRPC for programs on the same machine, where a message costs less than over TCP.
//!
//! Who may open one is said by the file: it belongs to the process's user, and nobody else may (mode 0600).

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// A socket that is listened on; its file goes when it is dropped.
pub struct Socket {
    listener: UnixListener,
    file: File,
}

/// A path that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}{}", path.display(), hint(source))]
pub struct SocketError {
    /// The path.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => ": another process answers there",
        io::ErrorKind::AlreadyExists => ": there is a file of another kind",
        io::ErrorKind::NotFound => ": its folder is not there",
        io::ErrorKind::InvalidInput => {
            ": a socket's path has at most 107 bytes, with the 12 that its name has more while it is made"
        }
        _ => "",
    }
}

/// Removed when dropped.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        // What is gone already is as it should be.
        let _ = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Listens on a path, which a process that was killed may have left behind.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        Self::listen(path).await.map_err(|source| SocketError {
            path: path.to_owned(),
            source,
        })
    }

    async fn listen(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(io::ErrorKind::AddrInUse.into()),
            _ => {}
        }
        // Under another name until nobody else may open it.
        let mut making = path.as_os_str().to_owned();
        making.push(format!(".new-{}", std::process::id()));
        let making = File(making.into());
        let listener = UnixListener::bind(&making.0)?;
        fs::set_permissions(&making.0, fs::Permissions::from_mode(0o600))?;
        fs::rename(&making.0, path)?;
        Ok(Self {
            listener,
            file: File(path.to_owned()),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.0
    }

    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_was_left_behind_is_taken_over_and_one_that_answers_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "a process that was killed leaves its file");
        let socket = Socket::bind(&path).await.expect("nobody answers there");
        let mode = fs::metadata(socket.path()).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Socket::bind(&path).await.err().expect("taken");
        assert!(
            error.to_string().ends_with(": another process answers there"),
            "{error}"
        );
        drop(socket);
        let left: Vec<_> = fs::read_dir(folder.path()).expect("it can be read").collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_path_that_is_no_place_for_a_socket_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, long) = (folder.path().join("notes"), folder.path().join("x".repeat(120)));
        fs::write(&file, "mine").expect("written");
        for (path, says) in [
            (&file, "a file of another kind"),
            (&folder.path().join("no/socket"), "its folder is not there"),
            (&long, "at most 107 bytes"),
        ] {
            let error = Socket::bind(path).await.err().expect("refused");
            assert!(error.to_string().contains(says), "{error}");
        }
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
    }
}
