// SPDX-License-Identifier: Apache-2.0
//! A registry whose entries are objects of Kubernetes.
//!
//! ```text
//!             look-ups, watches                 register, unregister
//!                    │                                   │
//!                    ▼                                   ▼
//!   follow ──▶ cache (a shelf of sdk) ◀── answers ── etcd: one write at most
//!      ▲             ▲       │                           │
//!      │             │       ├──▶ expiry: deletes what nobody renews
//!      │ watch       │       ├──▶ conditions: says what is wrong with an object
//!      │             │       └──▶ counts: says how many endpoints a service has
//!      └─────────────┴──────── the API server ◀──────────┘
//! ```
//!
//! **Leases.** An endpoint comes back every 40 s to say that it is still there. If each time were written, most of
//! what the API server stores and tells everybody would be that. So what is written as `expiration_time` is later than
//! what the endpoint asked for, by twice the time that it asked for, and is written again only when the endpoint asks
//! for more than is left, which is every fourth time; or when something else has changed; or when somebody else
//! has written the object since, so that a replica knows from the object alone that another one is visited now. An
//! endpoint that is not renewed is removed at the time that it asked for by the replica that it visited, on condition
//! that the object is as that replica has left it. When that replica has died with it, the others remove it when what
//! is written has passed: within three times what it asked for.
//!
//! **Outages.** While the API server cannot be reached, look-ups are answered by what was known, and nothing expires;
//! an endpoint that comes back unchanged is renewed in memory; everything else that would have to be written is
//! refused with `api-server-unreachable`. The health service `kubernetes` says NOT_SERVING then, the others go on.

mod api_server;
mod cache;
mod conditions;
pub mod counts;
mod etcd;
mod expiry;
mod follow;
mod kind;
mod object;
mod pace;
mod store;
#[cfg(test)]
pub(crate) mod testing;

pub use api_server::ApiServer;
pub use etcd::Etcd;
pub use kind::Kind;

/// The health service that says whether the API server can be reached, so that something can be registered.
pub const HEALTH: &str = "kubernetes";
