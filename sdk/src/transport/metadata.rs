// SPDX-License-Identifier: Apache-2.0
//! What a call carries beside its message: the caller's token, the time that it has, and its place in a trace.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::core::traces::Trace;
use crate::core::{CallToken, Error, Result};
use crate::elements::updatepath::SegmentId;

const TOKEN: &str = "nsm-client-token";
const EXPIRES: &str = "nsm-client-token-expires";
const SEGMENT_ID: &str = "nsm-segment-id";
const LINK_MONITOR: &str = "nsm-link-monitor";
const TIMEOUT: &str = "grpc-timeout";
const TRACE: &str = "traceparent";

/// More than any call takes; a longer timeout is cut to it.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The caller's token: only when each of its two keys occurs exactly once and can be read, as the reference has it.
pub(crate) fn token(metadata: &MetadataMap) -> Option<CallToken> {
    Some(CallToken {
        token: only(metadata, TOKEN)?.to_string(),
        expires: parse_time(only(metadata, EXPIRES)?)?,
    })
}

/// Adds our token to a call.
///
/// Errors: `token` when it cannot be sent.
pub(crate) fn set_token(metadata: &mut MetadataMap, token: &CallToken) -> Result<()> {
    let unfit = |_| Error::internal("token", "the token has characters that cannot be sent");
    let expires = humantime::format_rfc3339_nanos(token.expires).to_string();
    metadata.insert(TOKEN, token.token.parse().map_err(unfit)?);
    metadata.insert(EXPIRES, expires.parse().map_err(unfit)?);
    Ok(())
}

/// What the caller suggests as the id of our segment of the path.
pub(crate) fn segment_id(metadata: &MetadataMap) -> Option<SegmentId> {
    only(metadata, SEGMENT_ID).map(|id| SegmentId(id.to_string()))
}

/// Adds the id that we suggest, if it can be sent.
pub(crate) fn set_segment_id(metadata: &mut MetadataMap, SegmentId(id): &SegmentId) {
    if let Ok(id) = id.parse() {
        metadata.insert(SEGMENT_ID, id);
    }
}

/// Whether a monitor is asked for, or an answer tells that there is one, of everything that is requested over the link.
pub(crate) fn has_link_monitor(metadata: &MetadataMap) -> bool {
    metadata.contains_key(LINK_MONITOR)
}

/// Asks for such a monitor, or tells that there is one.
pub(crate) fn set_link_monitor(metadata: &mut MetadataMap) {
    metadata.insert(LINK_MONITOR, MetadataValue::from_static("1"));
}

/// Where the caller is in a trace.
pub(crate) fn trace(metadata: &MetadataMap) -> Option<Trace> {
    Trace::parse(only(metadata, TRACE)?)
}

/// Adds where we are in a trace.
pub(crate) fn set_trace(metadata: &mut MetadataMap, trace: Trace) {
    if let Ok(trace) = trace.to_string().parse() {
        metadata.insert(TRACE, trace);
    }
}

/// Until when the caller waits (gRPC over HTTP/2, "Timeout"); nothing when it did not say, or cannot be understood.
pub(crate) fn deadline(metadata: &MetadataMap) -> Option<Instant> {
    let value = metadata.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    Some(Instant::now() + timeout.min(LONGEST))
}

fn only<'a>(metadata: &'a MetadataMap, key: &str) -> Option<&'a str> {
    let mut values = metadata.get_all(key).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// An RFC 3339 time in any zone, with any number of fractional digits.
