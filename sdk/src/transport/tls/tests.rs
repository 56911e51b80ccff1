// SPDX-License-Identifier: Apache-2.0
//! Handshakes between identities.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::*;
use crate::core::{Component, Inode};
use crate::identity::{Bundles, Issuer};

type Shaken = (
    io::Result<(server::TlsStream<Stream>, Peer)>,
    io::Result<(client::TlsStream<Stream>, Peer)>,
);

fn issuer(domain: &str) -> Issuer {
    Issuer::new(&Component::new("test"), domain).unwrap()
}

/// What each of them believes of both domains.
fn federate(one: &Issuer, other: &Issuer) -> Arc<Bundles> {
    let mut bundles = (*one.bundles()).clone();
    bundles.extend((*other.bundles()).clone());
    Arc::new(bundles)
}

async fn shake(server: &Credentials, client: &Credentials) -> Shaken {
    let (one, two) = UnixStream::pair().unwrap();
    let (acceptor, connector) = (Acceptor::new(server).unwrap(), Connector::new(client).unwrap());
    tokio::join!(
        acceptor.accept(Stream::unix(one).unwrap()),
        connector.connect(Stream::unix(two).unwrap())
    )
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let issuer = issuer("a.org");
    let (server, client) = (issuer.issue("/server").unwrap(), issuer.issue("/client").unwrap());
    let (accepted, connected) = shake(&server, &client).await;
    let ((stream, caller), (_, called)) = (accepted.unwrap(), connected.unwrap());
    assert_eq!(caller.spiffe_id(), Some("spiffe://a.org/client"));
    assert_eq!(called.spiffe_id(), Some("spiffe://a.org/server"));
    assert!(Arc::ptr_eq(caller.local.as_ref().unwrap(), &server.svid));
    assert!(Arc::ptr_eq(called.local.as_ref().unwrap(), &client.svid));
    let identity = caller.identity.unwrap();
    assert_eq!(identity.certificate, client.svid.certificates[0].to_vec());
    assert_eq!(identity.not_after, client.svid.not_after);
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN));
}

#[tokio::test]
async fn federated_domains_speak_and_unknown_ones_are_named() {
    let (a, b) = (issuer("a.org"), issuer("b.org"));
    let (mut server, mut client) = (a.issue("/server").unwrap(), b.issue("/client").unwrap());
    let (accepted, connected) = shake(&server, &client).await;
    let text = describe(&connected.unwrap_err(), &client.svid);
    assert!(
        text.contains("we refuse the peer: spiffe://a.org/server") && text.contains("known: b.org"),
        "{text}"
    );
    let text = describe(&accepted.unwrap_err(), &server.svid);
    assert!(
        text.contains("the peer refuses the certificate of spiffe://a.org/server"),
        "{text}"
    );

    client.bundles = federate(&a, &b);
    let (accepted, connected) = shake(&server, &client).await;
    let text = describe(&accepted.unwrap_err(), &server.svid);
    assert!(
        text.contains("spiffe://b.org/client") && text.contains("no bundle (known: a.org)"),
        "{text}"
    );
    let (mut stream, _) = connected.expect("with TLS 1.3 a client hears of its refusal afterwards");
    let text = describe(&stream.read(&mut [0]).await.unwrap_err(), &client.svid);
    assert!(
        text.contains("does it have the bundle of our trust domain?"),
        "{text}"
    );

    server.bundles = federate(&a, &b);
    let (accepted, connected) = shake(&server, &client).await;
    assert!(accepted.is_ok() && connected.is_ok());
}

#[tokio::test]
async fn a_domain_cannot_speak_for_another() {
    let (a, b, mut forged) = (issuer("a.org"), issuer("b.org"), Bundles::new());
    let server = Credentials {
        bundles: federate(&a, &b),
        ..a.issue("/server").unwrap()
    };
    let other = issuer("a.org");
    let mut client = other.issue("/client").unwrap();
    client.bundles = federate(&a, &b);
    let (accepted, _) = shake(&server, &client).await;
    let text = describe(&accepted.unwrap_err(), &server.svid);
    assert!(
        text.contains("not proven by the bundle of its trust domain"),
        "an authority of the same name: {text}"
    );

    forged.insert("b.org".into(), a.bundles()["a.org"].clone());
    let server = Credentials {
        bundles: Arc::new(forged),
        ..server
    };
    let (accepted, _) = shake(
        &server,
        &Credentials {
            svid: a.issue("/client").unwrap().svid,
            ..client
        },
    )
    .await;
    let text = describe(&accepted.unwrap_err(), &server.svid);
    assert!(
        text.contains("for which there is no bundle"),
        "an authority of another domain: {text}"
    );
}

#[tokio::test]
async fn a_certificate_for_servers_only_does_not_make_a_client() {
    let issuer = issuer("a.org");
    let server = issuer.issue("/server").unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![SanType::URI("spiffe://a.org/client".try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let client = Credentials {
        svid: Arc::new(Svid::new(vec![certificate.der().clone()], key).unwrap()),
        bundles: issuer.bundles(),
    };
    let (accepted, _) = shake(&server, &client).await;
    let text = describe(&accepted.unwrap_err(), &server.svid);
    assert!(text.contains("spiffe://a.org/client is not proven"), "{text}");
}

#[tokio::test]
async fn plain_text_and_silence_are_told_apart() {
    let server = issuer("a.org").issue("/server").unwrap();
    let acceptor = Acceptor::new(&server).unwrap();
    let (one, mut two) = UnixStream::pair().unwrap();
    two.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let error = acceptor.accept(Stream::unix(one).unwrap()).await.unwrap_err();
    assert_eq!(
        describe(&error, &server.svid),
        "the peer does not speak TLS (plain text?)"
    );
    let (one, two) = UnixStream::pair().unwrap();
    drop(two);
    let error = acceptor.accept(Stream::unix(one).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn c77_a_file_that_comes_with_the_handshake_is_not_lost() {
    let issuer = issuer("a.org");
    let (server, client) = (issuer.issue("/server").unwrap(), issuer.issue("/client").unwrap());
    let (acceptor, connector) = (Acceptor::new(&server).unwrap(), Connector::new(&client).unwrap());
    let (one, two) = UnixStream::pair().unwrap();
    let (one, two) = (Stream::unix(one).unwrap(), Stream::unix(two).unwrap());
    let file = || OwnedFd::from(std::fs::File::open("/proc/self/ns/net").unwrap());
    let inode = Inode::of(file()).unwrap();
    for end in [&one, &two] {
        end.files().unwrap().send(file()).unwrap();
    }
    let (accepted, connected) = tokio::join!(acceptor.accept(one), connector.connect(two));
    let ((mut accepted, caller), (mut connected, called)) = (accepted.unwrap(), connected.unwrap());
    accepted.write_all(b"x").await.unwrap();
    connected.read_exact(&mut [0]).await.unwrap();
    for peer in [caller, called] {
        let deadline = Instant::now() + Duration::from_secs(10);
        let file = peer.files.unwrap().receive(inode, deadline).await.unwrap();
        assert_eq!(Inode::of(file).unwrap(), inode);
    }
}
