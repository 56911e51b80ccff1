// SPDX-License-Identifier: Apache-2.0
//! Where other machines reach a program that listens.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::Address;
use crate::core::{Error, Result};

/// An address that every machine routes by its default route, if it has one, and that nobody has (RFC 5737).
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// The URL under which a program that listens on `listen_on` is known to other machines: the first on TCP, else the
/// first. An empty host in it becomes this machine's address: the IPv4 address that it uses towards others, else another
/// that is not a loopback's, else a global IPv6 address.
///
/// Errors: `bad-url`, `no-address`.
pub fn public_url<U: AsRef<str>>(listen_on: &[U]) -> Result<String> {
    let addresses: Vec<Address> = listen_on
        .iter()
        .map(|url| url.as_ref().parse())
        .collect::<Result<_>>()?;
    let tcp = addresses
        .iter()
        .find(|address| matches!(address, Address::Tcp(_)));
    let Some(chosen) = tcp.or(addresses.first()) else {
        return Err(Error::invalid("bad-url", "there is no URL to listen on"));
    };
    let Address::Tcp(authority) = chosen else {
        return Ok(chosen.to_string());
    };
    let Some(port) = authority.strip_prefix(':') else {
        return Ok(chosen.to_string());
    };
    let host = towards_others()
        .or_else(|| local_v4(&read("/proc/net/fib_trie")))
        .or_else(|| global_v6(&read("/proc/net/if_inet6")));
    match host {
        Some(IpAddr::V6(host)) => Ok(format!("tcp://[{host}]:{port}")),
        Some(IpAddr::V4(host)) => Ok(format!("tcp://{host}:{port}")),
        None => {
            let text = format!("this machine has no address for {chosen}; name its host in the URL");
            Err(Error::unavailable("no-address", text))
        }
    }
}

/// Asks the routing table; nothing is sent.
fn towards_others() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// The first address of `/proc/net/fib_trie` that is local and no loopback's.
fn local_v4(trie: &str) -> Option<IpAddr> {
    let mut lines = trie.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let address = line
            .strip_prefix("|-- ")
            .and_then(|address| address.parse::<Ipv4Addr>().ok());
        let is_local = lines.peek().is_some_and(|next| *next == "/32 host LOCAL");
        if let Some(address) = address.filter(|address| is_local && !address.is_loopback()) {
            return Some(address.into());
        }
    }
    None
}

/// The first address of `/proc/net/if_inet6` of global scope: digits, index, prefix length, scope, flags, name.
fn global_v6(addresses: &str) -> Option<IpAddr> {
    addresses.lines().find_map(|line| {
        let mut columns = line.split_whitespace();
        let address = u128::from_str_radix(columns.next()?, 16).ok()?;
        let scope = columns.nth(2)?;
        (scope == "00").then(|| Ipv6Addr::from(address).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_url_on_tcp_is_public() {
        let urls = [
            "unix:///run/nsm.sock",
            "tcp://10.1.2.3:5001",
            "tcp://10.9.9.9:5001",
        ];
        assert_eq!(public_url(&urls).unwrap(), "tcp://10.1.2.3:5001");
        assert_eq!(public_url(&urls[..1]).unwrap(), "unix:///run/nsm.sock");
        assert_eq!(public_url(&["nsmgr:5001"]).unwrap(), "tcp://nsmgr:5001");
        assert_eq!(public_url::<&str>(&[]).unwrap_err().reason(), "bad-url");
        assert_eq!(public_url(&["http://x"]).unwrap_err().reason(), "bad-url");
    }

    #[test]
    fn an_empty_host_becomes_an_address_of_this_machine() {
        match public_url(&["tcp://:5001"]) {
            Ok(url) => {
                let Ok(Address::Tcp(authority)) = url.parse() else {
                    panic!("{url}")
                };
                let address: std::net::SocketAddr = authority.parse().unwrap();
                assert!(
                    address.port() == 5001 && !address.ip().is_loopback() && !address.ip().is_unspecified()
                );
            }
            Err(error) => assert_eq!(error.reason(), "no-address"),
        }
    }

    #[test]
    fn the_tables_of_the_kernel_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\nLocal:\n     |-- 10.7.0.0\n        /24 link UNICAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.7.0.5\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), Some("10.7.0.5".parse().unwrap()));
        assert_eq!(local_v4(""), None);
        let v6 = "00000000000000000000000000000001 01 80 10 80 lo\nfe800000000000000000000000000001 02 40 20 80 eth0\n20010db8000000000000000000000005 02 40 00 80 eth0\n";
        assert_eq!(global_v6(v6), Some("2001:db8::5".parse().unwrap()));
        assert_eq!(global_v6("x\n\n"), None);
    }
}
