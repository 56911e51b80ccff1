// SPDX-License-Identifier: Apache-2.0
//! Gives each connection one pair of addresses of each group of prefixes: two families make a dual stack.
//!
//! **Guarantees, placement, failure, close**: those of [`point2point`](super::point2point), for each group.
//! **Cost**: one lock a group and request.

use async_trait::async_trait;
use ipnet::IpNet;

use super::point2point::Point2Point;
use crate::core::{Chain, Ctx, Element, Error, NetworkService, Next, Request, Result};

/// How many prefixes a configuration may name.
pub const MAX_PREFIXES: usize = 256;

/// See the [module](self).
pub struct Group(Chain<NetworkService>);

impl Group {
    /// One pair a group.
    ///
    /// Errors: `no-prefix`, `overlapping-prefixes` (within a group).
    pub fn new(groups: &[Vec<IpNet>]) -> Result<Self> {
        if groups.is_empty() {
            let text = "required one or more groups of prefixes to give addresses from";
            return Err(Error::invalid("no-prefix", text));
        }
        let elements = groups.iter().map(|group| {
            let element = Point2Point::new(group)?;
            Ok(std::sync::Arc::new(element) as std::sync::Arc<dyn Element<NetworkService>>)
        });
        Ok(Self(Chain::new(elements.collect::<Result<_>>()?)))
    }
}

#[async_trait]
impl Element<NetworkService> for Group {
    fn name(&self) -> &'static str {
        "groupipam"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.through(&self.0).request(ctx, request).await
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.through(&self.0).close(ctx, request).await
    }
}

/// Reads groups of prefixes as `NSM_CIDR_PREFIX` writes them: `[a,b],[c],d`. Brackets make one group; a bare
/// prefix is a group of its own. Host bits are masked away.
///
/// Errors: `bad-prefix-groups` and, for prefixes that overlap anywhere, `overlapping-prefixes`.
pub fn groups(text: &str) -> Result<Vec<Vec<IpNet>>> {
    let bad = |what: String| {
        Error::invalid(
            "bad-prefix-groups",
            format!("{what} in the prefix groups {text:?}"),
        )
    };
    let mut groups: Vec<Vec<IpNet>> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (items, after) = match rest.strip_prefix('[') {
            Some(inner) => inner
                .split_once(']')
                .ok_or_else(|| bad("a bracket is not closed".into()))?,
            None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
        };
        let group: Result<Vec<IpNet>> = items
            .split(',')
            .map(|item| {
                let net: Result<IpNet, _> = item.trim().parse();
                net.map(|net| net.trunc())
                    .map_err(|_| bad(format!("{:?} is no prefix such as 10.0.0.0/24", item.trim())))
            })
            .collect();
        groups.push(group?);
        let after = after.trim_start();
        rest = match after.strip_prefix(',').map(str::trim_start) {
            Some("") => return Err(bad("nothing follows the last comma".into())),
            Some(rest) => rest,
            None if after.is_empty() => after,
            None => return Err(bad(format!("a comma is missing before {after:?}"))),
        };
    }
    check(&groups).map_err(|error| error.context(format!("prefix groups {text:?}")))?;
    Ok(groups)
}

/// Refuses too many prefixes, and those of which one covers another.
fn check(groups: &[Vec<IpNet>]) -> Result<()> {
    let all: Vec<_> = groups.iter().flatten().copied().collect();
    if all.is_empty() {
        return Err(Error::invalid(
            "bad-prefix-groups",
            "required one or more prefixes",
        ));
    }
    if all.len() > MAX_PREFIXES {
        let text = format!("{} prefixes are named, at most {MAX_PREFIXES} may be", all.len());
        return Err(Error::invalid("bad-prefix-groups", text));
    }
    super::lease::Pools::new(&all).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{request, standard_cases};

    fn read(text: &str) -> Vec<Vec<String>> {
        let groups = groups(text).expect("parses");
        groups
            .iter()
            .map(|group| group.iter().map(ToString::to_string).collect())
            .collect()
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        let group = || Group::new(&groups("10.0.0.0/24, fd00::/64").unwrap()).unwrap();
        standard_cases::<NetworkService, _>(group, request()).await;
    }

    #[test]
    fn brackets_make_one_group_and_bare_prefixes_groups_of_one() {
        assert_eq!(
            read("[172.16.0.0/30, 10.0.0.5/24],[fd00::/64] ,192.168.0.0/16"),
            [
                vec!["172.16.0.0/30", "10.0.0.0/24"],
                vec!["fd00::/64"],
                vec!["192.168.0.0/16"]
            ]
        );
        assert_eq!(read("169.254.0.0/16"), [["169.254.0.0/16"]]);
    }

    #[test]
    fn what_does_not_parse_is_refused_and_named() {
        for (bad, part) in [
            ("", "required one or more"),
            ("[]", "\"\" is no prefix"),
            ("10.0.0.0/24,", "nothing follows"),
            ("[10.0.0.0/24", "not closed"),
            (
                "[10.0.0.0/24]fd00::/64",
                "a comma is missing before \"fd00::/64\"",
            ),
            ("10.0.0.0/33", "\"10.0.0.0/33\" is no prefix"),
            ("10.0.0.1", "\"10.0.0.1\" is no prefix"),
            ("10.0.0.0/24]", "no prefix"),
            ("10.0.0.0/24,10.0.0.128/25", "overlap"),
            ("[10.0.0.0/24],[10.0.0.0/24]", "overlap"),
        ] {
            let error = groups(bad).expect_err(bad);
            assert!(error.text().contains(part), "{bad}: {error}");
            assert_eq!(error.code(), tonic::Code::InvalidArgument);
        }
        let many: Vec<_> = (0..=256)
            .map(|at| format!("10.{}.{}.0/24", at / 256, at % 256))
            .collect();
        assert!(groups(&many.join(",")).is_err());
    }
}
