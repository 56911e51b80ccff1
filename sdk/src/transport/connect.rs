// SPDX-License-Identifier: Apache-2.0
//! Connects sockets, and tells why one could not be.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;

use super::Address;
use super::stream::Stream;

/// How long to wait when the listener of a unix socket has no room for another connection.
const BACKLOG_FULL: Duration = Duration::from_millis(5);

/// Connects to `address`; the caller bounds the time.
pub(crate) async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Unix(path) => loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_FULL).await,
                done => return done.and_then(Stream::unix),
            }
        },
        Address::Tcp(authority) if authority.starts_with(':') => {
            Stream::tcp(TcpStream::connect(format!("localhost{authority}")).await?)
        }
        Address::Tcp(authority) => Stream::tcp(TcpStream::connect(authority).await?),
    }
}

/// Why a socket could not be connected, for people.
pub(crate) fn explain(address: &Address, error: &io::Error) -> String {
    match (address, error.kind()) {
        (Address::Unix(_), io::ErrorKind::NotFound) => {
            "there is no such socket: is the program running, and its directory mounted?".into()
        }
        (Address::Unix(_), io::ErrorKind::ConnectionRefused) => {
            "nobody listens on the socket: the program that made it has ended".into()
        }
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => {
            "the socket may not be opened by this user".into()
        }
        (Address::Tcp(_), io::ErrorKind::ConnectionRefused) => {
            "nobody listens there (connection refused)".into()
        }
        _ => error.to_string(),
    }
}
