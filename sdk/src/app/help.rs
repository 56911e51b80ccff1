// SPDX-License-Identifier: Apache-2.0
//! What the `--help` of every program ends with.

/// Exit codes and where the identity comes from.
pub const AFTER_HELP: &str = "\
Identity:
  SPIFFE_ENDPOINT_SOCKET  the SPIFFE Workload API: SPIRE's agent, or `nsm issuer` on one machine
  NSM_IDENTITY_DIR        or a directory with tls.crt, tls.key and ca.crt, which is watched

Exit codes:
  0 ended in order   64 bad settings   69 something needed is missing   70 did not end in time   130 second signal";
