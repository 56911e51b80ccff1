// SPDX-License-Identifier: Apache-2.0
//! Who may do what: the reference's seven built-in policies as plain functions, and the set of them that a program's
//! configuration chooses.
//!
//! **Guarantees**: a built-in policy never allows what its Rego original does not. A configuration that chooses no
//! policy by mistake, or one that is not built in, is an error and not a hole.
//! **Cost**: a path's tokens are decoded once for all policies; a signature that was verified before costs a hash.

mod builtin;
mod masks;

use std::sync::Arc;

use crate::core::{Error, Result};
use crate::identity::jwt::Verifier;
pub use builtin::{Input, Policy};

/// How the reference words a denial; programs of others look for it.
pub const DENIED: &str = "rpc error: code = PermissionDenied desc = no sufficient privileges";

/// Which policies a server of connections asks unless told otherwise.
pub const SERVER: &str = "etc/nsm/opa/common/.*.rego,etc/nsm/opa/server/.*.rego";

/// Which policies a client of connections asks unless told otherwise.
pub const CLIENT: &str = "etc/nsm/opa/common/.*.rego,etc/nsm/opa/client/.*.rego";

/// The default of `NSM_REGISTRY_SERVER_POLICIES`.
pub const REGISTRY_SERVER: &str =
    "etc/nsm/opa/common/.*.rego,etc/nsm/opa/registry/.*.rego,etc/nsm/opa/server/.*.rego";

/// The default of `NSM_REGISTRY_CLIENT_POLICIES`.
pub const REGISTRY_CLIENT: &str =
    "etc/nsm/opa/common/.*.rego,etc/nsm/opa/registry/.*.rego,etc/nsm/opa/client/.*.rego";

/// The policy that ties monitors to the connections of the one who asks.
pub const MONITOR: &str = "etc/nsm/opa/monitor/.*.rego";

/// Policies that must all allow. Cheap to clone; clones share what they remember of signatures.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    policies: Arc<[Policy]>,
    verifier: Arc<Verifier>,
}

impl Policies {
    /// The policies that these masks choose, separated by commas, in their order. No mask means no policy: everything
    /// is allowed then.
    ///
    /// A mask is a path or an anchored regular expression over paths, of which `.`, `.*` and `\` are understood.
    /// Built-in policies lie under `etc/nsm/opa/`.
    ///
    /// Errors: `no-policy` when a mask matches nothing, `custom-policy` when it matches a file on disk, `bad-mask`.
    pub fn choose(masks: &str) -> Result<Self> {
        Ok(Self::of(&masks::resolve(masks)?))
    }

    /// These policies, in this order.
    pub fn of(policies: &[Policy]) -> Self {
        Self {
            policies: policies.into(),
            verifier: Arc::default(),
        }
    }

    /// Whether there are none, so that everything is allowed.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Asks all policies.
    ///
    /// Errors: `policy`, naming the first that does not allow it.
    pub fn check(&self, input: &Input<'_>) -> Result<()> {
        let denies = |policy: &&Policy| !policy.allows(input, &self.verifier);
        match self.policies.iter().find(denies) {
            None => Ok(()),
            Some(policy) => Err(Error::denied(
                "policy",
                format!("policy {} does not allow it: {DENIED}", policy.file()),
            )),
        }
    }
}
