// SPDX-License-Identifier: Apache-2.0
//! Programs at the time of the recording: ours under the identities of those in whose place they are, and those who
//! called them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use nsm_sdk::chains::endpoint::Gate;
use nsm_sdk::core::{CallToken, Clock, Component, Ctx, Error, FilePassing, Inode, Peer, PeerIdentity};
use nsm_sdk::identity::{Credentials, Identity, Issuer, Tokens, trust_domain};
use nsm_sdk::policy::Policies;
use nsm_sdk::sandbox::Host;
use nsm_tests::recording::{Call, Recording};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::fs::{Mode, OFlags};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long our tokens live.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// How long a call may take.
const CALL: Duration = Duration::from_secs(15);

/// A program of ours in the place of one of theirs.
pub(crate) struct Place {
    pub(crate) component: Component,
    pub(crate) tokens: Tokens,
    credentials: Credentials,
}

impl Place {
    pub(crate) fn new(recording: &Recording, name: &str) -> Result<Self> {
        let component = Component::with(
            name,
            Clock::starting_at(recording.time()),
            StdRng::seed_from_u64(1),
        );
        let id = PeerIdentity::of(&recording.certificate(name)?)?.spiffe_id;
        let domain = trust_domain(&id).context("an identity has a trust domain")?;
        let path = id.split_once(domain).context("the trust domain is part of it")?.1;
        let credentials = Issuer::new(&component, domain)?.issue(path)?;
        Ok(Self {
            component,
            tokens: Tokens::new(TOKEN_LIFETIME),
            credentials,
        })
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::fixed(self.credentials.clone())
    }

    pub(crate) fn gate(&self, policies: &str) -> Result<Gate> {
        Ok(Gate {
            identity: self.identity(),
            tokens: self.tokens.clone(),
            policies: Policies::choose(policies)?,
        })
    }

    /// As others reach it, with nothing to serve yet.
    pub(crate) fn host(&self) -> Host {
        Host {
            component: self.component.clone(),
            identity: self.identity(),
            power: CancellationToken::new(),
            network_service: None,
            nse_registry: None,
            ns_registry: None,
        }
    }

    /// How a recorded call arrives here, with the socket `passed` if it needs one.
    pub(crate) fn arrives(&self, recording: &Recording, call: &Call, passed: Option<PathBuf>) -> Result<Ctx> {
        let caller = PeerIdentity::of(&recording.certificate(&call.from)?)?;
        let peer = Peer {
            identity: Some(Arc::new(caller)),
            token: token(call)?,
            local: Some(Arc::clone(&self.credentials.svid)),
            files: passed.map(|file| Arc::new(Passed(file)) as _),
            ..Default::default()
        };
        Ok(Ctx::new(&self.component, peer, Some(Instant::now() + CALL)))
    }
}

fn token(call: &Call) -> Result<Option<CallToken>> {
    let [token, expires] =
        ["nsm-client-token", "nsm-client-token-expires"].map(|name| call.headers.get(name));
    let (Some(token), Some(expires)) = (token, expires) else {
        return Ok(None);
    };
    let expires: prost_types::Timestamp = expires.parse().context("a time")?;
    Ok(Some(CallToken {
        token: token.clone(),
        expires: expires.try_into().context("a time")?,
    }))
}

/// What came beside the call: this socket, whatever its number was then.
struct Passed(PathBuf);

#[async_trait]
impl FilePassing for Passed {
    fn send(&self, file: OwnedFd) -> io::Result<Inode> {
        Inode::of(&file)
    }

    async fn receive(&self, _: Inode, _: Instant) -> nsm_sdk::core::Result<OwnedFd> {
        open(&self.0).map_err(|error| Error::internal("file", error.to_string()))
    }
}

/// Opens a file to name it, and for nothing else.
pub(crate) fn open(file: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        file,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}
