// SPDX-License-Identifier: Apache-2.0
//! `nsm issuer`: identities for the programs of one machine.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};
use nsm_sdk::app::{Failure, LogSettings, Settings};
use nsm_sdk::core::{Component, Error};

/// Serve identities for the programs of one machine, until told to end
///
/// Each name gets the SPIFFE ID spiffe://DOMAIN/NAME, told by the SPIFFE Workload API on the socket
/// FOLDER/NAME.sock, which only its owner may open. The authority lives in memory and ends with this program.
/// For development and tests on one machine; a cluster has SPIRE or certificates of its own.
#[derive(Args, Clone)]
pub(crate) struct Issuer {
    /// The trust domain
    #[arg(long, default_value = "example.org")]
    trust_domain: String,
    /// Where the sockets go; made when missing
    #[arg(long)]
    folder: PathBuf,
    /// How long an identity is valid; it is renewed at half of that
    #[arg(long, default_value = "1h")]
    lifetime: nsm_sdk::app::Duration,
    /// Who gets an identity
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    log: LogSettings,
}

/// `nsm issuer` as a program of its own, for [`nsm_sdk::app::main`].
#[derive(Parser)]
#[command(name = "nsm")]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Issuer(Issuer),
}

impl Settings for Program {
    fn name(&self) -> &str {
        "issuer"
    }

    fn log(&self) -> &LogSettings {
        let Command::Issuer(issuer) = &self.command;
        &issuer.log
    }
}

impl Issuer {
    /// Serves until it is told to end.
    pub(crate) fn run(self) -> ExitCode {
        nsm_sdk::app::main(async |component, program: Program| {
            let Command::Issuer(issuer) = program.command;
            issuer.serve(&component).await
        })
    }

    async fn serve(self, component: &Component) -> Result<(), Failure> {
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder);
        made.map_err(|error| Failure::Settings(format!("cannot make {}: {error}", self.folder.display())))?;
        let issuer =
            nsm_sdk::identity::Issuer::with_lifetime(component, &self.trust_domain, self.lifetime.0)?;
        let mut agents = Vec::with_capacity(self.names.len());
        for name in &self.names {
            if name.is_empty() || name.contains('/') {
                let text = format!("the name {name:?} cannot name a socket: use letters, digits and dashes");
                return Err(Error::invalid("bad-name", text).into());
            }
            let socket = self.folder.join(format!("{name}.sock"));
            agents.push(issuer.serve(&socket, 0o600, &format!("/{name}"))?);
        }
        tracing::info!(folder = %self.folder.display(), identities = agents.len(), "serving");
        component.shutdown().cancelled().await;
        Ok(())
    }
}
