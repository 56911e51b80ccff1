// SPDX-License-Identifier: Apache-2.0
//! Refuses entries without a name, and those larger than a registry is ready to keep.
//!
//! **Placement**: first, so that nothing is done or kept for what is refused.
//! **On close**: an entry without a name is refused as well.
//! **Cost**: measures the entry.

use async_trait::async_trait;
use prost::Message as _;

use super::queries::Registry;
use crate::core::{Ctx, Element, Entry, Error, Next, Result};

/// The most bytes of a name: two DNS names and the `@` between them (the form of interdomain names).
pub const MAX_NAME: usize = 512;

/// The most bytes of an entry as it travels.
pub const MAX_ENTRY: usize = 64 * 1024;

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Checks;

#[async_trait]
impl<A: Registry> Element<A> for Checks {
    fn name(&self) -> &'static str {
        "checks"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        check_name::<A>(&message.entry)?;
        check_sizes::<A>(&message.entry)?;
        next.request(ctx, message).await
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        check_name::<A>(&message.entry)?;
        next.close(ctx, message).await
    }
}

fn check_name<A: Registry>(entry: &A::Entry) -> Result<()> {
    if !entry.name().is_empty() {
        return Ok(());
    }
    let text = format!(
        "the {} knows entries by name: Name can not be zero valued",
        A::NAME
    );
    Err(Error::invalid("empty-name", text))
}

fn check_sizes<A: Registry>(entry: &A::Entry) -> Result<()> {
    let (name, size) = (entry.name().len(), entry.encoded_len());
    if name > MAX_NAME {
        let text = format!(
            "cannot register a name of {name} bytes in the {}: {MAX_NAME} are allowed",
            A::NAME
        );
        return Err(Error::invalid("name-too-long", text));
    }
    if size > MAX_ENTRY {
        let name = entry.name();
        let text = format!(
            "cannot register {name:?} with {size} bytes in the {}: {MAX_ENTRY} are allowed; shorten its labels",
            A::NAME
        );
        return Err(Error::invalid("entry-too-large", text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Probe, standard_cases};
    use crate::core::{NsRegistry, NseRegistry};
    use crate::registry::testing::{before, component, endpoint, service, within};

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NseRegistry, _>(|| Checks, endpoint("nse", &["s"])).await;
        standard_cases::<NsRegistry, _>(|| Checks, service("ns", "IP")).await;
    }

    #[tokio::test]
    async fn c40_an_empty_name_is_refused_and_goes_nowhere() {
        let (component, probe) = (component(), Probe::<NseRegistry>::new());
        let chain = before(Checks, &probe);
        let refused = chain
            .request(&within(&component, 1), &mut endpoint("", &["s"]))
            .await;
        let refused = refused.expect_err("is refused");
        assert!(
            refused.text().contains("Name can not be zero valued"),
            "{refused}"
        );
        let refused = chain
            .close(&within(&component, 1), &mut endpoint("", &["s"]))
            .await;
        assert_eq!(refused.expect_err("is refused").reason(), "empty-name");
        assert!(probe.seen().is_empty());
    }

    #[tokio::test]
    async fn sizes_are_bounded_at_the_limit() {
        let (component, probe) = (component(), Probe::<NseRegistry>::new());
        let chain = before(Checks, &probe);
        let ctx = within(&component, 1);
        let longest = "n".repeat(MAX_NAME);
        chain
            .request(&ctx, &mut endpoint(&longest, &["s"]))
            .await
            .expect("fits");
        let longer = chain
            .request(&ctx, &mut endpoint(&format!("{longest}n"), &["s"]))
            .await;
        assert_eq!(longer.expect_err("is too long").reason(), "name-too-long");
        let mut large = endpoint("nse", &["s"]);
        large.entry.path_ids = vec!["x".repeat(MAX_ENTRY)];
        let large = chain.request(&ctx, &mut large).await;
        assert_eq!(large.expect_err("is too large").reason(), "entry-too-large");
        assert_eq!(probe.requests().len(), 1);
    }
}