fn parse_time(text: &str) -> Option<SystemTime> {
    if let Some(utc) = text.strip_suffix(['Z', 'z']) {
        return parse_utc(utc);
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let number = |digits: &str, most: u64| {
        let plain = digits.len() == 2 && digits.bytes().all(|c| c.is_ascii_digit());
        digits
            .parse()
            .ok()
            .filter(|&number: &u64| plain && number <= most)
    };
    let offset_by = Duration::from_secs(number(hours, 23)? * 3600 + number(minutes, 59)? * 60);
    let time = parse_utc(local)?;
    match offset.as_bytes().first()? {
        b'+' => time.checked_sub(offset_by),
        b'-' => time.checked_add(offset_by),
        _ => None,
    }
}

fn parse_utc(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(&format!("{}Z", text.replacen('t', "T", 1))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn map(pairs: &[(&'static str, &str)]) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (key, value) in pairs {
            map.append(*key, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn c13_a_token_travels() {
        let sent = CallToken {
            token: "a.b.c".into(),
            expires: UNIX_EPOCH + Duration::new(1_900_000_000, 5),
        };
        let mut metadata = MetadataMap::new();
        set_token(&mut metadata, &sent).unwrap();
        assert_eq!(token(&metadata), Some(sent));
    }

    #[test]
    fn c14_a_token_that_is_missing_or_given_twice_is_none() {
        let when = "2030-01-01T00:00:00Z";
        assert_eq!(token(&map(&[])), None);
        assert_eq!(token(&map(&[(TOKEN, "a")])), None);
        assert_eq!(token(&map(&[(EXPIRES, when)])), None);
        assert_eq!(token(&map(&[(TOKEN, "a"), (EXPIRES, "soon")])), None);
        assert_eq!(token(&map(&[(TOKEN, "a"), (TOKEN, "a"), (EXPIRES, when)])), None);
        assert_eq!(
            token(&map(&[(TOKEN, "a"), (EXPIRES, when), (EXPIRES, when)])),
            None
        );
        assert!(token(&map(&[(TOKEN, "a"), (EXPIRES, when)])).is_some());
    }

    #[test]
    fn c22_expiries_are_read_in_any_zone_and_precision() {
        let new_year = UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        let (half, east, nano) = (
            Duration::from_millis(500),
            Duration::from_secs(19_800),
            Duration::from_nanos(1),
        );
        for (text, time) in [
            ("2030-01-01T00:00:00Z", new_year),
            ("2030-01-01t00:00:00z", new_year),
            ("2030-01-01T00:00:00.5+05:30", new_year + half - east),
            ("2030-01-01T00:00:00.500000000-05:30", new_year + half + east),
            ("2030-01-01T00:00:00.000000001+00:00", new_year + nano),
        ] {
            assert_eq!(parse_time(text), Some(time), "{text}");
        }
        for bad in [
            "",
            "Z",
            "+00:00",
            "2030-01-01",
            "2030-01-01T00:00:00",
            "2030-01-01T00:00:00+5:30",
            "2030-01-01T00:00:00*05:30",
            "2030-01-01T00:00:00+24:00",
            "2030-13-01T00:00:00Z",
            "2030-01-01T00:00:00Ä05:30",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn timeouts_are_read_in_every_unit() {
        for (text, time) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("15S", Duration::from_secs(15)),
            ("1500m", Duration::from_millis(1500)),
            ("14999000u", Duration::from_millis(14_999)),
            ("7000000n", Duration::from_millis(7)),
            ("99999999H", LONGEST),
        ] {
            assert_eq!(
                deadline(&map(&[(TIMEOUT, text)])),
                Some(Instant::now() + time),
                "{text}"
            );
        }
        for bad in ["", "S", "15", "-1S", "+1S", "1.5S", "100000000S", "1s"] {
            assert_eq!(deadline(&map(&[(TIMEOUT, bad)])), None, "{bad}");
        }
    }

    #[test]
    fn a_place_in_a_trace_travels_as_the_standard_says() {
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let sent = trace(&map(&[(TRACE, header)])).unwrap();
        let mut metadata = MetadataMap::new();
        set_trace(&mut metadata, sent);
        assert_eq!(metadata.get(TRACE).unwrap(), header);
        assert_eq!(trace(&map(&[])), None);
        assert_eq!(trace(&map(&[(TRACE, header), (TRACE, header)])), None);
        assert_eq!(trace(&map(&[(TRACE, "00-0-0-0")])), None);
    }

    proptest::proptest! {
        #[test]
        fn anything_is_read_without_harm(text in "[0-9TZtz:.+-]{0,40}|\\PC{0,30}") {
            let _any_answer = (parse_time(&text), text.parse::<tonic::metadata::AsciiMetadataValue>().is_ok().then(|| deadline(&map(&[(TIMEOUT, &text)]))));
        }
    }
}
