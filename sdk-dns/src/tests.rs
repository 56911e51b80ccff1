// SPDX-License-Identifier: Apache-2.0
use nsm_api::connectioncontext::{DnsConfig, DnsContext};

use super::*;

/// A resolver on a port that nobody else has, and its file.
fn dns() -> (tempfile::TempDir, Dns) {
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 10.96.0.10\n").unwrap();
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen_on = free.local_addr().unwrap();
    drop(free);
    let settings = Settings {
        listen_on,
        resolv_conf,
    };
    (folder, Dns::new(&Component::new("nsc"), settings))
}

fn context(server: &str) -> ConnectionContext {
    let config = DnsConfig {
        dns_server_ips: vec![server.into()],
        search_domains: vec!["corp".into()],
    };
    ConnectionContext {
        dns_context: Some(DnsContext {
            configs: vec![config],
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn it_is_there_as_long_as_a_connection_brings_a_server() {
    let (_folder, dns) = dns();
    let is_there = || Sockets::bind(dns.settings.listen_on).is_err();
    dns.tell("nsc-0", &ConnectionContext::default());
    assert!(!is_there());
    dns.tell("nsc-0", &context("10.0.0.1"));
    dns.tell("nsc-1", &context("10.0.0.2"));
    assert!(is_there());
    dns.forget("nsc-0");
    assert!(is_there());
    dns.tell("nsc-1", &ConnectionContext::default());
    // Its tasks end by themselves.
    while is_there() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_again_with_the_next_news() {
    let (_folder, dns) = dns();
    let other = Sockets::bind(dns.settings.listen_on).unwrap();
    dns.tell("nsc-0", &context("10.0.0.1"));
    let obstacle = dns.state.lock().obstacle.clone().unwrap();
    assert!(obstacle.contains("end the other DNS server"), "{obstacle}");
    drop(other);
    dns.tell("nsc-0", &context("10.0.0.1"));
    assert!(dns.state.lock().serving.is_some());
}

#[tokio::test]
async fn it_never_asks_itself() {
    let (_folder, mut dns) = dns();
    let is_us = |dns: &Dns, server: &str| dns.is_us(&server.parse().unwrap());
    dns.settings.listen_on = "127.0.0.1:53".parse().unwrap();
    assert!(is_us(&dns, "127.0.0.1:53"));
    assert!(is_us(&dns, "0.0.0.0:53"));
    assert!(is_us(&dns, "[::ffff:127.0.0.1]:53"));
    assert!(!is_us(&dns, "127.0.0.53:53"));
    assert!(!is_us(&dns, "127.0.0.1:5353"));
    dns.settings.listen_on = "0.0.0.0:53".parse().unwrap();
    assert!(is_us(&dns, "127.0.0.53:53"));
}

#[tokio::test]
async fn each_obstacle_names_its_setting_and_a_remedy() {
    let (_folder, dns) = dns();
    let error = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
    let text = dns.obstacle_of_file(&error);
    assert!(
        text.contains("resolv.conf") && text.contains("readOnlyRootFilesystem"),
        "{text}"
    );
    let error = io::Error::from(io::ErrorKind::PermissionDenied);
    assert!(dns.obstacle_of_file(&error).contains("runAsUser"));
    assert!(
        dns.obstacle_of_port(&error)
            .contains("ip_unprivileged_port_start")
    );
}
