// SPDX-License-Identifier: Apache-2.0
//! Elements of connections only.

mod attempts;
pub mod cleanup;
pub mod discover;
pub mod discoverforwarder;
pub mod dnscontext;
pub mod excludedprefixes;
mod expiry;
mod files;
pub mod filtermechanisms;
pub mod heal;
pub mod hoptime;
pub mod kernel;
pub mod legs;
mod lookup;
pub mod mechanismpriority;
pub mod mechanisms;
pub mod mechanismtranslation;
pub mod metrics;
pub mod monitor;
pub mod mtu;
pub mod netsvcmonitor;
pub mod onidle;
pub mod passthrough;
pub mod pathmtu;
pub mod policyroute;
pub mod recvfd;
pub mod refresh;
pub mod report;
pub mod roundrobin;
pub mod sendfd;
pub mod setextracontext;
pub mod supply;
pub mod timeout;
pub mod trimpath;
mod tunnel;
pub mod upstreamrefresh;
pub mod vxlan;
mod watched;
pub mod wireguard;
mod wireid;
pub mod xconnect;

pub use lookup::{MAX_FOUND, Registries, is_alive, is_dialable};
