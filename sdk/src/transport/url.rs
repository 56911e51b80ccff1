// SPDX-License-Identifier: Apache-2.0
//! Where a component listens, and where it is dialled.
//!
//! `unix:///path`, `tcp://host:port`, or `host:port` alone, which manifests use for registries.

use std::fmt;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::str::FromStr;

use crate::core::{Error, Result};

/// The longest path of a unix socket, bytes (`sun_path` of unix(7), without its terminating zero).
const MAX_PATH: usize = 107;

/// A place to listen on or to dial. Displays as its URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A socket file, by its absolute path.
    Unix(PathBuf),
    /// `host:port`. An empty host means every address to a listener, and this machine to a dialler.
    Tcp(String),
}

impl FromStr for Address {
    type Err = Error;

    /// Errors: `bad-url`, naming what is wrong and what would be right.
    fn from_str(url: &str) -> Result<Self> {
        let bad = |what: &str| {
            let text = format!("{url:?} {what}; write unix:///path or tcp://host:port");
            Error::invalid("bad-url", text)
        };
        if let Some(rest) = url.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return match path {
                _ if !path.starts_with('/') => Err(bad("has no absolute path of a socket")),
                _ if path.ends_with('/') => Err(bad("names a directory, not a socket")),
                _ if path.contains('\0') => Err(bad("has a zero byte in its path")),
                _ if path.len() > MAX_PATH => Err(bad(
                    "has a path of more than 107 bytes, the most a socket can have",
                )),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        let authority = match url.split_once("://") {
            Some(("tcp", rest)) => rest.strip_suffix('/').unwrap_or(rest),
            Some(_) => return Err(bad("has a scheme that is neither unix nor tcp")),
            None => url,
        };
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| bad("has no port"))?;
        port.parse::<u16>()
            .map_err(|_| bad("has no port between 0 and 65535"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)),
        };
        if valid {
            Ok(Self::Tcp(authority.into()))
        } else {
            Err(bad(
                "has a host that is neither a name nor an address (IPv6 needs brackets)",
            ))
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

/// The URL by which others reach whoever listens on `urls`: the first of TCP, else the first. A host that is missing
/// or unspecified becomes the address from which this machine reaches others, of IPv4 if it can.
///
/// Errors: `bad-url` for an empty list or what is no URL, `no-address` when this machine reaches nobody.
pub fn public_url<U: AsRef<str>>(urls: &[U]) -> Result<String> {
    let addresses = urls.iter().map(|url| url.as_ref().parse());
    let addresses: Vec<Address> = addresses.collect::<Result<_>>()?;
    let is_tcp = |address: &&Address| matches!(address, Address::Tcp(_));
    let chosen = addresses.iter().find(is_tcp).or(addresses.first());
    let chosen = chosen.ok_or_else(|| Error::invalid("bad-url", "there is no URL to listen on"))?;
    let Address::Tcp(authority) = chosen else {
        return Ok(chosen.to_string());
    };
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_unspecified = host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    if !host.is_empty() && !is_unspecified {
        return Ok(chosen.to_string());
    }
    let own = own_address().ok_or_else(|| {
        let text = format!(
            "{chosen} has no host, and this machine has no address to reach others by; write one into it"
        );
        Error::invalid("no-address", text)
    })?;
    Ok(match own {
        IpAddr::V4(ip) => format!("tcp://{ip}:{port}"),
        IpAddr::V6(ip) => format!("tcp://[{ip}]:{port}"),
    })
}

/// The source address of packets to an address that belongs to nobody (RFC 5737, RFC 3849). None is sent.
fn own_address() -> Option<IpAddr> {
    let nobody = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    nobody.into_iter().find_map(|(any, nobody)| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(nobody).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_url_is_the_first_of_tcp() {
        let both = ["unix:///run/nsm.sock", "tcp://10.0.0.1:5001"];
        assert_eq!(public_url(&both).unwrap(), "tcp://10.0.0.1:5001");
        assert_eq!(public_url(&both[..1]).unwrap(), "unix:///run/nsm.sock");
        assert_eq!(public_url::<&str>(&[]).unwrap_err().reason(), "bad-url");
        let own = public_url(&["tcp://:5001"]);
        let is_dialled = |url: &String| url.ends_with(":5001") && !url.starts_with("tcp://:");
        assert!(
            own.as_ref()
                .map_or_else(|error| error.reason() == "no-address", is_dialled),
            "{own:?}"
        );
    }

    #[test]
    fn urls_of_manifests_are_understood() {
        for (url, canonical) in [
            (
                "unix:///var/lib/networkservicemesh/nsm.io.sock",
                "unix:///var/lib/networkservicemesh/nsm.io.sock",
            ),
            ("unix:/listen.on.sock", "unix:///listen.on.sock"),
            ("unix:///proc/17/fd/3", "unix:///proc/17/fd/3"),
            (
                "tcp://registry.nsm-system.svc:5002",
                "tcp://registry.nsm-system.svc:5002",
            ),
            ("tcp://:5001", "tcp://:5001"),
            ("tcp://10.0.0.1:5001/", "tcp://10.0.0.1:5001"),
            ("[::1]:0", "tcp://[::1]:0"),
            ("registry:5002", "tcp://registry:5002"),
        ] {
            let address: Address = url.parse().unwrap();
            assert_eq!(address.to_string(), canonical, "{url}");
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn an_unusable_url_tells_what_would_be_right() {
        let long = format!("unix:///{}", "a".repeat(107));
        for (url, what) in [
            ("", "no port"),
            ("registry", "no port"),
            ("tcp://registry", "no port"),
            ("tcp://registry:99999", "no port between"),
            ("tcp://::1:80", "brackets"),
            ("tcp://a b:80", "neither a name"),
            ("tcp://user@host:80", "neither a name"),
            ("http://registry:80", "scheme"),
            ("unix://", "no absolute path"),
            ("unix://run/nsm.sock", "no absolute path"),
            ("unix:///run/", "directory"),
            ("unix:///a\0b", "zero byte"),
            (&long, "107 bytes"),
        ] {
            let error = url.parse::<Address>().unwrap_err();
            assert_eq!(error.reason(), "bad-url");
            assert!(
                error.text().contains(what) && error.text().contains("tcp://host:port"),
                "{error}"
            );
        }
    }
}
