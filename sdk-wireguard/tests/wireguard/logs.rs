// SPDX-License-Identifier: Apache-2.0
//! Logs have no keys in them, at any level.

use std::io;
use std::sync::OnceLock;

use nsm_sdk_wireguard::{Kind, PrivateKey};
use parking_lot::Mutex;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::world::{Pair, World, tunnel};

crate::tests![keys_are_in_no_log];

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has what is at least of a level logged.
type SetLevel = Box<dyn Fn(LevelFilter) + Send + Sync>;

static LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Prepares for logging, which tests turn on.
pub(crate) fn capture() {
    let (level, handle) = reload::Layer::new(LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(|| Log);
    let set = move |level| handle.reload(level).expect("the logger is there");
    assert!(LEVEL.set(Box::new(set)).is_ok(), "once");
    tracing_subscriber::registry().with(level).with(lines).init();
}

fn set_level(level: LevelFilter) {
    LEVEL.get().expect("captured")(level);
}

fn keys_are_in_no_log(one: Kind, other: Kind) {
    set_level(LevelFilter::TRACE);
    let world = World::new(one, other);
    let secret = std::array::from_fn(|at| u8::try_from(at).expect("small") * 5 + 64);
    let mut pair = Pair::new(&world, 0);
    let key = PrivateKey::from_bytes(&secret);
    pair.tunnels[1].peers[0].public_key = key.public();
    pair.tunnels[0].private_key = key;
    world.make(&world.one, &pair.tunnels[0]);
    world.make(&world.other, &pair.tunnels[1]);
    assert!(pair.is_joined());
    // Errors are logged as well.
    let mut bad = tunnel("bad", &pair.pods[0]);
    bad.private_key = pair.tunnels[0].private_key.clone();
    let error = world.try_make(&world.one, &bad).expect_err("the name is taken");
    tracing::info!(%error, tunnel = ?bad, "for the test");
    world.remove(&world.one, "client-1");
    set_level(LevelFilter::OFF);
    let log = std::mem::take(&mut *LOG.lock());
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("for the test") && log.contains("hidden"));
    let middle = &secret[4..28];
    let hex: String = middle.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{middle:?}");
    // The part of the base64 text that the clamped bytes are not in.
    let base64 = "T1RZXmNobXJ3fIGGi5CVmp+kqa6zuL3Cx8zR";
    for text in [hex.as_str(), list.trim_matches(['[', ']']), base64] {
        assert!(!log.contains(text), "{text} is in the log");
    }
}
