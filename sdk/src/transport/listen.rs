// SPDX-License-Identifier: Apache-2.0
//! Sockets to listen on.
//!
//! **Guarantees**: a socket file that a program has left is replaced; one that a program listens on is not, nor is
//! anything that is no socket. The socket may be opened by every user (mode 0777): the programs of a node run as
//! different users in different pods, and TLS decides who is let in. Missing parent directories are made.
//! **On close**: the socket file is removed, unless it is another's by then.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::Address;
use super::stream::Stream;
use crate::core::{Error, Inode, Result};

/// A bound socket. Displays as the URL that it really has.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener, SocketAddr),
}

/// A socket's file, removed when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: Inode,
}

impl Listener {
    /// Errors: `address-in-use`, `listen`.
    pub(crate) async fn bind(address: &Address) -> Result<Self> {
        match address {
            Address::Unix(path) => bind_unix(path)
                .await
                .map_err(|error| error.context(format!("cannot listen on {address}"))),
            Address::Tcp(authority) => bind_tcp(authority).await.map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => {
                    in_use(format!("cannot listen on {address}: another program does"))
                }
                _ => Error::unavailable("listen", format!("cannot listen on {address}: {error}")),
            }),
        }
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener, _) => Stream::unix(listener.accept().await?.0),
            Self::Tcp(listener, _) => Stream::tcp(listener.accept().await?.0),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(_, file) => write!(f, "{}", Address::Unix(file.path.clone())),
            Self::Tcp(_, address) => write!(f, "tcp://{address}"),
        }
    }
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.into(),
            inode: inode(&fs::symlink_metadata(path)?),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| inode(&now) == self.inode) {
            let _gone_already = fs::remove_file(&self.path);
        }
    }
}

fn inode(of: &fs::Metadata) -> Inode {
    Inode {
        dev: of.dev(),
        ino: of.ino(),
    }
}

fn in_use(text: String) -> Error {
    Error::unavailable("address-in-use", text)
}

async fn bind_unix(path: &Path) -> Result<Listener> {
    let failed = |what: &str, error: io::Error| Error::unavailable("listen", format!("{what}: {error}"));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| failed("its directory cannot be made", error))?;
    }
    make_way(path).await?;
    let listener = UnixListener::bind(path).map_err(|error| failed("the socket cannot be bound", error))?;
    let file = SocketFile::new(path).map_err(|error| failed("the socket has vanished", error))?;
    fs::set_permissions(path, Permissions::from_mode(0o777))
        .map_err(|error| failed("its mode cannot be set", error))?;
    Ok(Listener::Unix(listener, file))
}

/// Removes the socket that a program has left at `path`, if one has.
async fn make_way(path: &Path) -> Result<()> {
    let blocked = |text: String| Error::unavailable("listen", text);
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(blocked(error.to_string())),
    };
    if found.is_dir() {
        return Err(blocked(
            "there is a directory at that path; remove it, or choose a file in it".into(),
        ));
    }
    if !found.is_socket() {
        return Err(blocked(
            "there is a file at that path that is no socket; it is not overwritten".into(),
        ));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| {
                blocked(format!(
                    "the socket that is left there cannot be removed: {error}"
                ))
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(in_use("the address is in use by a running program".into())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(in_use("the address is in use by a running program".into()))
        }
        Err(error) => Err(blocked(format!(
            "the socket that is there does not tell whether it is in use: {error}"
        ))),
    }
}

/// An empty host means all addresses of both families, where the machine has both.
async fn bind_tcp(authority: &str) -> io::Result<Listener> {
    let listener = match authority.strip_prefix(':') {
        Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(format!("0.0.0.0:{port}")).await
            }
            done => done,
        },
        None => TcpListener::bind(authority).await,
    }?;
    let address = listener.local_addr()?;
    Ok(Listener::Tcp(listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener as StdListener;

    fn unix(directory: &tempfile::TempDir, name: &str) -> Address {
        Address::Unix(directory.path().join(name))
    }

    #[tokio::test]
    async fn a_socket_is_open_to_all_and_its_file_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let address = unix(&directory, "deep/er/nsm.sock");
        let Address::Unix(path) = &address else {
            unreachable!()
        };
        let listener = Listener::bind(&address).await.unwrap();
        assert_eq!(listener.to_string(), address.to_string());
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o777);
        let (accepted, connected) = tokio::join!(listener.accept(), UnixStream::connect(path));
        assert!(accepted.is_ok() && connected.is_ok());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_a_program_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let address = unix(&directory, "nsm.sock");
        let Address::Unix(path) = &address else {
            unreachable!()
        };
        drop(StdListener::bind(path).unwrap());
        assert!(path.exists(), "std leaves the file");
        Listener::bind(&address).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_in_use_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let address = unix(&directory, "nsm.sock");
        let first = Listener::bind(&address).await.unwrap();
        let error = Listener::bind(&address).await.unwrap_err();
        assert_eq!(error.reason(), "address-in-use");
        assert!(
            error.text().contains("in use by a running program") && error.text().contains("nsm.sock"),
            "{error}"
        );
        let Address::Unix(path) = &address else {
            unreachable!()
        };
        assert!(UnixStream::connect(path).await.is_ok());
        drop(first);
    }

    #[tokio::test]
    async fn a_directory_or_file_in_the_way_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("dir")).unwrap();
        fs::write(directory.path().join("file"), "precious").unwrap();
        std::os::unix::fs::symlink("nowhere", directory.path().join("link")).unwrap();
        for (name, what) in [
            ("dir", "directory"),
            ("file", "no socket"),
            ("link", "no socket"),
            ("file/a", "directory cannot be made"),
        ] {
            let error = Listener::bind(&unix(&directory, name)).await.unwrap_err();
            assert_eq!(error.reason(), "listen");
            assert!(
                error.text().contains(what) && error.text().contains(name),
                "{error}"
            );
        }
        assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn the_file_of_a_successor_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let address = unix(&directory, "nsm.sock");
        let Address::Unix(path) = &address else {
            unreachable!()
        };
        let first = Listener::bind(&address).await.unwrap();
        fs::rename(path, directory.path().join("old")).unwrap();
        let second = Listener::bind(&address).await.unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn tcp_tells_the_port_it_got_and_who_is_in_the_way() {
        let listener = Listener::bind(&"tcp://127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let url = listener.to_string();
        assert!(
            url.starts_with("tcp://127.0.0.1:") && !url.ends_with(":0"),
            "{url}"
        );
        let error = Listener::bind(&url.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.reason(), "address-in-use");
        let everywhere = Listener::bind(&":0".parse().unwrap()).await.unwrap();
        assert!(everywhere.to_string().parse::<Address>().is_ok());
    }
}
